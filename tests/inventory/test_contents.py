"""What a root holds: sizes, references, leftovers, and what is not of raylabel; on a disk and in S3."""

import io
import os
import re
import shutil
import time
import uuid
from pathlib import Path

import pytest
from cloud import Cloud
from rich.console import Console
from roots import Doing, MadeUp, Node

from raylabel.errors import InputError
from raylabel.inventory.clean import clean, plan_cleaning
from raylabel.inventory.contents import Contents, Folder, read_contents
from raylabel.inventory.needs import Needs
from raylabel.inventory.show import print_cleaning, print_contents
from raylabel.store.artifact import Built, Root, write_bytes
from raylabel.store.files import list_files, write_file
from raylabel.store.names import DEDUPLICATION, PREDICTION
from raylabel.store.uses import RecordedRoot, read_records

NODES = [Node("shards-x", ()), Node("net", (0,)), Node("scores", (1, 0)), Node("picks", (2,)), Node("student", (3, 1))]


@pytest.fixture
def root(tmp_path: Path) -> MadeUp:
    """Two finished runs that share a network and its SCORES."""
    made = MadeUp(str(tmp_path / "runs"), [*NODES, Node("picks", (2,)), Node("student", (5, 1))])
    made.execute(Doing("one", made.steps([4])))
    made.execute(Doing("two", made.steps([6])))
    return made


def shown(root: str, artifacts: bool = False, width: int = 80) -> list[str]:
    out = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    print_contents(root, read_contents(root), artifacts, out)
    assert isinstance(out.file, io.StringIO)
    return [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in out.file.getvalue().splitlines()]


def test_the_sizes_are_those_of_the_files(root: MadeUp) -> None:
    for name, folder in read_contents(root.uri).folders.items():
        of = Path(root.uri, name)
        assert folder.bytes == sum(p.stat().st_size for p in of.rglob("*") if p.is_file() and p.parent.name != "parts")


def test_runs_and_kinds_are_shown_in_80_columns(root: MadeUp) -> None:
    needs = Needs(read_contents(root.uri))
    first, second = needs.runs
    text = shown(root.uri)
    assert max(map(len, text)) <= 80
    for run, other in ((first, second), (second, first)):
        (line,) = [line.split() for line in text if line.startswith(run.name)]
        assert line[1] == "finished" and line[3] == "+5.0"
        sizes = {name: folder.bytes for name, folder in needs.contents.folders.items()}
        for shown_size, names in ((line[4:6], run.needs), (line[6:8], run.needs - other.needs)):
            assert float(shown_size[0]) == pytest.approx(sum(sizes[name] for name in names) / 1e3, rel=0.01)
    assert [line.split()[0:2] for line in text if line.startswith(("picks ", "net "))] == [["net", "1"], ["picks", "2"]]
    lines = shown(root.uri, artifacts=True, width=400)
    at = next(i for i, line in enumerate(lines) if line.startswith("scores-"))
    assert lines[at].endswith("complete")
    assert lines[at + 1] == f"made of: {root.folders[1]}, {root.folders[0]}"
    assert lines[at + 2] == f"needed by: {first.name}, {second.name}"


def test_what_is_not_of_raylabel_is_never_deleted(root: MadeUp) -> None:
    mine = Path(root.uri)
    write_file(f"{root.uri}/notes.txt", b"mine")
    write_file(f"{root.uri}/photos-0123456789ab/recipe.json", b'{"name": "photos", "identity": {"eggs": 2}}')
    write_file(f"{root.uri}/cakes-0123456789ab/recipe.json", b"two eggs, and " + root.folders[5].encode())
    write_file(f"{root.uri}/sweep-of-0123456789ab/broom.txt", b"mine")
    write_file(f"{root.uri}/pilot-0123456789ab/x", b"mine")
    write_file(f"{root.uri}/run-0123456789ab/y", b"mine")
    before = {path: path.read_bytes() for path in mine.rglob("*") if path.is_file() and "uses" not in path.parts}
    for unrecorded in False, True:
        clean(root.uri, plan_cleaning(read_contents(root.uri), unrecorded=unrecorded))
        assert {path for path in mine.rglob("*") if path.is_file() and "uses" not in path.parts} == before.keys()
    (two,) = [run.name for run in Needs(read_contents(root.uri)).runs if "two" in run.name]
    found = plan_cleaning(read_contents(root.uri), [two], unrecorded=True)
    clean(root.uri, found)
    # A file of the user names one of the artifacts of the dropped run: what that is made of stays, too.
    assert {one.name for one in found.folders} == {two, root.folders[6]}
    assert (mine / "notes.txt").exists() and (mine / "sweep-of-0123456789ab/broom.txt").exists()
    assert any("not made by raylabel, and never deleted:" in line for line in shown(root.uri))


