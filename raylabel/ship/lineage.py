"""From labels to weights: the artifacts that a network depends on, and which of them were given."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow.fs as pafs

from raylabel.models.start import WEIGHTS
from raylabel.ship.shipped import Shipped
from raylabel.store.artifact import Artifact
from raylabel.store.files import filesystem, reading

_DIGEST = re.compile(r"[0-9a-f]{12}")


@dataclass(frozen=True, kw_only=True)
class Step:
    """An artifact, and those that it was made from."""

    artifact: Artifact
    inputs: tuple[str, ...]
    """Their folders."""

    @property
    def folder(self) -> str:
        return self.artifact.uri.rpartition("/")[2]

    @property
    def given(self) -> str:
        """Of weights that raylabel did not train: the name of torchvision's, or the sha256 of the checkpoint. Otherwise
        empty."""
        identity = self.artifact.identity
        weights = "model" in identity or self.artifact.name == WEIGHTS
        source = identity.get("source")
        return source if isinstance(source, str) and weights else ""

    @property
    def foreign(self) -> str:
        """The digest of the weights that its training started from, if they are of another root. Otherwise empty."""
        init = self.artifact.identity.get("init")
        return init if init and not any(folder.endswith(f"-{init}") for folder in self.inputs) else ""


def lineage(shipped: Shipped) -> list[Step]:
    """The artifacts that the network was made from, directly or not, each after its inputs; the network is the last.

    An identity has the digests of the inputs, so they are found in whatever field they are. Only those that are in the
    root are listed.
    """
    root, known = shipped.root, _folders(shipped)
    steps: dict[str, Step] = {}

    def visit(folder: str) -> None:
        if folder in steps:
            return
        artifact = Artifact(f"{root.uri}/{folder}", *folder.rsplit("-", 1))
        inputs = dict.fromkeys(known[one] for one in _strings(artifact.identity) if one in known)
        for one in inputs:
            visit(one)
        steps[folder] = Step(artifact=artifact, inputs=tuple(inputs))

    visit(shipped.network.uri.rpartition("/")[2])
    return list(steps.values())


def _folders(shipped: Shipped) -> dict[str, str]:
    """Digest → folder, of all artifacts in the root; of the SHARDS of the run also the digest of their contents, which
    is what depends on them."""
    fs, path = filesystem(shipped.root.uri)
    with reading(shipped.root.uri):
        names = [info.base_name for info in fs.get_file_info(pafs.FileSelector(path))]
    found = {name.rpartition("-")[2]: name for name in names}
    for folder in shipped.run["artifacts"].values():
        if folder.startswith("shards-"):
            shards = Artifact(f"{shipped.root.uri}/{folder}", *folder.rsplit("-", 1))
            found[shards.info["content"]] = folder
    return {digest: name for digest, name in found.items() if _DIGEST.fullmatch(digest)}


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _strings(one)
    elif isinstance(value, list):
        for one in value:
            yield from _strings(one)
