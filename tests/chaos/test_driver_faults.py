"""A driver is killed at any moment: the same command resumes, and the result is the golden one."""

import os
import re
import signal

import pytest
from harness import Driver, Stage, nothing_changes, stamps

ACTORS = {"cpus": 4, "resources": {"teachers": 3}}
PART = 128  # samples


def die(stage: Stage, file: str, when: str) -> None:
    """Starts a run whose driver is killed around the first rename to a path that matches (see faults.py)."""
    with Driver(stage.spec(**ACTORS, faults={"kill": [file, when]})) as driver:
        assert driver.finish(200) == -signal.SIGKILL, f"the driver was not killed:\n{driver.output()[-5000:]}"
    assert any(re.search(file, path) for path in stamps(stage.root)) == (when == "after")


def committed(stage: Stage) -> dict[str, tuple[int, int, int]]:
    """The files that a later run must not change: those of complete artifacts and of committed parts."""
    found, done = stamps(stage.root), [f"{path.parent}{os.sep}" for path in stage.root.glob("*/manifest.json")]
    for record in stage.root.glob("scores-*/parts/*.json"):
        done += [str(record), *(f"{record.parents[1]}/{kind}-{record.stem}." for kind in ("scores", "rejects"))]
    return {name: found[name] for name in found if name.startswith(tuple(done)) and not name.endswith(".tmp")}


def resume(stage: Stage) -> None:
    """Runs the same command again: it succeeds, and committed files do not change."""
    before = committed(stage)
    assert before
    with Driver(stage.spec(**ACTORS)) as driver:
        driver.must_succeed(250)
    assert before.items() <= stamps(stage.root).items()


def repeat(stage: Stage) -> None:
    """Runs the same command when all is done: no file changes."""
    with nothing_changes(stage.root), Driver(stage.spec(**ACTORS)) as driver:
        driver.must_succeed(100)


@pytest.mark.slow
def test_killed_in_the_middle_of_commits(small: Stage):
    die(small, r"parts/000006\.json$", "torn")
    die(small, r"parts/000009\.json$", "after")
    resume(small)
    small.check()


# In the order in which a run writes them.
COMMITS = [
    *(rf"/shards-\w+-\w+/{name}$" for name in (r"recipe\.json", r"shards-00000\.parquet", r"manifest\.json")),
    *(rf"/scores-\w+/{name}$" for name in (r"recipe\.json", r"parts/000000\.json", r"manifest\.json")),
    *(rf"/duplicates-\w+/{name}$" for name in (r"recipe\.json", r"scratch/.*\.arrow", r"duplicates-00000\.parquet")),
    r"/duplicates-\w+/manifest\.json$",
    *(rf"/picks-\w+/{name}$" for name in (r"recipe\.json", r"scratch/.*\.arrow", r"picks-00001\.parquet")),
    r"/picks-\w+/manifest\.json$",
]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_around_every_kind_of_commit(small: Stage):
    """The runs share one root, so each one gets a little further than the one before."""
    for file in COMMITS:
        for when in ("torn", "before", "after"):
            before = committed(small)
            die(small, file, when)
            assert before.items() <= stamps(small.root).items()
    resume(small)
    small.check()
    repeat(small)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("when", ["torn", "before", "after"])
@pytest.mark.parametrize("file", [r"/scores-000040\.parquet$", r"/rejects-000041\.parquet$", r"parts/000042\.json$"])
def test_killed_around_the_commit_of_a_part(whole: Stage, file: str, when: str):
    die(whole, file, when)
    resume(whole)
    whole.check()
    repeat(whole)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_a_tenth_a_half_and_nine_tenths(whole: Stage):
    parts = len(whole.golden.media) // PART
    for share in (0.1, 0.5, 0.9):
        before = committed(whole)
        with Driver(whole.spec(**ACTORS, teacher={"seconds": 0.05})) as driver:
            driver.wait_until(lambda: len(driver.parts()) >= share * parts)  # noqa: B023
            driver.kill()
        assert not list(whole.root.glob("scores-*/manifest.json")), "the run ended before it was killed"
        assert before.items() <= stamps(whole.root).items()
    resume(whole)
    whole.check()
    repeat(whole)
