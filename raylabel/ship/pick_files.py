"""Picks with their media as files for other programs: parquet for Hugging Face's datasets, tars for webdataset, and
loose files of a few picks.

A task reads files of MEDIA once, a row group at a time, and writes files of about FILE_BYTES. What is in which file
depends on the media, never on the cluster.
"""

import io
import json
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from raylabel.compute.watchdog import heartbeat
from raylabel.corpus.config import THREADS, Kind
from raylabel.media.formats import known_format
from raylabel.media.rejects import Reject
from raylabel.schema import MEDIA, ROW_GROUPS
from raylabel.ship.pick_plan import PLANNED, Planned
from raylabel.store.artifact import Artifact
from raylabel.store.files import filesystem, open_ranges, reading, write_file

MediaForm = Literal["hf", "webdataset", "label-studio"]

FILE_BYTES = 500_000_000  # of a file, about
GROUP_BYTES = 64 << 20  # of a row group of parquet: the viewer of the hub reads whole row groups
GROUP_ROWS = 1000

_ENDINGS = {"JPEG": "jpg", "PNG": "png", "GIF": "gif", "BMP": "bmp", "TIFF": "tif", "WEBP": "webp", "AVIF": "avif"}
_ENDINGS |= {"HEIF": "heic", "AVI": "avi", "Matroska or WebM": "mkv", "Flash video": "flv", "Ogg": "ogv"}
_ENDINGS |= {"MPEG program stream": "mpg", "MPEG video": "mpg", "MPEG transport stream": "ts", "ASF or WMV": "wmv"}


@dataclass(frozen=True, kw_only=True)
class FilesTask:
    """What is written. Plain data, so that Ray can send it."""

    form: MediaForm
    media: Artifact
    kind: Kind
    classes: tuple[str, ...]
    plans: str
    """Folder of the plans."""
    out: str
    """Folder of the files."""
    done: str
    """Folder of the records of what is written."""


def divide(planned: Sequence[Planned], sizes: Sequence[int]) -> list[list[Planned]]:
    """The plans of each task: of files of MEDIA that follow each other, until they have FILE_BYTES. `sizes`: bytes of
    all files of MEDIA."""
    found, held = list[list[Planned]](), 0
    for one in planned:
        if not found or held + sizes[one.media] > FILE_BYTES:
            found.append([])
            held = 0
        found[-1].append(one)
        held += sizes[one.media]
    return found


def write_files(task: FilesTask, number: int, planned: list[Planned]) -> dict[str, Any]:
    """Writes the picks of some plans. Writing the record, which is returned, commits them: names and rows of the files;
    of loose files, instead, what `_Loose` says of each."""
    writer: _Writer = {"hf": _Parquet, "webdataset": _Tars, "label-studio": _Loose}[task.form](task, number)
    table = task.media.table("row_groups", ROW_GROUPS)
    stored = {name: table.column(name).to_numpy() for name in ("file", "rows", "offset", "bytes")}
    for one in planned:
        for media, picks in _read(task, one, {name: c[stored["file"] == one.media] for name, c in stored.items()}):
            heartbeat()
            writer.add(media, picks)
    record = {"number": number, "picks": sum(one.picks for one in planned), "files": writer.close()}
    write_file(f"{task.done}/{number:06d}.json", json.dumps(record).encode())
    return record


def _read(task: FilesTask, planned: Planned, stored: dict[str, np.ndarray]) -> Iterator[tuple[pa.Array, pa.Table]]:
    """(media, PLANNED whose `row` is that in the media) of each row group of a file of MEDIA that has picks. One
    request for each; `stored`: those of the file in ROW_GROUPS."""
    fs, path = filesystem(f"{task.plans}/{planned.plan}")
    with reading(f"{task.plans}/{planned.plan}"), pq.ParquetFile(path, filesystem=fs) as opened:
        picks = opened.read_row_group(planned.group, columns=PLANNED.names)
    row, first = picks.column("row").to_numpy(), 0
    where = f"{task.media.uri}/{task.media.files('media-')[planned.media].name}"
    with reading(where):
        file = open_ranges(where)
        try:
            for rows, offset, size in zip(
                *(stored[name].tolist() for name in ("rows", "offset", "bytes")), strict=True
            ):
                begin, end = np.searchsorted(row, [first, first + rows]).tolist()
                if begin < end:
                    stream = pa.BufferReader(file.read_at(size, offset))
                    batch = pa.ipc.read_record_batch(pa.ipc.read_message(stream), MEDIA)
                    own = picks.slice(begin, end - begin)
                    yield batch.column("media"), own.set_column(0, "row", pa.array(row[begin:end] - first, pa.int64()))
                first += rows
        finally:
            file.close()


