"""Trials that need the same artifact: one builds it, the others wait, and the ledger says who built what."""

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
    def __init__(self, root: str, claims, who: str, trial: int, notes: str):
        self.root, self.notes = SharedRoot(root, claims, who, trial), notes

    def live(self) -> None:
        time.sleep(1e6)

    def make(self, hold: str = "", error: Exception | None = None) -> str:
        """Builds until there is a file `hold`, and then fails if there is an error; says so in `notes`."""

        def build(draft: Draft) -> Built:
            Path(self.notes, str(self.root.trial)).touch()
            while hold and not os.path.exists(hold):
                time.sleep(0.05)
            if error:
                raise error
            return Built([write_bytes(draft.uri, "it", str(self.root.trial).encode())], {})

        return self.root.make("thing", {"of": 1}, build).read("it").decode()


def builders(tmp_path: Path, count: int) -> tuple[list, Path]:
    """[the claims, with a seat for each but one, and so many builders], the folder of their notes."""
    (notes := tmp_path / "notes").mkdir(exist_ok=True)
    claims = make_claims(str(tmp_path), count - 1)
    options = {"num_cpus": 0, "max_concurrency": 2}
    remote: Any = ray.remote(Builder).options(**options)
    made = [remote.remote(str(tmp_path), claims, f"who{i}", i, str(notes)) for i in range(count)]
    ray.get([claims.join.remote(f"who{i}", [one.live.remote()]) for i, one in enumerate(made)])
    return [claims, *made], notes


def wait_for(path: Path) -> None:
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end, f"no {path}"
        time.sleep(0.05)


def test_one_builds_and_the_others_wait_for_it(ray_local, tmp_path):
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


def test_another_builds_when_the_builder_dies(ray_local, tmp_path):
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


def test_what_cannot_be_built_fails_at_once_for_all_that_wait_for_it(ray_local, tmp_path):
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
    # A run that goes on with the sweep tries again: what was at fault may be mended.
    (_, again), _ = builders(tmp_path, 1)
    assert ray.get(again.make.remote(), timeout=60) == "0"


def test_another_builds_when_the_builder_fails_for_a_reason_of_its_own(ray_local, tmp_path):
    (_, first, second), notes = builders(tmp_path, 2)
    building = first.make.remote(str(tmp_path / "go"), KeyError("lost"))
    wait_for(notes / "0")
    waiting = second.make.remote()
    (tmp_path / "go").touch()
    assert ray.get(waiting, timeout=60) == "1"
    with pytest.raises(KeyError):
        ray.get(building)


def test_no_more_enter_than_there_are_seats(ray_local, tmp_path):
    (claims, first, *_), _ = builders(tmp_path, 4)
    entering = [claims.enter.remote(f"who{i}") for i in range(4)]
    assert len(ray.wait(entering, num_returns=3, timeout=60)[0]) == 3
    assert len(ray.wait(entering, num_returns=4, timeout=2)[0]) == 3
    ray.kill(first)  # one that has a seat, or one that waits for it
    ray.get(entering, timeout=60)
    more = [claims.enter.remote(f"more{i}") for i in range(2)]
    assert not ray.wait(more, timeout=2)[0]
    ray.get(claims.allow.remote(4))
    assert len(ray.wait(more, num_returns=1, timeout=60)[0]) == 1
    assert len(ray.wait(more, num_returns=2, timeout=2)[0]) == 1
