"""Makes SHARDS of a corpus, and detects shards that changed after artifacts were made from them."""

import hashlib
import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray

from raylabel.compute.tasks import chunks, fetch
from raylabel.corpus.config import THREADS, Corpus, Format, read_lines
from raylabel.corpus.fingerprint import verify_shard
from raylabel.corpus.shards import Shards
from raylabel.corpus.survey import survey
from raylabel.corpus.surveyed import Survey
from raylabel.errors import InputError
from raylabel.schema import SHARDS, TARS, check
from raylabel.store.artifact import Artifact, Built, Draft, File, Root, digest, identity_of, write_table

GROUPS = 16  # row groups per file of SHARDS
BY_NAME = "by name"  # info["cut"]: how loose files are cut into runs; earlier versions cut by number and did not say so


def index_corpus(
    root: Root, name: str, corpus: Corpus, check_newest: Callable[[Shards, pa.Table], None] | None = None
) -> Artifact:
    """SHARDS of the corpus as it is now, as artifact `shards-<name>`; shards are numbered in the natural order of
    their URIs (part-9 before part-10), loose files in the order of their paths.

    The `uri` of loose files is their folder, with a slash at its end, and `paths` are relative to it; or it is their
    list, and `paths` are its lines in the form that corpus/lists.py describes.

    info["content"] identifies the contents of the corpus, independent of their location. It is part of the identity of
    everything that is made from the corpus. info["passed_over"] counts what was found and is not a sample, as in
    corpus/passed_over.py, and info["tars"] how tars were read, as in Survey. To check for changes, folders are listed,
    the size of each file of a list is requested, and 128 KiB of each parquet file and tar and the footer of parquet are
    read. The headers of a tar are read once in a root. The table is written only if something changed.

    Loose files are cut into runs by their names (runs.py); a corpus that an earlier version indexed in this root is
    still cut by number, so that its scores are reused.

    `check_newest` is called with the SHARDS of loose files and the table NEWEST of survey.py: a file that was edited
    and has as many bytes as before changes no fingerprint.

    A corpus may grow by files, and loose files may change. InputError, naming the file and the fix, if a parquet file
    or tar changed since it was indexed in this root: the artifacts made from it are out of date. InputError also if
    nothing is found, forms are mixed, a file cannot be read or lacks the media column, or the corpus has no rows.
    """
    before = root.named(f"shards-{name}")
    alike = [Shards(one) for one in before if _divided_by(one.identity["corpus"]) == _divided_by(identity_of(corpus))]
    by_number = any(one.identity["corpus"]["uri"] == list(corpus.uri) and "cut" not in one.info for one in before)
    found = survey(corpus, name, alike, by_number)
    content = {
        "format": found.format,
        "media": corpus.media,
        "label": corpus.label,
        "classes": read_lines(corpus.classes) if corpus.classes else None,
        "kind": corpus.kind,
        "parts": [corpus.start, corpus.end, corpus.group],
        "shards": _hash(found.measures, "rows", "bytes", "fingerprint"),
    }
    if corpus.extensions:
        content["extensions"] = sorted(corpus.more)
    identity = {"corpus": identity_of(corpus), "places": _hash(found.measures, "uri", "fingerprint")}
    if found.divided:  # an earlier version indexed the same tar with fewer rows
        identity["rows"] = _hash(found.measures, "rows")
    _check_unchanged(before, found, digest(identity))
    info = {"content": digest(content), "samples": found.samples, "passed_over": found.passed}
    if found.tars:
        info["tars"] = found.tars
    if not by_number:
        info["cut"] = BY_NAME
    made = root.make(f"shards-{name}", identity, lambda draft: Built(_write(draft, found), info))
    if check_newest and found.newest is not None:
        check_newest(Shards(made), found.newest)
    return made


def verify_packed(shards: Shards) -> None:
    """`verify` for parquet files and tars. Loose files are not checked: one that vanished is a reject, not an error."""
    if shards.format != "files":
        verify(shards)


def verify(shards: Shards) -> None:
    """Checks all fingerprints. InputError naming the first shard that changed or vanished since it was indexed."""
    numbers = chunks(len(shards))
    for task in [_verify.remote(shards, some) for some in numbers]:
        fetch(task)


@ray.remote(num_cpus=0.5)
def _verify(shards: Shards, numbers: range) -> None:
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(verify_shard, [shards.row(number) for number in numbers]):
            pass


