"""The record of what a run needs: written before an artifact is begun, and named after the results in the end."""

import os
from pathlib import Path

import pytest

from raylabel.errors import InputError
from raylabel.store.artifact import Built, Draft, Root, digest, write_bytes
from raylabel.store.files import write_file
from raylabel.store.uses import FOLDER, Record, RecordedRoot, delete_record, read_record, read_records, write_record

IDENTITY = {"recipe": {"k": 1}}
NAME = f"run-mine-{digest(IDENTITY)}"


@pytest.fixture(params=["disk", "store"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Root:
    if request.param == "store":
        return Root.open(f"{request.getfixturevalue('bucket')}/some runs")
    return Root.open(str(tmp_path))


def driver(root: Root) -> RecordedRoot:
    return RecordedRoot.of(root, "run", "mine", IDENTITY, "raylabel mine")


def build(draft: Draft) -> Built:
    return Built([write_bytes(draft.uri, "a", b"a")], {})


def folder(name: str, x: int) -> str:
    return f"{name}-{digest({'x': x})}"


def uses(root: Root, name: str = NAME) -> tuple[str, ...]:
    record = read_record(root.uri, name)
    assert record
    return record.uses


def test_what_was_found_is_written_before_an_artifact_is_begun(root: Root) -> None:
    root.make("found", {"x": 1}, build)
    first = driver(root)
    first.make("found", {"x": 1}, build)
    assert read_records(root.uri) == {}  # it has begun nothing yet

    def dies(draft: Draft) -> Built:
        assert uses(root) == tuple(sorted([folder("found", 1), folder("new", 2)]))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        first.make("new", {"x": 2}, dies)
    again = driver(root)  # another command, which first finds less
    again.make("other", {"x": 3}, build)
    record = read_record(root.uri, NAME)
    assert record and set(record.uses) == {folder("found", 1), folder("new", 2), folder("other", 3)}
    assert set(record.made) == {folder("new", 2), folder("other", 3)}
    assert (record.run, record.command, record.finished) == ("mine", "raylabel mine", False)


def test_a_finished_run_is_named_after_its_results_and_what_it_did_not_use_is_superseded(root: Root) -> None:
    first = driver(root)
    first.make("old", {"x": 1}, build)
    second = driver(root)  # after the corpus has grown
    second.make("new", {"x": 2}, build)
    second.make("run-mine", {"x": 3}, build)
    second.uses.finish(folder("run-mine", 3))
    (name,) = read_records(root.uri)
    record = read_record(root.uri, name)
    assert name == folder("run-mine", 3) and record and record.finished
    assert record.uses == tuple(sorted([folder("new", 2), folder("run-mine", 3)]))
    assert record.superseded == (folder("old", 1),)
    assert set(record.made) == {*record.uses, folder("old", 1)}

    # The same command again finds all of it, and writes nothing.
    third = driver(root)
    third.make("new", {"x": 2}, build)
    third.make("run-mine", {"x": 3}, build)
    third.uses.finish(folder("run-mine", 3))
    assert read_records(root.uri) == {name: record}
    # What it finds in addition is added; nothing is taken away.
    root.make("more", {"x": 4}, build)
    fourth = driver(root)
    fourth.make("more", {"x": 4}, build)
    fourth.uses.finish(folder("run-mine", 3))
    assert set(uses(root, name)) == {*record.uses, folder("more", 4)}


def test_a_run_without_results_in_the_root_keeps_its_name(root: Root) -> None:
    first = driver(root)
    first.make("old", {"x": 1}, build)
    first.uses.finish()
    assert uses(root) == (folder("old", 1),)
    second = driver(root)  # after the corpus has grown
    second.make("new", {"x": 2}, build)
    assert uses(root) == tuple(sorted([folder("old", 1), folder("new", 2)]))
    second.uses.finish()
    record = read_record(root.uri, NAME)
    assert record and record.finished and read_records(root.uri) == {NAME: record}
    assert (record.uses, record.superseded) == ((folder("new", 2),), (folder("old", 1),))

    third = driver(root)
    third.make("new", {"x": 2}, build)
    third.uses.finish()
    assert read_records(root.uri) == {NAME: record}


def test_a_run_of_an_earlier_version_is_recorded_by_its_command(root: Root) -> None:
    root.make("old", {"x": 1}, build)
    root.make("run-mine", {"x": 2}, build)
    again = driver(root)
    again.make("old", {"x": 1}, build)
    again.make("run-mine", {"x": 2}, build)
    again.uses.finish(folder("run-mine", 2))
    assert set(uses(root, folder("run-mine", 2))) == {folder("old", 1), folder("run-mine", 2)}


def test_a_dropped_run_that_runs_again_needs_only_what_it_uses_now(root: Root) -> None:
    first = driver(root)
    first.make("old", {"x": 1}, build)
    record = read_record(root.uri, NAME)
    assert record
    write_record(root.uri, NAME, Record(**{**vars(record), "dropped": True}))
    driver(root).make("new", {"x": 2}, build)
    record = read_record(root.uri, NAME)
    assert record and not record.dropped
    assert record.uses == (folder("new", 2),) and record.superseded == (folder("old", 1),)


def test_records_are_deleted_and_a_damaged_one_is_an_error(root: Root) -> None:
    driver(root).make("new", {"x": 2}, build)
    delete_record(root.uri, NAME)
    delete_record(root.uri, NAME)
    assert read_records(root.uri) == {}
    for data in b"{", b"[]", b'{"run": "x"}', b'{"unknown": 1}':
        write_file(f"{root.uri}/{FOLDER}/x.json", data)
        with pytest.raises(InputError, match=r"uses/x\.json' does not say what a run needs: restore it"):
            read_records(root.uri)


def test_a_root_without_a_driver_has_no_record(tmp_path: Path) -> None:
    Root.open(str(tmp_path)).make("new", {"x": 2}, build)
    assert os.listdir(tmp_path) == [folder("new", 2)]