class _Writer(ABC):
    """Writes picks into files that are begun anew once they have FILE_BYTES."""

    ending = ""

    def __init__(self, task: FilesTask, number: int) -> None:
        self.task, self.number = task, number
        self.sink: io.BytesIO | None = None
        self.rows, self.files = 0, list[Any]()

    def add(self, media: pa.Array, picks: pa.Table) -> None:
        """Picks whose media are in `media`, at `row`."""
        lengths = np.diff(np.frombuffer(media.buffers()[1], np.int64)[media.offset : media.offset + len(media) + 1])
        for begin, end in _runs(lengths[picks.column("row").to_numpy()]):
            if self.sink is None:
                self.sink = io.BytesIO()
                self.begin(self.sink)
            some = picks.slice(begin, end - begin)
            self.write(media.take(some.column("row").combine_chunks()), some)
            self.rows += len(some)
            if self.sink.tell() >= FILE_BYTES:
                self._put()

    def close(self) -> list[Any]:
        if self.sink:
            self._put()
        return self.files

    def _put(self) -> None:
        assert self.sink
        self.end()
        name = f"data/{self.number:06d}{f'-{len(self.files)}' if self.files else ''}.{self.ending}"
        data = self.sink.getbuffer()
        write_file(f"{self.task.out}/{name}", data)
        self.files.append({"name": name, "rows": self.rows, "bytes": len(data)})
        self.sink, self.rows = None, 0

    def names(self, picks: pa.Table) -> pa.Array:
        """The names of the classes of picks."""
        return pa.array(self.task.classes, pa.string()).take(picks.column("label").combine_chunks())

    @abstractmethod
    def begin(self, sink: io.BytesIO) -> None: ...

    @abstractmethod
    def write(self, media: pa.Array, picks: pa.Table) -> None:
        """Picks and the bytes of each."""

    @abstractmethod
    def end(self) -> None: ...


def _runs(sizes: np.ndarray) -> Iterator[tuple[int, int]]:
    """Runs of samples with up to GROUP_BYTES and GROUP_ROWS, as (first, end); a larger sample is a run of its own."""
    ends, begin = np.append(0, np.cumsum(sizes, dtype=np.int64)), 0
    while begin < len(sizes):
        fitting = int(np.searchsorted(ends, ends[begin] + GROUP_BYTES, side="right")) - 1
        end = min(max(fitting, begin + 1), begin + GROUP_ROWS)
        yield begin, end
        begin = end


def hf_schema(kind: Kind, classes: Sequence[str]) -> pa.Schema:
    """Columns of parquet for Hugging Face's datasets; its features are in the metadata."""
    fields = [
        (kind, pa.struct([("bytes", pa.binary()), ("path", pa.string())]), {"_type": kind.capitalize()}),
        ("label", pa.int64(), {"names": list(classes), "_type": "ClassLabel"}),
        *((name, PLANNED.field(name).type, None) for name in ("rank", "score")),
        *((name, pa.string(), None) for name in ("class", "uri")),
    ]
    dtypes = {pa.int32(): "int32", pa.float32(): "float32", pa.string(): "string"}
    features = {name: of or {"dtype": dtypes[type_], "_type": "Value"} for name, type_, of in fields}
    metadata = json.dumps({"info": {"features": features}})
    return pa.schema([(name, type_) for name, type_, _ in fields], metadata={"huggingface": metadata})


class _Parquet(_Writer):
    ending = "parquet"

    def begin(self, sink: io.BytesIO) -> None:
        self.schema = hf_schema(self.task.kind, self.task.classes)
        paths = [f"{self.task.kind}.bytes", f"{self.task.kind}.path", *self.schema.names[1:]]
        compression = {path: "none" if path.endswith(".bytes") else "zstd" for path in paths}
        how: dict[str, Any] = {"compression": compression, "use_dictionary": paths[1:]}
        self.writer = pq.ParquetWriter(sink, self.schema, **how)

    def write(self, media: pa.Array, picks: pa.Table) -> None:
        encoded = pa.StructArray.from_arrays(
            [media.cast(pa.binary()), pa.nulls(len(media), pa.string())], fields=list(self.schema.field(0).type)
        )
        label = picks.column("label").cast(pa.int64())
        columns = [encoded, label, picks.column("rank"), picks.column("score"), self.names(picks), picks.column("uri")]
        table = pa.Table.from_arrays(columns, schema=self.schema)
        self.writer.write_table(table.combine_chunks(), row_group_size=len(table))

    def end(self) -> None:
        self.writer.close()


class _Tars(_Writer):
    ending = "tar"

    def begin(self, sink: io.BytesIO) -> None:
        self.tar = tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT)

    def write(self, media: pa.Array, picks: pa.Table) -> None:
        for data, label, name, row in zip(
            media.to_pylist(),
            picks.column("label").to_pylist(),
            self.names(picks).to_pylist(),
            picks.select(["rank", "score", "uri"]).to_pylist(),
            strict=True,
        ):
            key = name_of(label, row["rank"])
            self._member(f"{key}.{ending(data, self.task.kind)}", data)
            self._member(f"{key}.cls", str(label).encode())
            self._member(f"{key}.json", json.dumps({"class": name, **row}, ensure_ascii=False).encode())

    def _member(self, name: str, data: bytes) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        self.tar.addfile(info, io.BytesIO(data))

    def end(self) -> None:
        self.tar.close()


class _Loose(_Writer):
    """A file for each pick; of each, its label, rank, score and uri, and the name of the file."""

    def begin(self, sink: io.BytesIO) -> None: ...

    def write(self, media: pa.Array, picks: pa.Table) -> None:
        rows = picks.select(PLANNED.names[1:]).to_pylist()
        data = media.to_pylist()
        for row, one in zip(rows, data, strict=True):
            row["file"] = f"media/{name_of(row['label'], row['rank'])}.{ending(one, self.task.kind)}"
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(write_file, (f"{self.task.out}/{row['file']}" for row in rows), data))
        self.files += rows

    def close(self) -> list[Any]:
        return self.files

    def end(self) -> None: ...


def name_of(label: int, rank: int) -> str:
    """The name of a pick, without a dot."""
    return f"{label:05d}-{rank:07d}"


def ending(data: bytes, kind: Kind) -> str:
    """The extension of a file with these bytes, without its dot."""
    try:
        known = known_format(data[:1024])
    except Reject:
        known = ""
    if known.startswith("QuickTime"):
        return "mov"
    return _ENDINGS.get(known, "jpg" if kind == "image" else "mp4")
