"""Reads the texts that contain the tags of a corpus without its media. Any text may be a tag, so none is an error: what
cannot be read is counted."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raylabel.compute.watchdog import heartbeat
from raylabel.corpus.columns import plain_type
from raylabel.corpus.config import Corpus, locate
from raylabel.corpus.csvs import csv_header
from raylabel.corpus.fingerprint import fingerprint_packed, row_count_changed, stale_shard, verify_open
from raylabel.corpus.label_rule import field_is, json_value, split_column, split_member
from raylabel.corpus.lists import list_cells
from raylabel.corpus.members import TarSample
from raylabel.corpus.read import find_column
from raylabel.corpus.shards import Shards
from raylabel.corpus.share import of_whole, used
from raylabel.corpus.tar import TarReader
from raylabel.errors import InputError
from raylabel.schema import make_key
from raylabel.text import one_line

READS = 8  # shards that a task reads at a time
BATCH = 65_536  # rows of a parquet file that are held at a time
WHOLE = 1 << 20  # rows of a shard up to which its texts are held together
TEXT = 1 << 20  # bytes of a member or characters of a JSON text, at most
OPTION = "tags.column"


@dataclass(frozen=True)
class TagTexts:
    """The texts that contain the tags of some samples of a shard."""

    key: np.ndarray
    """int64 [n]: the key of the sample of each text, ascending; a sample may have several texts, or none."""
    texts: pa.Array
    """large_string [n], without nulls."""
    single: bool
    """Whether each text is one tag, as an element of a list is, and not a string of several."""
    unreadable: int = 0
    """Samples whose tags cannot be read; they have no text here."""
    example: str = ""
    """One of them, and why."""


def tag_lists(shards: Shards) -> dict[str, range]:
    """URI → the numbers of the shards of each CSV list, in order, for a corpus of lists; empty for parquet files and
    tars. InputError if the corpus is of another form, in which there are no tags."""
    if shards.format != "files":
        return {}
    uris = shards.columns("uri")["uri"].combine_chunks().dictionary_encode()
    firsts = [0, *(np.flatnonzero(np.diff(uris.indices.to_numpy())) + 1).tolist(), len(shards)]
    for uri in uris.dictionary.to_pylist():
        if not uri.lower().endswith(".csv"):
            what = "loose files in a folder" if uri.endswith("/") else "a *.txt list"
            raise InputError(
                f"'{uri}' has no tags, since it is {what}: give parquet files, tars, or a *.csv list of the files "
                f"with a column that {OPTION} names"
            )
    # The shards of a list follow each other, so the dictionary is in their order.
    return dict(zip(uris.dictionary.to_pylist(), itertools.starmap(range, itertools.pairwise(firsts)), strict=True))


def list_fingerprint(uri: str) -> str:
    """A hash of the size and the ends of a CSV list: its tags are not in SHARDS."""
    fs, path, _ = locate(uri)
    try:
        with fs.open_input_file(path) as file:
            return fingerprint_packed(file)[1]
    except OSError as error:
        raise _lost(uri, error) from error


def read_tags(corpus: Corpus, shards: Shards, numbers: Sequence[int], column: str) -> Iterator[TagTexts]:
    """The texts in `column` of these shards, parquet files or tars, in key order. At most BATCH rows of a large parquet
    file are held, or a tar's texts.

    A null, or a sample without such a member or field, has no tags. InputError if a shard has no such column or another
    type of it, or changed since it was indexed.
    """
    read = _of_parquet if shards.format == "parquet" else _of_tar
    rows = shards.rows

    def of_shard(number: int) -> Iterator[TagTexts]:
        heartbeat()
        shard = shards.row(number)
        try:
            yield from read(corpus, shard, column)
        except (OSError, pa.ArrowInvalid) as error:
            raise _lost(shard["uri"], error) from error

    small = [number for number in numbers if rows[number] <= WHOLE]
    with ThreadPoolExecutor(READS) as pool:
        held = pool.map(lambda number: list(of_shard(number)), small)
        for number in numbers:
            yield from next(held) if rows[number] <= WHOLE else of_shard(number)


def read_listed_tags(corpus: Corpus, shards: Shards, numbers: range, column: str) -> Iterator[list[TagTexts]]:
    """The texts in `column` of a CSV list, whose shards are `numbers`: for each shard, in one pass over the list.

    InputError if the list has no such column, or other rows than when it was indexed.
    """
    uri = shards.row(numbers[0])["uri"]
    name, field = split_column(column, csv_header(uri, corpus.media or "path"))
    cells = list_cells(corpus, uri, name, OPTION)
    for number in numbers:
        heartbeat()
        shard, values = shards.row(number), list[Value]()
        for line in shard["paths"]:
            found, text = next(cells, (None, ""))
            if found != line:
                raise stale_shard(shard, "changed")
            values.append(_value(text, field, f"{uri}: {line}"))
        if number == numbers[-1] and next(cells, None):
            raise stale_shard(shard, "changed")
        yield _of_rows(corpus, shard, values)


@dataclass(frozen=True)
class _Unreadable:
    example: str
    """The sample, and why its tags cannot be read."""


Value = str | list[str] | _Unreadable | None  # a string of tags, a list of tags, an error, or no tags


def _of_parquet(corpus: Corpus, shard: Mapping[str, Any], column: str) -> Iterator[TagTexts]:
    fs, path, _ = locate(shard["uri"])
    with fs.open_input_file(path) as source, pq.ParquetFile(source, pre_buffer=True) as file:
        name, field = find_column(column, shard["uri"], file.schema_arrow.names, "tags", OPTION)
        _check_type(shard["uri"], name, file.schema_arrow.field(name).type, field)
        mine = used(corpus.share, shard, file.metadata.num_rows)
        if np.count_nonzero(mine) != shard["rows"]:
            raise row_count_changed(shard)
        number, end = np.cumsum(mine) - 1, 0  # the number of each row in the share
        for group in range(file.num_row_groups):  # one at a time, since its column is read ahead as a whole
            for batch in file.iter_batches(BATCH, row_groups=[group], columns=[name], use_threads=False):
                heartbeat()
                first, end = end, end + batch.num_rows
                key = make_key(shard["shard"], 0) + number[first:end]
                yield from _of_column(shard["uri"], batch.column(0), field, mine[first:end], key, first)
        verify_open(shard, source)


def _check_type(uri: str, name: str, kind: pa.DataType, field: str | None) -> None:
    item = plain_type(kind)
    if field is None and _is_list(item):
        item = plain_type(item.value_type)
    if not (pa.types.is_string(item) or pa.types.is_large_string(item) or pa.types.is_null(item)):
        expected = "JSON texts" if field else "strings or lists of strings"
        raise InputError(f"no tags: column '{name}' of '{uri}' is {kind}, expected {expected}: set {OPTION} to another")


def _is_list(kind: pa.DataType) -> bool:
    is_list, large, fixed = pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list
    return any(is_kind(kind) for is_kind in (is_list, large, fixed, pa.types.is_list_view, pa.types.is_large_list_view))


def _of_column(
    uri: str, column: pa.Array, field: str | None, mine: np.ndarray, key: np.ndarray, first: int
) -> Iterator[TagTexts]:
    """The texts of consecutive rows of a parquet file from row `first` on, of those that are `mine`, bool [rows]."""
    single = _is_list(column.type)
    # Flattened before anything else: Arrow 26 casts a list_view to a list with other values.
    at = pc.list_parent_indices(column).to_numpy() if single else np.arange(len(column))  # pyright: ignore
    texts = (pc.list_flatten(column) if single else column).cast(pa.large_string())  # pyright: ignore
    wanted = mine[at] & texts.is_valid().to_numpy(zero_copy_only=False)
    at, texts = at[wanted], texts.filter(pa.array(wanted))
    if field is None and _is_utf8(texts):
        yield TagTexts(key[at], texts, single)
        return
    values: list[Value] = []
    for row, some in itertools.groupby(zip(at, texts.cast(pa.large_binary()), strict=True), itemgetter(0)):
        where = f"{uri}#{first + row}"
        try:
            decoded = [data.as_py().decode() for _, data in some]
        except UnicodeDecodeError:
            values.append(_Unreadable(f"'{where}' is not UTF-8 text"))
        else:
            values.append(decoded if single else _value(decoded[0], field, where))
    yield from _of_values(key[np.unique(at)], values)


def _is_utf8(texts: pa.Array) -> bool:
    try:
        texts.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _of_tar(corpus: Corpus, shard: Mapping[str, Any], column: str) -> Iterator[TagTexts]:
    extension, field = split_member(column)
    with TarReader(shard["uri"]) as tar:
        try:
            values = [_of_member(tar, sample, extension, field) for sample in tar.samples(corpus)]
        finally:
            verify_open(shard, tar.source.file)  # if the tar changed, that is the reason of an error
    yield from _of_rows(corpus, shard, values)


def _of_member(tar: TarReader, sample: TarSample, extension: str, field: str | None) -> Value:
    member = sample.member(extension)
    if member is None:
        return None
    where = f"{tar.uri}#{member.name}"
    if member.size > TEXT:
        return _Unreadable(f"'{where}' has {member.size:,} bytes, more than {TEXT:,}")
    try:
        text = tar.read_member(member).decode("utf-8-sig")
    except UnicodeDecodeError:
        return _Unreadable(f"'{where}' is not UTF-8 text")
    return _value(text, field, where)


def _value(text: str, field: str | None, where: str) -> Value:
    """The tags in a text, or in its JSON field; `where` names the text."""
    if field is None:
        return text
    try:
        found = json_value(text, field)
    except ValueError as error:
        return _Unreadable(f"'{where}' {error}")
    if found is None:
        return None
    texts = [one for one in found if one is not None] if isinstance(found, list) else [found]
    if not all(isinstance(one, str) for one in texts):
        return _Unreadable(f"'{where}' {field_is(found, field)}: give a text or a list of texts")
    if any("\ud800" <= letter <= "\udfff" for one in texts for letter in one):
        return _Unreadable(f"'{where}' has half a surrogate pair in the field '{field}'")
    return texts if isinstance(found, list) else found


def _of_rows(corpus: Corpus, shard: Mapping[str, Any], values: list[Value]) -> list[TagTexts]:
    """The texts of the rows of the share; `values` has one for each row of the whole shard."""
    values = of_whole(corpus.share, shard, values)
    if len(values) != shard["rows"]:
        raise row_count_changed(shard)
    return list(_of_values(make_key(shard["shard"], 0) + np.arange(len(values)), values))


def _of_values(key: np.ndarray, values: list[Value]) -> Iterator[TagTexts]:
    """The texts of samples with these keys, [n]."""
    broken = [value.example for value in values if isinstance(value, _Unreadable)]
    strings = [at for at, value in enumerate(values) if isinstance(value, str)]
    texts = pa.array([values[at] for at in strings], pa.large_string())
    yield TagTexts(key[strings], texts, False, len(broken), broken[0] if broken else "")
    lists = [(at, tag) for at, value in enumerate(values) if isinstance(value, list) for tag in value]
    if lists:
        at, tags = zip(*lists, strict=True)
        yield TagTexts(key[list(at)], pa.array(tags, pa.large_string()), True)


def _lost(uri: str, error: BaseException) -> InputError:
    what = f"cannot read the tags of '{uri}': {one_line(error)}"
    return InputError(f"{what}; restore it or index the corpus again")
