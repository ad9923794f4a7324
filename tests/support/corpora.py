"""Corpora of the same samples in several forms: parquet, tars, files and lists."""

import io
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raylabel.corpus import (
    Corpus,
    Sample,
    Shards,
    Units,
    read_unit,
)

Row = tuple[bytes, str]  # media, label


def rows_of(n: int, seed: int = 0) -> list[Row]:
    """Random bytes, because a corpus never parses media, in the same order as class folders sorted by path."""
    rng = random.Random(seed)
    return [(rng.randbytes(rng.randint(1, 700)), f"class {i * 3 // n}") for i in range(n)]


def write_parquet(folder: Path, rows: list[Row], files: int = 3, row_group_size: int = 7) -> Corpus:
    folder.mkdir(parents=True)
    for i, part in enumerate(np.array_split(np.arange(len(rows)), files)):
        media, labels = [rows[j][0] for j in part], [rows[j][1] for j in part]
        # Files 9, 10, 11, ...: read in the order of their numbers, not in alphabetical order.
        pq.write_table(pa.table({"image": media, "label": labels}), folder / f"p{9 + i}.parquet", row_group_size)
    return Corpus(uri=(str(folder),))


def add(tar: tarfile.TarFile, name: str, data: bytes = b"", **fields: object) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    tar.addfile(info, io.BytesIO(data))


def write_tar(folder: Path, rows: list[Row], files: int = 3) -> Corpus:
    folder.mkdir(parents=True)
    for i, part in enumerate(np.array_split(np.arange(len(rows)), files)):
        # PAX and a long name: a sample may begin with extra headers that are not members.
        with tarfile.open(folder / f"t{9 + i}.tar", "w", format=tarfile.PAX_FORMAT) as tar:
            for j in part:
                name = f"{'long' * 40 if j % 5 == 0 else ''}/s{j:05d}".lstrip("/")
                add(tar, f"{name}.cls", f" {rows[j][1]}\n".encode())
                add(tar, f"{name}.JPG" if j % 2 else f"{name}.png", rows[j][0])
                add(tar, f"{name}.seg.png", b"a mask, not the image")
    return Corpus(uri=(str(folder / "t*.tar"),))


Indexed = Callable[[Corpus], Shards]


def read_all(corpus: Corpus, shards: Shards, size: int = 1024) -> list[Sample]:
    units = Units(shards.rows, size)
    return [s for unit in units for s in read_unit(corpus, shards.row(unit.shard), unit, labels=True)]


def values(shards: Shards, name: str) -> list:
    return shards.columns(name)[name].to_pylist()


def tar_bytes(*members: tuple[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in members:
            add(tar, name, data)
    return out.getvalue()


def write_files(folder: Path, rows: list[Row]) -> Corpus:
    for j, (media, label) in enumerate(rows):
        path = folder / label / f"{j:05d}.{'JPEG' if j % 2 else 'webp'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(media)
    (folder / "README.txt").write_text("not an image")
    return Corpus(uri=(str(folder),))


def write_list(folder: Path, rows: list[Row]) -> Corpus:
    (folder / "lists").mkdir(parents=True)
    lines = []
    for j, (media, label) in enumerate(rows):
        (folder / f"image #{j}%20.jpg").write_bytes(media)
        lines.append(f"../image #{j}%20.jpg\t{label}\r\n")
    (folder / "lists" / "all.txt").write_text("".join(lines))
    return Corpus(uri=(str(folder / "lists" / "all.txt"),))


FORMS: dict[str, Callable[[Path, list[Row]], Corpus]] = {
    "parquet": write_parquet,
    "webdataset": write_tar,
    "files": write_files,
    "list": write_list,
}
