"""A checkpoint is used only if it is intact, whatever happened to its files."""

import pickle
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raylabel.errors import InputError
from raylabel.store.files import list_files, write_file
from raylabel.training import checkpoint
from raylabel.training.checkpoint import CHECKSUMS, Checkpoints, Writer

FILES = {"model": b"weights" * 100, "momentum": b"more" * 100, "state.json": b'{"step": 1}'}


def at(step: int) -> dict[str, bytes]:
    return {name: data + str(step).encode() for name, data in FILES.items()}


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_the_newest_two_are_kept_and_read(kind, tmp_path, request):
    folder = str(tmp_path / "deep" / "er") if kind == "local" else request.getfixturevalue("bucket") + "/deep/er"
    assert Checkpoints(folder).newest().step == 0
    checkpoints = Checkpoints(folder)
    for step in (10, 20, 30):
        checkpoints.save(step, at(step))
        found = Checkpoints(folder).newest()
        assert (found.step, found.files, found.passed_over) == (step, at(step), ())
    assert {name.partition("/")[0] for name in list_files(folder)} == {f"{step:010d}" for step in (20, 30)}


def test_a_damaged_checkpoint_is_replaced_and_the_intact_one_is_kept_until_then(bucket):
    checkpoints = Checkpoints(f"{bucket}/x")
    for step in (10, 20):
        checkpoints.save(step, at(step))
    write_file(f"{bucket}/x/{20:010d}/model", b"half")
    again = Checkpoints(f"{bucket}/x")
    found = again.newest()
    assert (found.step, found.files) == (10, at(10))
    assert [wrong for wrong in found.passed_over if "0000000020" in wrong and "model" in wrong]
    again.save(15, at(15))  # as by a run that was preempted between the two steps
    assert Checkpoints(f"{bucket}/x").newest().passed_over == ()
    again.save(20, at(20))
    assert Checkpoints(f"{bucket}/x").newest().files == at(20)
    assert {name.partition("/")[0] for name in list_files(f"{bucket}/x")} == {f"{step:010d}" for step in (15, 20)}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(data=st.data())
def test_damaged_checkpoints_are_never_used(data, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.rmtree(folder, ignore_errors=True)
    checkpoints = Checkpoints(str(folder))
    for step in (10, 20):
        checkpoints.save(step, at(step))
    damaged = data.draw(st.sets(st.sampled_from([10, 20]), min_size=1))
    lost = set()
    for step in sorted(damaged):
        file = folder / f"{step:010d}" / data.draw(st.sampled_from([*FILES, CHECKSUMS]))
        content = file.read_bytes()
        kind = data.draw(st.sampled_from(["cut", "flip", "gone", "other", "zeros", "longer"]))
        if kind == "gone":
            file.unlink()
            lost |= {step} if file.name == CHECKSUMS else set()  # as if it had never been completed
        elif kind == "flip":
            at_byte = data.draw(st.integers(0, len(content) - 1))
            flipped = content[at_byte] ^ (1 << data.draw(st.integers(0, 7)))
            file.write_bytes(content[:at_byte] + bytes([flipped]) + content[at_byte + 1 :])
        elif kind == "cut":
            file.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
        elif kind == "zeros":
            file.write_bytes(bytes(len(content)))
        elif kind == "longer":
            file.write_bytes(content + b"\0")
        else:
            (file.parent / "another").write_bytes(b"")
    try:
        found = Checkpoints(str(folder)).newest()
    except InputError as error:
        assert damaged == {10, 20} and lost != {10, 20}
        assert str(folder) in str(error) and "delete that folder" in str(error)
        return
    # A flipped bit in the list of checksums may have no effect: not in a checksum, but in whitespace.
    assert found.step == 0 or found.files == at(found.step)
    assert found.step != 0 or lost == {10, 20}
    assert len(found.passed_over) == len([step for step in (10, 20) if step > found.step])


class Canary:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_in_place_of_a_checkpoint_is_never_loaded(tmp_path):
    canary, folder = tmp_path / "canary", tmp_path / "checkpoints"
    Checkpoints(str(folder)).save(10, at(10))
    evil = pickle.dumps(Canary(canary))
    for name in list_files(str(folder)):
        (folder / name).write_bytes(evil)
    for name in ("state.pt", "optimizer.pkl"):
        (folder / f"{20:010d}").mkdir(exist_ok=True)
        (folder / f"{20:010d}" / name).write_bytes(evil)
    with pytest.raises(InputError, match="no checkpoint is intact"):
        Checkpoints(str(folder)).newest()
    assert not canary.exists()
    pickle.loads(evil)
    assert canary.exists()  # loading the pickle would have created it


def test_the_error_names_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match=f"{tmp_path}/file/checkpoints"):
        Checkpoints(str(tmp_path / "file" / "checkpoints")).save(1, at(1))


def writer(folder: Path, minutes: float = 1e-9, confirm: Callable[[], object] = lambda: None) -> Writer:
    return Writer(Checkpoints(str(folder)), minutes, confirm)


def test_one_checkpoint_is_written_at_a_time(tmp_path, monkeypatch):
    one, go = writer(tmp_path), threading.Event()
    assert one.due()
    one.write(10, lambda: go.wait(30) and at(10) or {})
    assert not one.due()  # it is skipped, not queued
    one.check()
    go.set()
    one.wait()
    assert one.due() and Checkpoints(str(tmp_path)).newest().files == at(10)
    one.write(20, lambda: at(20))
    one.write(30, lambda: at(30))  # the last one waits for the one before
    one.wait()
    assert {name.partition("/")[0] for name in list_files(str(tmp_path))} == {f"{step:010d}" for step in (20, 30)}


def test_checkpoints_are_due_by_time(tmp_path, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now)
    one = writer(tmp_path, minutes=5)
    assert not one.due() and one.note == ""
    now += 299
    assert not one.due() and one.note == "a crash now costs 4 min"
    now += 1
    assert one.due()
    one.write(10, lambda: at(10))
    now += 60  # it took a minute
    one.wait()
    assert one.note == "a crash now costs 1 min"  # the checkpoint has the state at its beginning
    now += 239
    assert not one.due()
    now += 1
    assert one.due()


def test_an_error_of_the_thread_is_raised_at_the_next_check(tmp_path):
    one, ended = writer(tmp_path), threading.Event()
    one.write(10, lambda: {"no/such\0name": b""} if ended.wait(30) else {})
    one.check()
    ended.set()
    with pytest.raises(ValueError, match="null byte"):
        while True:
            one.check()
            time.sleep(0.001)
    assert Checkpoints(str(tmp_path)).newest().step == 0
    one.check()


@pytest.mark.parametrize("when", [0, 1])
def test_a_worker_of_a_driver_that_has_ended_commits_no_checkpoint(when: int, tmp_path):
    calls: list[int] = []

    def confirm() -> None:
        if len(calls) == when:
            raise KeyError("the driver has ended")
        calls.append(1)

    one = writer(tmp_path, confirm=confirm)
    one.write(10, lambda: at(10))
    with pytest.raises(KeyError, match="the driver has ended"):
        one.wait()
    assert not [name for name in list_files(str(tmp_path)) if CHECKSUMS in name or when == 0]
