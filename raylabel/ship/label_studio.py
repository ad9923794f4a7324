"""Picks as tasks for Label Studio: JSON files of tasks, each with the teacher's class, and the labeling interface."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from raylabel.corpus.config import Kind
from raylabel.errors import InputError
from raylabel.ship.picked import Picked
from raylabel.store.files import is_local

CONFIG = "config.xml"
TASKS = 10_000  # of a file
_CHOICE = "choice"
# What XML 1.0 cannot have, even escaped.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def check_queue(picked: Picked, per_class: int, at_border: bool) -> None:
    """InputError if the picks have no last ranks and those are wanted, or the interface cannot have the name of a
    class."""
    if per_class < 1:
        raise InputError(f"per_class is {per_class}: give at least 1 pick of each class")
    if at_border and not picked.ranked:
        raise InputError(
            f"{picked.picks.uri} was not ranked by a score, so none of its picks are the last ones: give --predictions"
        )
    if bad := [name for name in picked.classes if _NOT_XML.search(name)]:
        raise InputError(f"class {bad[0]!r} has a character that XML cannot have: give --format hf or webdataset")


def interface(kind: Kind, classes: Sequence[str]) -> str:
    """The labeling interface: one choice among the classes."""
    choices = "".join(f"    <Choice value={quoteattr(name)}/>\n" for name in classes)
    return (
        f'<View>\n  <{kind.capitalize()} name="{kind}" value="${kind}"/>\n'
        f'  <Choices name="{_CHOICE}" toName="{kind}" choice="single">\n{choices}  </Choices>\n</View>\n'
    )


def task_files(
    picked: Picked, uri: str, rows: list[dict[str, Any]], said: Mapping[int, dict[str, Any]]
) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of the files of tasks. `uri`: the folder that is exported; `rows`: as `pick_files._Loose` returns
    them; `said`: that of the `Queue`."""
    rows = sorted(rows, key=lambda row: (row["label"], row["rank"]))
    for number, first in enumerate(range(0, len(rows), TASKS)):
        tasks = [
            _task(picked, uri, row, said.get(row["label"] << 32 | row["rank"], {}))
            for row in rows[first : first + TASKS]
        ]
        yield f"tasks-{number:05d}.json", json.dumps(tasks, indent=1, ensure_ascii=False).encode()


def _task(picked: Picked, uri: str, row: dict[str, Any], said: dict[str, Any]) -> dict[str, Any]:
    name, kind, path = picked.classes[row["label"]], picked.corpus.kind, f"{uri}/{row['file']}"
    # Label Studio serves files below LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT, here the folder that has the export, at
    # this address. Objects in a store are served by a storage that is connected to the project.
    local = f"/data/local-files/?d={quote(uri.rpartition('/')[2])}/{row['file']}"
    result = {"from_name": _CHOICE, "to_name": kind, "type": "choices", "value": {"choices": [name]}}
    prediction: dict[str, Any] = {"model_version": f"{picked.picks.name}-{picked.picks.digest}", "result": [result]}
    if picked.picks.info.get("rank") == "softmax":
        prediction["score"] = 1 / (1 + math.exp(-max(-700.0, row["score"])))
    data = {kind: local if is_local(uri) else path, "path": path, "class": name}
    return {"data": data | said | {one: row[one] for one in ("rank", "score", "uri")}, "predictions": [prediction]}
