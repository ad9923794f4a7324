"""What the readers of standard sets have in common: what they return, the artifact that is made of it, and checks.

Such a set is a corpus with a URI like `dataset://ucf101/train/1@/data/ucf101`: set, part, split, and after the @ the
folder that contains it, local or in an object store. It becomes a CSV list of absolute paths in the root, or a folder
of the set that is a corpus as it is. A file that is listed but not in the folder is a missing sample. No image or video
is opened here.
"""

import csv
import hashlib
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow.fs as pafs

from raylabel.corpus.config import Kind, locate
from raylabel.errors import InputError
from raylabel.store.artifact import Artifact, Built, Draft, Root, write_bytes
from raylabel.store.files import reading

SCHEME = "dataset://"
LIST, CLASSES = "list.csv", "classes.txt"
COLUMNS = ("path", "label", "group")

Row = tuple[str, ...]  # path in the set's folder, class, and of videos the source; a field is empty if not known


class Listed(NamedTuple):
    """What a reader found."""

    rows: list[Row] | None
    """The rows of the list; None if the corpus is `folder`."""
    classes: Sequence[str] | None
    """The class names in the order of their indices, if it is known."""
    folder: str = ""
    """A folder with a folder of files for each class."""


def make_list(root: Root, name: str, parts: Sequence[str], kind: Kind, folder: str, listed: Listed) -> Artifact:
    """LIST, a CSV of COLUMNS, if there are rows, and CLASSES if the order of the classes is known.

    The identity of the artifact is its contents, so a set whose lists changed gives another artifact.
    """
    rows, files = listed.rows, dict[str, bytes]()
    if rows is not None:
        out = io.StringIO()
        table = csv.writer(out, lineterminator="\n")
        table.writerow(COLUMNS[: len(rows[0])])
        table.writerows((f"{folder}/{path}", *fields) for path, *fields in rows)
        files[LIST] = out.getvalue().encode()
    if listed.classes:
        files[CLASSES] = "".join(f"{one}\n" for one in listed.classes).encode()

    def build(draft: Draft) -> Built:
        info = {} if rows is None else {f"{kind}s": len(rows)}
        return Built([write_bytes(draft.uri, file, data) for file, data in files.items()], info)

    identity: dict[str, Any] = {file: hashlib.sha256(data).hexdigest() for file, data in files.items()}
    return root.make(f"list-{name}", {"set": name, "part": list(parts)} | identity, build)


def check_part(name: str, part: str, parts: Sequence[str]) -> None:
    """InputError if the set has no such part."""
    if part not in parts:
        raise InputError(f"no part '{part}' of {name}: give one of {', '.join(parts)}")


def is_folder(uri: str) -> bool:
    return _type(uri) == pafs.FileType.Directory


def is_file(uri: str) -> bool:
    return _type(uri) == pafs.FileType.File


def _type(uri: str) -> pafs.FileType:
    fs, path, _ = locate(uri)
    with reading(uri):
        return fs.get_file_info(path).type
