"""`clean` deletes all that no run needs and nothing else: made-up roots, and what each run needs from what it did."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from roots import Doing, MadeUp, Node, snapshot

from raylabel.inventory import clean as cleaning_module
from raylabel.inventory.clean import clean, plan_cleaning
from raylabel.inventory.contents import read_contents
from raylabel.inventory.needs import Needs
from raylabel.store import files
from raylabel.store.artifact import digest

MANY = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def graphs(draw: st.DrawFn) -> list[Node]:
    """Artifacts, each made from some of those before it."""
    nodes = [Node("shards-x", ()), Node("net", (0,))]
    for number in range(2, draw(st.integers(4, 12))):
        kinds = [kind for kind in ("shards-x", "net", "scores", "thing")]
        kind = draw(st.sampled_from(kinds))
        before = st.sampled_from(range(number))
        if kind == "shards-x":
            inputs: tuple[int, ...] = ()
        elif kind == "scores":
            networks = [n for n in range(number) if nodes[n].kind == "net"]
            shards = [n for n in range(number) if nodes[n].kind == "shards-x"]
            inputs = draw(st.sampled_from(networks)), draw(st.sampled_from(shards))
        else:
            inputs = tuple(sorted(draw(st.sets(before, min_size=1, max_size=3))))
        nodes.append(Node(kind, inputs))
    return nodes


@contextmanager
def made_up(draw: st.DataObject, without_driver: bool) -> Iterator[MadeUp]:
    """A root with several runs and sweeps, in which some commands were repeated."""
    nodes = draw.draw(graphs(), "artifacts")
    folder = tempfile.mkdtemp()
    try:
        root = MadeUp(f"{folder}/runs", nodes)
        targets = st.sets(st.sampled_from(range(len(nodes))), min_size=1, max_size=3)
        doings = [
            Doing(
                name=f"r{number}",
                steps=root.steps(draw.draw(targets, "targets")),
                recorded=not without_driver or draw.draw(st.booleans(), "recorded"),
                sweep=draw.draw(st.booleans(), "sweep"),
            )
            for number in range(draw.draw(st.integers(2, 4), "runs"))
        ]
        for _ in range(draw.draw(st.integers(2, 6), "commands")):
            doing = draw.draw(st.sampled_from(doings), "run")
            stop = draw.draw(st.none() | st.integers(0, len(doing.steps) - 1), "killed at")
            # Of an artifact that was begun without a record, only what its identity names is known.
            inside = draw.draw(st.booleans(), "inside") and (doing.recorded or doing.steps[stop or 0] % 3 != 2)
            root.execute(doing, stop, inside)
        yield root
    finally:
        shutil.rmtree(folder)


def name_of(doing: Doing) -> str:
    """The name by which `clean` knows a run."""
    sweep = f"sweep-{doing.name}-{digest({'name': doing.name})}"
    return sweep if doing.sweep else doing.result or f"run-{doing.name}-{digest({'command': doing.name})}"


def needed(root: MadeUp) -> set[str]:
    """What the runs that were not dropped need: what they touched, all from which that is made, and SCORES which those
    that are not finished could reuse. From what the runs did, not from the root."""
    found: set[str] = set()
    for doing in root.doings:
        if doing.dropped:
            continue
        own = {one for folder in doing.touched if folder in root.folders for one in root.inputs_of(folder)}
        found |= own | doing.touched
        if doing.result or not doing.touched:
            continue
        for number, node in enumerate(root.nodes):
            complete = Path(root.uri, root.folders[number], "manifest.json").exists()
            if node.kind == "scores" and complete and root.folders[node.inputs[0]] in own:
                found |= root.inputs_of(root.folders[number])
    return found


def present(root: MadeUp) -> set[str]:
    return {name for name in os.listdir(root.uri) if name not in ("uses", "drivers")}


def drop_some(draw: st.DataObject, root: MadeUp) -> list[str]:
    """Names of some runs, which count as dropped from now on."""
    could = [doing for doing in root.doings if doing.recorded and doing.touched and not doing.dropped]
    some = draw.draw(st.lists(st.sampled_from(could), unique_by=lambda one: one.name) if could else st.just([]), "drop")
    for doing in some:
        doing.dropped = True
    return [name_of(doing) for doing in some]


def check_rest(root: MadeUp, before: dict[str, bytes], needs: set[str]) -> None:
    """Each file that is needed is as it was, and the runs that are not dropped build only what they had not built."""
    after = snapshot(root.uri)
    for path, data in before.items():
        folder = path.partition("/")[0]
        if folder in needs:
            assert after.get(path) == data, path
    complete = {path.partition("/")[0] for path in before if path.endswith("/manifest.json")}
    for doing in root.doings:
        if not doing.dropped and doing.touched:
            assert not set(root.execute(doing)) & complete & needs


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.os, "fsync", lambda _: None)


@MANY
@given(st.data())
def test_clean_deletes_exactly_what_no_run_needs(draw: st.DataObject) -> None:
    with made_up(draw, without_driver=False) as root:
        for _ in range(2):
            names, before = drop_some(draw, root), snapshot(root.uri)
            contents = read_contents(root.uri)
            assert not Needs(contents).unrecorded
            found = plan_cleaning(contents, names)
            clean(root.uri, found)
            needs = needed(root)
            assert present(root) == needs & {path.partition("/")[0] for path in before}
            assert found.bytes == sum(folder.bytes for name, folder in contents.folders.items() if name not in needs)
            again = read_contents(root.uri)
            assert not [name for name, record in again.records.items() if record.dropped and not record.made]
            assert not plan_cleaning(again).folders
            check_rest(root, before, needs)


@MANY
@given(st.data())
def test_clean_keeps_what_runs_without_a_record_may_need(draw: st.DataObject) -> None:
    with made_up(draw, without_driver=True) as root:
        names, before = drop_some(draw, root), snapshot(root.uri)
        clean(root.uri, plan_cleaning(read_contents(root.uri), names))
        check_rest(root, before, needed(root))


class StoppedError(Exception):
    pass


@contextmanager
def stops_after(calls: int) -> Iterator[None]:
    """Deleting ends after so many calls. The last one deletes only some files of its folder."""
    left = [calls]

    def cut(real, uri: str) -> None:
        left[0] -= 1
        if left[0] > 0:
            return real(uri)
        if left[0] == 0 and os.path.isdir(uri):
            for path in sorted(Path(uri).rglob("*"), reverse=True)[::2]:  # in no order, as a store does it
                path.unlink() if path.is_file() else None
        raise StoppedError

    with pytest.MonkeyPatch.context() as patch:
        for name in ("delete_file", "delete_folder"):
            real = getattr(files, name)
            patch.setattr(cleaning_module, name, lambda uri, real=real: cut(real, uri))
        yield


@MANY
@given(st.data())
def test_clean_that_is_stopped_leaves_nothing_that_looks_complete_and_is_continued(draw: st.DataObject) -> None:
    with made_up(draw, without_driver=False) as root:
        names, before = drop_some(draw, root), snapshot(root.uri)
        found = plan_cleaning(read_contents(root.uri), names)
        try:
            with stops_after(draw.draw(st.integers(1, 12), "calls")):
                clean(root.uri, found)
        except StoppedError:
            pass
        needs, left = needed(root), snapshot(root.uri)
        complete = {path.partition("/")[0] for path in left if path.endswith("/manifest.json")}
        for folder in complete & set(root.folders):
            assert root.inputs_of(folder) <= complete  # no artifact lacks what it is made from
            assert {path for path in before if path.startswith(f"{folder}/")} <= left.keys()
        for path in left:  # no part is taken for committed that has lost its file
            folder, _, name = path.partition("/")
            if name.startswith("parts/"):
                assert f"{folder}/data-{int(name[6:12])}.bin" in left
        if draw.draw(st.booleans(), "run again"):
            for doing in root.doings:
                if doing.dropped:
                    root.execute(doing)
            for path, data in snapshot(root.uri).items():
                assert "/data-" not in path or data == before.get(path, data)
            before = snapshot(root.uri)
            needs = needed(root)
        clean(root.uri, plan_cleaning(read_contents(root.uri)))
        assert needs & present(root) == present(root)
        check_rest(root, before, needs)
