"""Made-up roots: runs and sweeps over a random graph of artifacts, which are stopped, killed, or finished.

The artifacts are made by raylabel's own code, with the record of a driver or without one. What each run needs is noted
here, from what it did, independently of what is in the root.
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from raylabel.store.artifact import Built, Draft, Root, digest, write_bytes, write_recipe
from raylabel.store.files import write_file
from raylabel.store.parts import commit_part
from raylabel.store.uses import RecordedRoot
from raylabel.sweep.claims import Build, Ledger


class KilledError(BaseException):
    """In place of SIGKILL."""


@dataclass(frozen=True)
class Node:
    """An artifact of the graph."""

    kind: str
    inputs: tuple[int, ...]
    """Numbers of the artifacts from which it is made. Of SCORES: the network, then the SHARDS."""


@dataclass
class Doing:
    """A run or a sweep, and what it did so far."""

    name: str
    steps: tuple[int, ...]
    """The artifacts that it uses, each after its inputs."""
    recorded: bool = True
    """Whether it has a driver that records it; earlier versions had none."""
    sweep: bool = False
    touched: set[str] = field(default_factory=set)
    """Folders that it needs: those that it began, and those that existed when it last began one; without a record,
    those that it began first, and what they are made from."""
    result: str = ""
    """The folder of its results, once it is finished."""
    dropped: bool = False


class MadeUp:
    """A root in which runs are carried out."""

    def __init__(self, uri: str, nodes: Sequence[Node]):
        self.uri, self.nodes, self.doings = uri, nodes, list[Doing]()
        self.root = Root.open(uri)
        self.folders: list[str] = []
        for number, node in enumerate(nodes):
            self.folders.append(f"{node.kind}-{digest(self._identity(number))}")

    def steps(self, targets: Iterable[int]) -> tuple[int, ...]:
        """The targets and all from which they are made, in order."""
        found: set[int] = set()
        for target in targets:
            self._add(target, found)
        return tuple(sorted(found))

    def inputs_of(self, folder: str) -> set[str]:
        """The folder of an artifact, and those of all from which it is made."""
        return {self.folders[number] for number in self.steps([self.folders.index(folder)])}

    def execute(self, doing: Doing, stop: int | None = None, inside: bool = False) -> list[str]:
        """Carries the run out; the folders that it built. It is killed when it comes to its step `stop`, or while it
        builds that step."""
        if doing not in self.doings:
            self.doings.append(doing)
        if doing.dropped:
            doing.dropped, doing.result = False, ""
            doing.touched.clear()
        built: list[str] = []
        made = {
            folder
            for step, folder in enumerate(self.folders)
            if self.root.find(self.nodes[step].kind, self._identity(step))
        }
        exist = made & {self.folders[step] for step in doing.steps}
        root = self.root
        if doing.recorded:
            kind = "sweep" if doing.sweep else "run"
            root = RecordedRoot.of(self.root, kind, doing.name, {"command": doing.name}, f"raylabel {doing.name}")
            for step in doing.steps:  # as pipelines/existing.py does
                root.find(self.nodes[step].kind, self._identity(step))
        sweep = f"sweep-{doing.name}-{digest({'name': doing.name})}" if doing.sweep else ""
        ledger = Ledger.read(f"{self.uri}/{sweep}/ledger.json") if sweep else Ledger()
        if sweep:
            doing.touched |= {sweep, *exist} if doing.recorded else {sweep}
            root.begins(sweep)
            write_recipe(f"{self.uri}/{sweep}", f"sweep-{doing.name}", {"name": doing.name})
        try:
            for position, step in enumerate(doing.steps):
                if position == stop and not inside:
                    raise KilledError
                folder = self.folders[step]
                if folder not in made:
                    has_begun = self.root.has(f"{folder}/recipe.json")
                    if doing.recorded:
                        doing.touched |= {folder, *exist}
                    elif not has_begun:
                        doing.touched |= self.inputs_of(folder)
                    built.append(folder)
                    if sweep:
                        build = Build(artifact=folder, trial=0, continued=has_begun)
                        ledger = Ledger(builds=(*ledger.builds, build))
                        write_file(f"{self.uri}/{sweep}/ledger.json", json.dumps(asdict(ledger)).encode())
                # The artifacts of trials are made by other processes, which have the plain root.
                (self.root if sweep else root).make(
                    self.nodes[step].kind, self._identity(step), self._builder(step, position == stop)
                )
            doing.touched |= {self.folders[step] for step in doing.steps}
            doing.result = self._finish(doing, root, sweep)
            doing.touched.add(doing.result)
        except KilledError:
            pass
        return built

    def _finish(self, doing: Doing, root: Root, sweep: str) -> str:
        artifacts = {self.folders[step]: self.folders[step] for step in doing.steps}
        summary = {"gain": {"value": 0.05, "low": 0.01, "high": 0.09}}

        def build(draft: Draft) -> Built:
            return Built([write_bytes(draft.uri, "summary.json", json.dumps(summary).encode())], {})

        run = root.make(f"run-{doing.name}", {"settings": {"name": doing.name}, "artifacts": artifacts}, build)
        result = f"{run.name}-{run.digest}"
        if sweep:
            doing.touched.add(result)
            write_file(f"{self.uri}/{sweep}/sweep.json", json.dumps({"run": run.uri}).encode())
            result = sweep
        if isinstance(root, RecordedRoot):
            root.uses.finish(result)
        return result

    def _builder(self, step: int, dies: bool):
        def build(draft: Draft) -> Built:
            files = []
            for part in (0, 1):
                files.append(write_bytes(draft.uri, f"data-{part}.bin", f"{step} {part}".encode()))
                commit_part(draft.uri, part, files[-1:], {"rows": 1})
                if dies:
                    write_bytes(draft.scratch("checkpoints/1"), "checksums.json", b"{}")
                    raise KilledError
            return Built(files, self._info(step))

        return build

    def _identity(self, step: int) -> dict:
        """Refers to the inputs in each of the ways of raylabel: by digest, by content, in a URI; see also `_info`."""
        node = self.nodes[step]
        of = [self.folders[number] for number in node.inputs]
        if node.kind == "scores":
            source = {"model": of[0].rpartition("-")[2], "view": {"size": step}}
            return {"source": source, "shards": self._content(node.inputs[1]), "unit": [64, 2]}
        if step % 3 == 0:
            return {"n": step, "corpus": {"uri": [f"{self.uri}/{one}/data-0.bin" for one in of]}}
        if step % 3 == 1:
            return {"n": step, "of": {"nested": [one.rpartition("-")[2] for one in of]}}
        return {"n": step}

    def _info(self, step: int) -> dict:
        node = self.nodes[step]
        info: dict = {"seconds": 1.0}
        if node.kind.startswith("shards-"):
            info["content"] = self._content(step)
        if step % 3 == 2 and node.kind != "scores":
            info["media"] = [self.folders[number] for number in node.inputs]
        return info

    def _content(self, step: int) -> str:
        return digest({"content": step})

    def _add(self, target: int, found: set[int]) -> None:
        if target not in found:
            found.add(target)
            for one in self.nodes[target].inputs:
                self._add(one, found)


def snapshot(folder: str) -> dict[str, bytes]:
    """Path → bytes of all files below a folder."""
    return {
        os.path.relpath(path, folder): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()
    }
