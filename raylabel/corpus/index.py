"""Makes SHARDS of a corpus, and detects shards that changed after artifacts were made from them."""

import hashlib
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc
import ray

from raylabel.corpus.config import THREADS, Corpus, Format, read_lines
from raylabel.corpus.fingerprint import verify_shard
from raylabel.corpus.shards import Shards
from raylabel.corpus.survey import MEASURES, Survey, chunks, fetch, survey
from raylabel.errors import InputError
from raylabel.schema import SHARDS, check
from raylabel.store.artifact import Artifact, Built, Draft, File, Root, digest, identity_of, write_table

GROUPS = 16  # row groups per file of SHARDS


def index_corpus(
    root: Root, name: str, corpus: Corpus, check_newest: Callable[[Shards, pa.Table], None] | None = None
) -> Artifact:
    """SHARDS of the corpus as it is now, as artifact `shards-<name>`; shards are numbered in the natural order of
    their URIs (part-9 before part-10), loose files in the order of their paths.

    The `uri` of loose files is their folder, with a slash at its end, and `paths` are relative to it; or it is their
    list, and `paths` are its lines in the form that corpus/lists.py describes.

    info["content"] identifies the contents of the corpus, independent of their location. It is part of the identity of
    everything that is made from the corpus. info["passed_over"] counts what was found and is not a sample, as in
    corpus/passed_over.py. The check for changes costs the same whether or not something changed:
    folders are listed, the size of each file of a list is requested, and the footer and 128 KiB of each parquet file
    and every header of each tar are read. The table is written only if something changed.

    `check_newest` is called with the SHARDS of loose files and the table NEWEST of survey.py: a file that was edited
    and has as many bytes as before changes no fingerprint.

    A corpus may grow by files, and loose files may change. InputError, naming the file and the fix, if a parquet file
    or tar changed since it was indexed in this root: the artifacts made from it are out of date. InputError also if
    nothing is found, forms are mixed, a file cannot be read or lacks the media column, or the corpus has no rows.
    """
    found = survey(corpus, name)
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
    _check_unchanged(root, name, found, digest(identity))
    info = {"content": digest(content), "samples": found.samples, "passed_over": found.passed}
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


def _write(draft: Draft, found: Survey) -> list[File]:
    tasks, first = [], 0
    for number, start in enumerate(range(0, len(found.groups), GROUPS)):
        groups = found.groups[start : start + GROUPS]
        sizes = [size for size, _ in groups]
        measures = found.measures.slice(first, sum(sizes))
        paths = [reference for _, reference in groups if reference is not None]
        file = f"shards-{number:05d}.parquet"
        tasks.append(_write_file.remote(draft.uri, file, first, found.format, measures, sizes, *paths))
        first += sum(sizes)
    return [fetch(task) for task in tasks]


@ray.remote(num_cpus=0.5)
def _write_file(
    folder: str, file: str, first: int, form: Format, measures: pa.Table, sizes: list[int], *paths: pa.Table
) -> File:
    groups = []
    for start, size in zip(itertools.accumulate(sizes[:-1], initial=0), sizes, strict=True):
        measured = measures.slice(start, size)
        lists = paths[len(groups)] if paths else None
        # They differ if the node with this table was lost and Ray listed the files again.
        if lists is not None and lists["fingerprint"] != measured["fingerprint"]:
            raise InputError(
                f"'{measured['uri'][0]}' changed while it was indexed: run again when no process changes it"
            )
        columns = {
            "shard": pa.array(range(first + start, first + start + size), pa.int32()),
            "format": pa.array([form] * size, pa.string()),
            "paths": pa.array([[]] * size, SHARDS.field("paths").type) if lists is None else lists["paths"],
        } | dict(zip(MEASURES.names, measured.columns, strict=True))
        table = pa.Table.from_arrays([columns[column] for column in SHARDS.names], schema=SHARDS)
        groups.append(check(table, SHARDS, file))
    return write_table(folder, file, *groups)


def _hash(measures: pa.Table, *columns: str) -> str:
    """A hash of the values of these columns, column by column, independent of how the table is chunked."""
    state = hashlib.sha256()
    for column in columns:
        for chunk in measures.column(column).chunks:
            values = chunk.to_pylist() if pa.types.is_string(chunk.type) else chunk.to_numpy().astype("<i8")
            state.update("".join(f"{x}\n" for x in values).encode() if isinstance(values, list) else values.tobytes())
    return state.hexdigest()


def _check_unchanged(root: Root, name: str, found: Survey, now: str) -> None:
    """InputError if a parquet file or tar has another fingerprint in an earlier artifact of the root."""
    if found.format == "files":
        return  # scores of loose files are reused only for runs with the same fingerprint
    measures = ray.put(found.measures)
    for earlier in root.named(f"shards-{name}"):
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