def test_what_killed_processes_left_is_deleted(root: MadeUp) -> None:
    ids = [uuid.uuid4().hex for _ in range(6)]
    old, new = f".probe-{ids[0]}", f".probe-{ids[1]}"
    for name in old, new, f"pilot-{ids[2]}/scores-0123456789ab/x", f"pilot-{ids[3]}/pretrain/scratch/x":
        write_file(f"{root.uri}/{name}", b"left")
    long_ago = time.time() - 7200
    os.utime(f"{root.uri}/{old}", (long_ago, long_ago))
    root.execute(Doing("three", root.steps([6])), stop=5, inside=True)  # finds all
    draft = Doing("four", (0,))
    temporary = f"uses/{draft.name}.json.{ids[4]}.tmp", f"drivers/x.json.{ids[5]}.tmp"
    for name in temporary:
        write_file(f"{root.uri}/{name}", b"left")
    found = plan_cleaning(read_contents(root.uri))
    assert not found.folders
    assert {one.name for one in found.left} == {old, f"pilot-{ids[2]}", f"pilot-{ids[3]}", temporary[0]}
    assert found.bytes == 4 * 4
    clean(root.uri, found)
    assert (Path(root.uri, new)).exists() and Path(root.uri, temporary[1]).exists()  # maybe of a run that starts now
    assert not list(Path(root.uri).glob("pilot-*")) and not read_contents(root.uri).left


def test_a_root_of_an_earlier_version_is_listed_and_only_deleted_if_that_is_asked_for(root: MadeUp) -> None:
    stopped = Doing("old", root.steps([6]), recorded=False)
    root.execute(stopped, stop=3)
    shutil.rmtree(Path(root.uri, "uses"))
    write_file(f"{root.uri}/run-old-0123456789ab/x", b"")
    contents = read_contents(root.uri)
    one, two = sorted(run.name for run in Needs(contents).runs)
    assert not plan_cleaning(contents).folders and not plan_cleaning(contents, unrecorded=True).folders
    clean(root.uri, plan_cleaning(contents, [two]))
    gone = {root.folders[5], root.folders[6], two}
    assert {name for name in (*root.folders, one, two) if not Path(root.uri, name).exists()} == gone

    # What is in no record and of no finished run stays, with all that it is made of, until it is asked for.
    root.execute(Doing("older", root.steps([6]), recorded=False), stop=4)
    contents = read_contents(root.uri)
    assert Needs(contents).unrecorded == {root.folders[5]}
    kept = plan_cleaning(contents, [one])
    assert {name.name for name in kept.folders} == {one, root.folders[3], root.folders[4]}
    assert any(line.startswith("in no record: 1 folder") for line in shown(root.uri))
    clean(root.uri, plan_cleaning(contents, [one], unrecorded=True))
    assert not [name for name in root.folders if Path(root.uri, name).exists()] and not read_records(root.uri)


def test_scores_that_an_unfinished_run_could_reuse_are_kept(tmp_path: Path) -> None:
    """The corpus has grown: the run has other SHARDS, and the same network."""
    others = Node("shards-x", ()), Node("net", (0,)), Node("scores", (4, 0)), Node("scores", (1, 3))
    root = MadeUp(str(tmp_path), [*NODES[:3], *others])
    root.execute(Doing("before", root.steps([2, 5])))
    (name,) = [run.name for run in Needs(read_contents(root.uri)).runs]
    root.execute(grown := Doing("grown", (0, 1, 3, 6)), stop=3)
    found = plan_cleaning(read_contents(root.uri), [name])
    assert {one.name for one in found.folders} == {name, root.folders[4], root.folders[5]}
    clean(root.uri, found)
    root.execute(grown)
    (rest,) = plan_cleaning(read_contents(root.uri)).folders
    assert (rest.name, rest.why) == (root.folders[2], f"only needed by {name}, which was dropped")


def test_what_a_run_replaced_is_deleted_without_a_question_of_which_run(tmp_path: Path) -> None:
    root = Root.open(str(tmp_path))

    def build(draft) -> Built:
        return Built([write_bytes(draft.uri, "a", b"a")], {})

    old = RecordedRoot.of(root, "run", "mine", {}, "").make("scores", {"corpus": 1}, build)
    again = RecordedRoot.of(root, "run", "mine", {}, "")
    again.make("scores", {"corpus": 2}, build)
    run = again.make("run-mine", {"of": 2}, build)
    again.uses.finish(f"run-mine-{run.digest}")
    (one,) = plan_cleaning(read_contents(root.uri)).folders
    assert one.name == f"scores-{old.digest}" and one.why == f"an earlier command of run-mine-{run.digest} used it"


