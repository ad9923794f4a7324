"""Labeled corpora in every form that has labels, indexed without Ray, and the outcome of reading their labels."""

import csv
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from corpora import tar_bytes

from raylabel.corpus import Corpus, Shards, class_names, encode_labels, read_labels
from raylabel.corpus.config import absolute
from raylabel.corpus.fingerprint import measure_files, measure_packed
from raylabel.corpus.listing import Packed, find
from raylabel.errors import InputError
from raylabel.schema import SHARDS
from raylabel.store.artifact import Built, Draft, Root, write_table


def index_here(corpus: Corpus, root: Path, run: int = 1024) -> Shards:
    """SHARDS of a corpus as `index_corpus` makes them, in this process; `run`: loose files per shard."""
    rows: list[tuple] = []
    for uri in corpus.uri:
        for found in find(corpus, absolute(uri)):
            if isinstance(found, Packed):
                count, size, fingerprint, tar = measure_packed(corpus, found.uri, found.format)
                starts = [{"row": row, "byte": byte} for row, byte in tar.starts] if tar else []
                rows.append((found.uri, found.format, count, size, fingerprint, [], starts))
                continue
            paths = [path for path, *_ in found.files]
            for some in (paths[at : at + run] for at in range(0, len(paths), run)):
                rows.append((found.uri, "files", len(some), *measure_files(some, [1] * len(some)), some, []))
    columns = [list(range(len(rows))), *map(list, zip(*rows, strict=True))]
    table = pa.table([pa.array(c, f.type) for c, f in zip(columns, SHARDS, strict=True)], schema=SHARDS)

    def build(draft: Draft) -> Built:
        return Built([write_table(draft.uri, "shards-00000.parquet", table)], {"content": "x", "samples": len(rows)})

    return Shards(Root.open(str(root)).make("shards-x", {"corpus": str(corpus), "rows": str(rows)}, build))


def as_parquet(folder: Path, labels: list[str]) -> Corpus:
    pq.write_table(pa.table({"image": [b"x"] * len(labels), "label": labels}), folder / "a.parquet")
    return Corpus(uri=(str(folder / "a.parquet"),))


def as_csv(folder: Path, labels: list[str]) -> Corpus:
    with open(folder / "a.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label"), *((f"{i:03}.jpg", label) for i, label in enumerate(labels))])
    return Corpus(uri=(str(folder / "a.csv"),))


def as_text(folder: Path, labels: list[str]) -> Corpus:
    lines = [f"{i:03}.jpg\t{label}\n" for i, label in enumerate(labels)]
    (folder / "a.txt").write_text("".join(lines), encoding="utf-8", newline="")
    return Corpus(uri=(str(folder / "a.txt"),))


def as_tar(folder: Path, labels: list[str]) -> Corpus:
    members = [(f"{i:03}.{e}", d) for i, text in enumerate(labels) for e, d in (("jpg", b"x"), ("cls", text.encode()))]
    (folder / "a.tar").write_bytes(tar_bytes(*members))
    return Corpus(uri=(str(folder / "a.tar"),))


def as_folders(folder: Path, labels: list[str]) -> Corpus:
    for i, label in enumerate(labels):
        (folder / "all" / label).mkdir(parents=True, exist_ok=True)
        (folder / "all" / label / f"{i:03}.jpg").write_bytes(b"x")
    return Corpus(uri=(str(folder / "all"),))


LABELED: dict[str, Callable[[Path, list[str]], Corpus]] = {
    "parquet": as_parquet,
    "csv": as_csv,
    "txt": as_text,
    "tar": as_tar,
    "folder": as_folders,
}


def write_files(folder: Path, *paths: str) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"x")


def outcome(corpus: Corpus, root: Path) -> tuple[str, ...] | str:
    """The classes of a labeled set, or the text of the error."""
    try:
        shards = index_here(corpus, root)
        labels = read_labels(corpus, shards)
        names = class_names(corpus, labels)
        encode_labels(labels, names, corpus)
        return names
    except InputError as error:
        return str(error)


def kind_of_error(text: str) -> str:
    """An error without the names of samples and of places in parentheses, which differ between forms."""
    return re.sub(r"'[^']*[/#][^']*'( \([^)]*\))?", "SAMPLE", text)
