"""A driver, or a task, is killed while a corpus is compared with itself and with a test set: the same files result."""

import hashlib
import random
import re
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from copies import COPIES, encoded, photographs
from driver import Spec
from harness import Driver, command_line, kill_one, nothing_changes, stamps

ARTIFACTS = ("pictures", "duplicates", "copies", "pairs")
TASKS = re.compile(r"ray::(gather|_compare|_divide|_train|_decide)\b")
# So that there are many tasks to lose: 5 parts, 6 partitions of which 2 are compared together, 3 tasks that divide.
CONSTANTS = {
    "raylabel.selection.pairs:TASK_PAIRS": 1,
    "raylabel.selection.copies:WHOLE": 100,
    "raylabel.selection.copies:PARTITION": 100,
    "raylabel.selection.copies:BUCKET": 600,
    "raylabel.selection.copies:MAPPED": 200,
}
Files = dict[str, str]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """600 pictures in two files, some of them copies of others, and a test set in which some are."""
    rng, some, folder = np.random.default_rng(0), photographs(540), tmp_path_factory.mktemp("pictures")
    kinds = list(COPIES.values())

    def altered(pictures: list) -> list:
        return [kinds[i % len(kinds)](one, rng) for i, one in enumerate(pictures)]

    whole = [encoded(one) for one in [*some[40:], *altered(some[100:160])]] + [encoded(one) for one in some[60:100]]
    test = [encoded(one) for one in [*some[:40], *altered(some[200:240]), *some[300:305]]]
    for name, media in (("0", whole[:400]), ("1", whole[400:]), ("test", test)):
        pq.write_table(pa.table({"image": media}), folder / f"{name}.parquet", row_group_size=100)
    return folder, folder / "test.parquet"


@pytest.fixture
def spec(corpus: tuple[Path, Path], tmp_path: Path) -> Callable[..., Spec]:
    def of(**settings) -> Spec:
        folder, test = corpus
        shards = [str(folder / f"{name}.parquet") for name in "01"]
        given = {"cpus": 2, "root": str(tmp_path / "root"), "constants": CONSTANTS, **settings}
        return Spec(corpus=shards, against=[str(test)], **given)

    return of


@pytest.fixture(scope="module")
def undisturbed(corpus: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Files:
    root, (folder, test) = tmp_path_factory.mktemp("undisturbed"), corpus
    shards = [str(folder / f"{name}.parquet") for name in "01"]
    with Driver(Spec(corpus=shards, against=[str(test)], cpus=2, root=str(root), constants=CONSTANTS)) as driver:
        driver.must_succeed(200)
    files = committed(root)
    tables = {
        name: pa.concat_tables([pq.read_table(path) for path in root.glob(f"{name}-*/{name}-*.parquet")])
        for name in ("pairs", "copies")
    }
    in_a_set = [row for row in tables["pairs"].to_pylist() if row["kind"] != "below"]
    assert len({row["key"] for row in in_a_set}) >= 40 and len(tables["copies"]) >= 55
    assert sum("/pairs-" in name for name in files) >= 4
    return files


def committed(root: Path) -> Files:
    """Artifact and file → its sha256; AssertionError if an artifact is not complete, or has other files."""
    found: Files = {}
    for name in ARTIFACTS:
        folders = list(root.glob(f"{name}-*"))
        assert len(folders) == (2 if name == "pictures" else 1)
        for folder in folders:
            assert (folder / "manifest.json").exists() and not (folder / "scratch").exists()
            for path in folder.glob("*.parquet"):
                found[f"{folder.name}/{path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


# In the order in which a run writes them.
COMMITS = [
    r"/copies-\w+/recipe\.json$",
    *(
        rf"/copies-\w+/scratch/copies/{name}$"
        for name in (r"centroids\.npy", r"rows-.+\.bin", r"starts-.+\.npy", r"pairs-000001\.parquet")
    ),
    r"/copies-\w+/copies-00000\.parquet$",
    r"/copies-\w+/manifest\.json$",
    *(rf"/pairs-\w+/{name}$" for name in (r"pairs-\d+\.parquet", r"parts/\d+\.json", r"manifest\.json")),
]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_driver_is_killed_around_every_kind_of_commit(spec, undisturbed: Files, tmp_path: Path):
    """The runs share one root, so each one gets a little further than the one before. What is complete stays."""
    root = tmp_path / "root"
    for file in COMMITS:
        for when in ("torn", "after"):
            before = {
                name: stamp
                for name, stamp in (stamps(root) if root.exists() else {}).items()
                if (Path(name).parent / "manifest.json").exists()
            }
            with Driver(spec(faults={"kill": [file, when]})) as driver:
                assert driver.finish(200) == -signal.SIGKILL, f"{file} {when}:\n{driver.output()[-5000:]}"
            if "+" not in file.rpartition("/")[2]:  # of several files, others may be there
                assert any(re.search(file, path) for path in stamps(root)) == (when == "after")
            assert before.items() <= stamps(root).items()
    with Driver(spec()) as driver:
        driver.must_succeed(200)
    assert committed(root) == undisturbed
    with nothing_changes(root), Driver(spec()) as driver:
        driver.must_succeed(100)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("file", [r"/scratch/copies/pairs-\d+\.parquet$", r"/pairs-\w+/parts/\d+\.json$"])
def test_tasks_that_compare_are_killed(spec, undisturbed: Files, tmp_path: Path, file: str):
    """Some while they write, since each of these renames takes a second."""
    root, chance, killed = tmp_path / "root", random.Random(0), 0
    with Driver(spec(faults={"slow": [file, 1.0]})) as driver:
        while killed < 3:
            driver.wait_until(
                lambda: kill_one([pid for pid in driver.workers() if TASKS.match(command_line(pid))], chance)
            )
            killed += 1
        driver.must_succeed(250)
    assert committed(root) == undisturbed