def test_a_damaged_file_of_an_artifact_is_an_error(root: MadeUp) -> None:
    write_file(f"{root.uri}/{root.folders[2]}/manifest.json", b"{")
    with pytest.raises(InputError, match=f"{root.folders[2]}/manifest.json.*restore the file, or delete the folder"):
        read_contents(root.uri)


@pytest.mark.parametrize(
    "name, error",
    [
        ("run-x-0123456789ab", "there is no run 'run-x-0123456789ab': give one of 'run-one-"),
        ("{net}", "is no run, and 'run-one-.*' and 1 more|is no run, and 'run-one-.*need it: drop the runs that need"),
    ],
)
def test_only_runs_can_be_dropped(root: MadeUp, name: str, error: str) -> None:
    with pytest.raises(InputError, match=error):
        plan_cleaning(read_contents(root.uri), [name.replace("{net}", root.folders[1])])


def test_folders_that_refer_to_each_other_are_deleted_together() -> None:
    def folder(name: str, own: str, *others: str) -> Folder:
        return Folder(name=name, complete=True, bytes=0, known_as=frozenset({own}), digests=frozenset(others))

    some = [
        folder("a", "1", "2"),
        folder("b", "2", "1", "3"),
        folder("c", "3", "4"),
        folder("d", "4"),
        folder("e", "5"),
    ]
    needs = Needs(Contents(folders={one.name: one for one in some}))
    assert needs.order({"a", "b", "c", "d", "e"}) == [["e"], ["a", "b"], ["c"], ["d"]]
    assert needs.order({"a", "c", "d"}) == [["a", "c"], ["d"]]


@pytest.mark.parametrize("kind, name", [(PREDICTION, "scores"), (DEDUPLICATION, "pictures")])
def test_a_prediction_is_listed_and_its_scores_are_deleted_with_it(root: MadeUp, kind: str, name: str) -> None:
    recorded = RecordedRoot.of(Root.open(root.uri), kind, "digits", {"to": "out.csv"}, f"raylabel {kind}")
    network = root.folders[1]
    made = recorded.make(name, {"source": network.rpartition("-")[2]}, lambda _: Built([], {}))
    scores = made.uri.rpartition("/")[2]
    for state in "unfinished", "finished":
        contents = read_contents(root.uri)
        (run,) = [one for one in Needs(contents).runs if one.name.startswith(f"{kind}-digits-")]
        assert (run.state, run.command) == (state, f"raylabel {kind}") and {scores, network} <= run.needs
        assert plan_cleaning(contents).folders == ()
        assert [one.name for one in plan_cleaning(contents, [run.name]).folders] == [scores]
        recorded.uses.finish()
    assert any(line.startswith(f"{kind}-digits-") and "finished" in line for line in shown(root.uri))


def test_a_root_in_an_object_store(bucket: str, server: Cloud) -> None:
    """It is read with few requests, and `clean` deletes what it deletes on a disk."""
    uri = f"{bucket}/some runs"
    root = MadeUp(uri, [*NODES, Node("picks", (2,)), Node("student", (5, 1))])
    root.execute(Doing("one", root.steps([4])))
    root.execute(killed := Doing("two", root.steps([6])), stop=4, inside=True)
    write_file(f"{uri}/notes.txt", b"mine")
    write_file(f"{uri}/tracking/run-0123456789ab/student/events", b"curves")
    with server.counting() as requests:
        contents = read_contents(uri)
    count = len(contents.folders)
    assert count == len(NODES) + 3 and contents.others == ("notes.txt",)
    assert len(requests.of("", "LIST")) <= 4 and len(requests) <= 8 + 5 * count
    (one,) = [run.name for run in Needs(contents).runs if run.state == "finished"]
    clean(uri, plan_cleaning(contents, [one]))
    left = {name.partition("/")[0] for name in list_files(uri)}
    assert left == {*root.folders, "uses", "notes.txt", "tracking"} - {root.folders[3], root.folders[4]}
    assert root.execute(killed) == [root.folders[6]]
    assert not plan_cleaning(read_contents(uri)).folders


def test_the_plan_of_a_cleaning_says_why(root: MadeUp, capsys: pytest.CaptureFixture[str]) -> None:
    contents = read_contents(root.uri)
    first, second = (run.name for run in Needs(contents).runs)
    print_cleaning(contents, plan_cleaning(contents, [second]))
    out = capsys.readouterr().out
    assert f"drops {second} (finished, " in out and "which other runs need" in out
    for name in second, root.folders[5], root.folders[6]:
        assert re.search(rf"{name} +[\d.]+ k?B +only needed by {second}", out)
    assert first not in out
