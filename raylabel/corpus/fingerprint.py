"""How many rows a shard has, and what tells that it is still the same."""

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raylabel.compute.watchdog import heartbeat
from raylabel.corpus.config import Corpus, Format, locate
from raylabel.corpus.lists import file_uri, split_line
from raylabel.corpus.segments import is_name, is_seconds
from raylabel.corpus.tar import TarReader
from raylabel.errors import InputError
from raylabel.store.files import filesystem, line, reading

_COLUMNS = (
    ("start", is_seconds, "numbers of seconds"),
    ("end", is_seconds, "numbers of seconds"),
    ("group", is_name, "strings or integers"),
)

EDGE = 1 << 16  # bytes at either end of a file that its fingerprint covers; the last ones hold a parquet's footer


def measure_packed(corpus: Corpus, uri: str, form: Format) -> tuple[int, int, str]:
    """(rows, bytes, fingerprint) of a parquet file or tar. InputError if it cannot be read or lacks the media column.

    The fingerprint is of the size and of the first and last 64 KiB; neither place nor time of a file is part of it.
    """
    heartbeat()
    try:
        fs, path, _ = locate(uri)
        with fs.open_input_file(path) as file:
            size, fingerprint = _fingerprint_packed(file)
            if form == "parquet":
                return _parquet_rows(corpus, uri, file), size, fingerprint
        with TarReader(uri) as tar:
            return sum(1 for _ in tar.samples()), size, fingerprint
    except OSError as error:
        raise InputError(f"cannot read '{uri}': {line(error)}; fix it or take it out") from error


def measure_files(paths: Sequence[str], sizes: Sequence[int]) -> tuple[int, str]:
    """(bytes, fingerprint) of a run of loose files: of each path (or line of the list) and size, -1 if missing."""
    text = "".join(f"{size} {path}\n" for path, size in zip(paths, sizes, strict=True))
    return sum(max(0, size) for size in sizes), hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def file_sizes(uri: str, lines: Sequence[str]) -> list[int]:
    """The bytes of loose files as they are now, -1 if one is missing or no plain file; a request each."""
    sizes: list[int] = []
    places = (file_uri(uri, split_line(uri, text).path) for text in lines)
    for _, run in itertools.groupby(places, key=_store):
        found = [filesystem(place) for place in run]
        infos = found[0][0].get_file_info([path for _, path in found])
        sizes += [-1 if info.size is None else info.size for info in infos]
    return sizes


def _store(uri: str) -> str:
    """What all URIs of one file system have in common."""
    scheme, separator, rest = uri.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}" if separator else ""


def verify_shard(shard: Mapping[str, Any]) -> None:
    """InputError naming it if a row of SHARDS is of a shard that changed or vanished since it was indexed."""
    heartbeat()
    with reading(shard["uri"]):
        if shard["paths"]:
            _demand_same(shard, measure_files(shard["paths"], file_sizes(shard["uri"], shard["paths"])))
            return
        fs, path, _ = locate(shard["uri"])
        try:
            with fs.open_input_file(path) as file:
                verify_open(shard, file)
        except FileNotFoundError as error:
            raise no_longer(shard, "vanished") from error


def verify_open(shard: Mapping[str, Any], file: pa.NativeFile) -> None:
    """`verify_shard` of a parquet file or tar that is open, wherever in it the reader is."""
    _demand_same(shard, _fingerprint_packed(file))


def _demand_same(shard: Mapping[str, Any], now: tuple[int, str]) -> None:
    if now != (shard["bytes"], shard["fingerprint"]):
        raise no_longer(shard, "changed")


def no_longer(shard: Mapping[str, Any], what: str) -> InputError:
    """What to raise for a shard that changed or vanished."""
    where = f"'{shard['uri']}'" + (f" ({shard['paths'][0]} …)" if shard["paths"] else "")
    return InputError(f"{where} {what} since it was indexed: put it back, or index the corpus anew")


def _fingerprint_packed(file: pa.NativeFile) -> tuple[int, str]:
    size = file.size()
    digest = hashlib.blake2b(f"{size}\n".encode(), digest_size=16)
    digest.update(file.read_at(min(size, EDGE), 0))
    digest.update(file.read_at(min(size, EDGE), max(0, size - EDGE)))
    return size, digest.hexdigest()


def _parquet_rows(corpus: Corpus, uri: str, source: pa.NativeFile) -> int:
    try:
        with pq.ParquetFile(source) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
    except pa.ArrowException as error:
        raise InputError(f"cannot read the parquet footer of '{uri}': {line(error)}; fix it or take it out") from error
    column = corpus.media_column
    _demand_column(schema, uri, column, "media")
    kind = schema.field(column).type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if kind not in (pa.binary(), pa.large_binary()):
        raise InputError(
            f"column '{column}' of '{uri}' is {schema.field(column).type}: expected encoded bytes "
            "(binary, large_binary or struct<bytes, path>; URLs are not fetched); set media to the column that has them"
        )
    for field, fits, expected in _COLUMNS:
        if (column := getattr(corpus, field)) is None:
            continue
        _demand_column(schema, uri, column, field)
        if not fits(kind := schema.field(column).type):
            raise InputError(f"column '{column}' of '{uri}' is {kind}: expected {expected}; set {field} to another")
    return rows


def _demand_column(schema: pa.Schema, uri: str, column: str, field: str) -> None:
    if column not in schema.names:
        raise InputError(
            f"no column '{column}' in '{uri}': it has {', '.join(schema.names)}; set {field} to one of them"
        )