def _divided_by(corpus: dict[str, Any]) -> list[Any]:
    """The fields of a corpus, as in an identity, on which the rows and units of a tar depend."""
    return [corpus.get(field) for field in ("media", "kind", "extensions", "share")]


def _write(draft: Draft, found: Survey) -> list[File]:
    tasks, first = [], 0
    ends = list(itertools.accumulate(count for count, _ in found.more))
    for number, start in enumerate(range(0, len(found.groups), GROUPS)):
        sizes = found.groups[start : start + GROUPS]
        end = first + sum(sizes)
        some = found.more[bisect_right(ends, first) : bisect_left(ends, end) + 1]
        skip = first - (ends[bisect_right(ends, first)] - some[0][0])
        measures, more = found.measures.slice(first, end - first), [reference for _, reference in some]
        tasks.append(_write_file.remote(draft.uri, number, first, found.format, measures, sizes, skip, *more))
        first = end
    return [file for task in tasks for file in fetch(task)]


@ray.remote(num_cpus=0.5)
def _write_file(
    folder: str,
    number: int,
    first: int,
    form: Format,
    measures: pa.Table,
    sizes: Sequence[int],
    skip: int,
    *tables: pa.Table,
) -> list[File]:
    """Writes SHARDS, and TARS of tars, with row groups of these sizes. `first`: the number of the first shard;
    `tables`: those of `Survey.more`, in which it is row `skip`."""
    count = len(measures)
    more = pa.concat_tables(tables).slice(skip, count)
    # They differ if the node with these tables was lost and Ray measured the files again.
    for uri, one, other in zip(measures["uri"], measures["fingerprint"], more["fingerprint"], strict=True):
        if one != other:
            raise InputError(f"'{uri}' changed while it was indexed: run again when no process changes it")
    columns = {
        "shard": pa.array(range(first, first + count), pa.int32()),
        "format": pa.array([form] * count, pa.string()),
        "paths": pa.array([[]] * count, SHARDS.field("paths").type),
        "starts": pa.array([[]] * count, SHARDS.field("starts").type),
    }
    columns |= dict(zip(measures.column_names, measures.columns, strict=True))
    columns |= dict(zip(more.column_names, more.columns, strict=True))

    def write(file: str, schema: pa.Schema) -> File:
        whole = pa.Table.from_arrays([columns[column] for column in schema.names], schema=schema)
        starts = itertools.accumulate(sizes[:-1], initial=0)
        groups = [whole.slice(start, size) for start, size in zip(starts, sizes, strict=True)]
        return write_table(folder, file, *(check(group, schema, file) for group in groups))

    files = [write(f"shards-{number:05d}.parquet", SHARDS)]
    return [*files, write(f"tars-{number:05d}.parquet", TARS)] if form == "webdataset" else files


def _hash(measures: pa.Table, *columns: str) -> str:
    """A hash of the values of these columns, column by column, independent of how the table is chunked."""
    state = hashlib.sha256()
    for column in columns:
        for chunk in measures.column(column).chunks:
            values = chunk.to_pylist() if pa.types.is_string(chunk.type) else chunk.to_numpy().astype("<i8")
            state.update("".join(f"{x}\n" for x in values).encode() if isinstance(values, list) else values.tobytes())
    return state.hexdigest()


def _check_unchanged(before: Sequence[Artifact], found: Survey, now: str) -> None:
    """InputError if a parquet file or tar has another fingerprint in an earlier artifact of the root."""
    if found.format == "files":
        return  # scores of loose files are reused only for runs with the same fingerprint
    measures = ray.put(found.measures)
    for earlier in before:
        if earlier.digest != now and (changed := fetch(_find_changed.remote(Shards(earlier), measures))):
            raise InputError(
                f"shard '{changed}' changed since it was indexed: restore it, or, if the change is intended, "
                f"delete {earlier.uri} and run again"
            )


@ray.remote(num_cpus=0.5)
def _find_changed(earlier: Shards, measures: pa.Table) -> str | None:
    """The first URI, in sorted order, that has another fingerprint in `measures`; None if there is none."""
    before, after = earlier.columns("uri", "fingerprint"), measures.select(["uri", "fingerprint"])
    both = before.join(after, "uri", join_type="inner", right_suffix="_now")
    changed = both.filter(pc.field("fingerprint") != pc.field("fingerprint_now"))["uri"]
    return min(changed.to_pylist(), default=None)
