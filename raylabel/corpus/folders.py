"""The labels of loose files in folders: the name of a folder above each file.

By default it is the folder that contains the file, which is not the class in every tree: `church/indoor` and
`market/indoor`, `dog/1.png` and `dog/crops/2.png`, `cat/images/1.png`. Such a tree is an error unless `corpus.label`
says which folder is meant: `path` (the whole path below the corpus) or `path:1` (the first folder below the corpus;
`path:-1` is the folder that contains the file).
"""

import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import replace

from raylabel.corpus.config import PATH, Corpus, absolute, path_depth
from raylabel.corpus.label_rule import clean
from raylabel.errors import InputError


def folder_label(corpus: Corpus, uri: str, path: str) -> str | None:
    """The label of the file at `path` in the folder `uri`, before `clean`; None if there is no such folder."""
    below = posixpath.dirname(path)
    if corpus.label == PATH:
        return below or None
    depth = -1 if corpus.label is None else path_depth(corpus.label)
    if depth is None:
        raise InputError(
            f"corpus.label is '{corpus.label}', but '{uri}' is a folder of loose files, whose labels are the names of "
            "folders: set corpus.label to 'path' or to a depth such as 'path:1', or leave it out"
        )
    # A negative depth counts from the file and may reach the folder of the corpus and those above it.
    folders = (below if depth > 0 else f"{uri}{below}".strip("/")).split("/")
    at = depth - 1 if depth > 0 else depth
    return folders[at] or None if -len(folders) <= at < len(folders) else None


def check_folders(corpus: Corpus, found: Iterable[tuple[str, str]]) -> None:
    """InputError that names two files if it is not plain which folder is the class. `found`: (folder of the corpus,
    path in it) of a file of each folder. The same path below two folders of a corpus is the same class."""
    if corpus.label is not None:
        return
    own = {f"{absolute(uri).rstrip('/')}/" for uri in corpus.uri}
    by_name: dict[str | None, tuple[str, str, tuple[str, str]]] = {}
    by_depth: dict[str, tuple[int, tuple[str, str]]] = {}
    uneven: tuple[tuple[str, str], tuple[str, str]] | None = None
    for file in found:
        uri, path = file
        folder = posixpath.dirname(path)
        below = "/".join(clean(part) or "" for part in folder.split("/"))
        name, whole = clean(folder_label(corpus, uri, path)), f"{uri}{below}".rstrip("/")
        same, other, first = by_name.setdefault(name, (below, whole, file))
        if name and other != whole and not (same == below != ""):
            raise InputError(
                f"no labels: '{''.join(first)}' and '{uri}{path}' are in two folders named '{name}': "
                f"{_settle(corpus, first, file)}"
            )
        # Folders that match a pattern are one tree, and so is each folder that is named in full.
        depth = folder.count("/") + 1 if folder else 0
        before, first = by_depth.setdefault(uri if uri in own else "", (depth, file))
        if before != depth and uneven is None:
            uneven = first, file
    if uneven:
        first, file = uneven
        raise InputError(
            f"no labels: '{''.join(first)}' and '{''.join(file)}' are at different depths below the corpus: "
            f"{_settle(corpus, first, file)}"
        )


def _settle(corpus: Corpus, *files: tuple[str, str]) -> str:
    """The fix, with the labels that each value of `corpus.label` gives to these files."""
    settings = {
        PATH: "the path below the corpus",
        f"{PATH}:1": "the first folder below it",
        f"{PATH}:-1": "the folder of the file",
        f"{PATH}:-2": "the folder above that",
    }
    shown = [f"'{label}' for {meaning} ({_labels(corpus, label, files)})" for label, meaning in settings.items()]
    return f"set corpus.label to {', '.join(shown[:-1])} or {shown[-1]}"


def _labels(corpus: Corpus, label: str, files: Sequence[tuple[str, str]]) -> str:
    names = [clean(folder_label(replace(corpus, label=label), *file)) for file in files]
    return " and ".join("none" if name is None else f"'{name}'" for name in names)
