"""Event files, read back by TensorBoard's own reader."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tracked import points, snapshot

from raylabel.evaluate.results import Metric
from raylabel.store.files import list_files, read_file
from raylabel.tracking.snapshot import Snapshot
from raylabel.tracking.tensorboard import FILE, TensorBoard
from raylabel.training.watch import Points

ROW = {"model": "student", "seed": 0, "dataset": "d", "split": "test", "n": 9}


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag → (step, value), as TensorBoard reads the folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        found = accumulator.EventAccumulator(str(folder), {"scalars": 0, "tensors": 0}, purge_orphaned_data=False)
        found.Reload()
    return {tag: [(one.step, one.value) for one in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def expected(of: Points) -> dict[str, list[tuple[float, Any]]]:
    named = {name: [(p["images"], pytest.approx(p[name])) for p in of.curve] for name in ("loss", "accuracy", "lr")}
    named["validation_accuracy"] = [(p["images"], pytest.approx(p["accuracy"])) for p in of.validated]
    return {name: some for name, some in named.items() if some}


@settings(max_examples=15)
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 12), st.booleans(), st.sampled_from([0, 0, 0, 1, 30])), min_size=1, max_size=6
    ),
    seed=st.integers(0, 1),
)
def test_after_kills_and_restarts_each_point_is_there_once(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, bool, int]], seed: int
) -> None:
    """At each step a training has that many points (fewer than before after a crash), a new process may write them,
    and the last bytes of the file may be lost. At last the training is complete, perhaps with other values."""
    folder = tmp_path_factory.mktemp("run")
    board = TensorBoard(str(folder))
    for count, again, lost in steps:
        if again:
            board = TensorBoard(str(folder))
            for file in folder.glob(f"*/{FILE}*"):
                file.write_bytes(file.read_bytes()[: max(0, file.stat().st_size - lost)])
        board.send(snapshot(teacher=points(count, 3)))
    TensorBoard(str(folder)).send(snapshot(teacher=points(12, 3, seed)))
    assert read(folder / "teacher") == expected(points(12, 3, seed))
    assert len(list((folder / "teacher").iterdir())) == 1


def test_events_are_appended_and_keep_their_times(tmp_path: Path) -> None:
    board = TensorBoard(str(tmp_path))
    board.send(snapshot(teacher=points(3)))
    (file,) = (tmp_path / "teacher").iterdir()
    before, inode = file.read_bytes(), file.stat().st_ino
    board.send(snapshot(teacher=points(2)))  # resumed from a checkpoint
    assert file.read_bytes() == before
    TensorBoard(str(tmp_path)).send(snapshot(teacher=points(5)))
    assert file.read_bytes().startswith(before) and file.stat().st_ino == inode and len(file.read_bytes()) > len(before)
    other = TensorBoard(str(tmp_path))
    other.send(snapshot(teacher=points(5, seed=1)))
    (replaced,) = (tmp_path / "teacher").iterdir()
    assert replaced.name > file.name


def test_settings_and_metrics_are_in_a_file_of_the_run(tmp_path: Path) -> None:
    gain = Metric(metric="gain_top1", value=0.05, low=0.01, high=0.09, **ROW)
    one = snapshot(student=points(2))
    TensorBoard(str(tmp_path)).send(one)
    areas = [Metric(metric="curve_area", value=0.5, **ROW)]
    areas.append(Metric(metric="curve_area", value=0.25, **{**ROW, "dataset": "e"}))
    TensorBoard(str(tmp_path)).send(Snapshot(**{**vars(one), "metrics": [gain, *areas], "state": "finished"}))
    assert {tag: [(step, round(value, 6)) for step, value in some] for tag, some in read(tmp_path / "run").items()} == {
        "test_gain_top1/student": [(0, 0.05)],
        "test_gain_top1/student_low": [(0, 0.01)],
        "test_gain_top1/student_high": [(0, 0.09)],
        "test_curve_area/student": [(0, 0.5)],
        "test_curve_area/student on e": [(0, 0.25)],
    }
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(tmp_path / "run"))
    found.Reload()
    (text,) = found.Tensors("settings/text_summary")
    assert json.loads(text.tensor_proto.string_val[0]) == {"select": {"k": 50}, "name": "ünï"}


def test_event_files_in_an_object_store(bucket: str, tmp_path: Path) -> None:
    """The same bytes as on a disk but for the times, and few requests."""
    for count in (2, 4):
        TensorBoard(f"{bucket}/run").send(snapshot(teacher=points(count, 2)))
    for name in list_files(f"{bucket}/run"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(read_file(f"{bucket}/run/{name}"))
    assert read(tmp_path / "teacher") == expected(points(4, 2))
