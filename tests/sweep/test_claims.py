"""Trials that need the same artifact: one builds it, the others wait, and the ledger has the builds."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.exceptions

from raylabel.errors import InputError, find_input_error
from raylabel.store.artifact import Built, Draft, write_bytes
from raylabel.sweep.claims import Ledger, SharedRoot, make_claims


class Builder:
    def __init__(self, root: str, claims, worker: str, trial: int, notes: str):
        self.root, self.notes = SharedRoot(root, claims, worker, trial), notes

    def live(self) -> None:
        time.sleep(1e6)

    def make(self, hold: str = "", error: Exception | None = None) -> str:
        """Builds until the file `hold` exists, then raises the error if given. Touches a file in `notes` before."""

        def build(draft: Draft) -> Built:
            Path(self.notes, str(self.root.trial)).touch()
            while hold and not os.path.exists(hold):
                time.sleep(0.05)
            if error:
                raise error
            return Built([write_bytes(draft.uri, "it", str(self.root.trial).encode())], {})

        return self.root.make("thing", {"of": 1}, build).read("it").decode()


def builders(tmp_path: Path, count: int) -> tuple[list, Path]:
    """([claims with a limit of count - 1, and `count` builders], the folder of their notes)."""
    (notes := tmp_path / "notes").mkdir(exist_ok=True)
    claims = make_claims(str(tmp_path), count - 1)
    options = {"num_cpus": 0, "max_concurrency": 2}
    remote: Any = ray.remote(Builder).options(**options)
    made = [remote.remote(str(tmp_path), claims, f"worker{i}", i, str(notes)) for i in range(count)]
    ray.get([claims.join.remote(f"worker{i}", [one.live.remote()]) for i, one in enumerate(made)])
    return [claims, *made], notes


def wait_for(path: Path) -> None:
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end, f"no {path}"
        time.sleep(0.05)


@pytest.mark.long
def test_one_trial_builds_and_the_others_wait(ray_local, tmp_path):
    (claims, first, *others), notes = builders(tmp_path, 4)
    building = first.make.remote(str(tmp_path / "go"))
    wait_for(notes / "0")
    waiting = [one.make.remote() for one in others]
    assert not ray.wait([building, *waiting], timeout=2)[0]
    (tmp_path / "go").touch()
    assert ray.get([building, *waiting]) == ["0"] * 4
    assert [path.name for path in notes.iterdir()] == ["0"]
    ledger = Ledger.read(f"{tmp_path}/ledger.json")
    assert ledger == ray.get(claims.get.remote())
    assert [(build.trial, build.done) for build in ledger.builds] == [(0, True)]


def test_another_trial_builds_if_the_builder_is_killed(ray_local, tmp_path):
    (claims, first, second), notes = builders(tmp_path, 2)
    building = first.make.remote(str(tmp_path / "never"))
    wait_for(notes / "0")
    waiting = second.make.remote()
    ray.kill(first)
    assert ray.get(waiting, timeout=60) == "1"
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(building)
    ledger: Ledger = ray.get(claims.get.remote())
    assert [(build.trial, build.done) for build in ledger.builds] == [(0, False), (1, True)]


@pytest.mark.long
def test_an_input_error_fails_all_trials_that_need_the_artifact(ray_local, tmp_path):
    (_, first, *others), notes = builders(tmp_path, 3)
    building = first.make.remote(str(tmp_path / "go"), InputError("the loss is not a number"))
    wait_for(notes / "0")
    waiting = [one.make.remote() for one in others]
    (tmp_path / "go").touch()
    for one in [building, *waiting, others[0].make.remote()]:
        with pytest.raises(ray.exceptions.RayTaskError) as raised:
            ray.get(one, timeout=60)
        assert str(find_input_error(raised.value)) == "the loss is not a number"
    assert [path.name for path in notes.iterdir()] == ["0"]
    # A resumed sweep tries again: the input may be fixed.
    (_, again), _ = builders(tmp_path, 1)
    assert ray.get(again.make.remote(), timeout=60) == "0"


@pytest.mark.long
def test_another_trial_builds_if_the_builder_raises_another_error(ray_local, tmp_path):
    (_, first, second), notes = builders(tmp_path, 2)
    building = first.make.remote(str(tmp_path / "go"), KeyError("lost"))
    wait_for(notes / "0")
    waiting = second.make.remote()
    (tmp_path / "go").touch()
    assert ray.get(waiting, timeout=60) == "1"
    with pytest.raises(KeyError):
        ray.get(building)


@pytest.mark.slow
def test_no_more_workers_enter_than_the_limit(ray_local, tmp_path):
    (claims, first, *_), _ = builders(tmp_path, 4)
    entering = [claims.enter.remote(f"worker{i}") for i in range(4)]
    assert len(ray.wait(entering, num_returns=3, timeout=60)[0]) == 3
    assert len(ray.wait(entering, num_returns=4, timeout=2)[0]) == 3
    ray.kill(first)  # either an active or a waiting worker
    ray.get(entering, timeout=60)
    more = [claims.enter.remote(f"more{i}") for i in range(2)]
    assert not ray.wait(more, timeout=2)[0]
    ray.get(claims.allow.remote(4))
    assert len(ray.wait(more, num_returns=1, timeout=60)[0]) == 1
    assert len(ray.wait(more, num_returns=2, timeout=2)[0]) == 1
