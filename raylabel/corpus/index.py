"""A corpus → SHARDS, and the guards against a corpus that changed under what was made from it."""

import hashlib
import itertools
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc
import ray

from raylabel.corpus.config import THREADS, Corpus, Format, read_lines
from raylabel.corpus.fingerprint import verify_shard
from raylabel.corpus.shards import Shards
from raylabel.corpus.survey import LIGHT, Survey, chunks, fetch, survey
from raylabel.errors import InputError
from raylabel.schema import SHARDS, check
from raylabel.store.artifact import Artifact, Built, Draft, File, Root, digest, identity_of, write_table

GROUPS = 16  # row groups in a file of SHARDS


def index_corpus(root: Root, name: str, corpus: Corpus) -> Artifact:
    """SHARDS of the corpus as it is now, as artifact `shards-<name>`; shards are numbered in the natural order of
    their URIs (part-9 before part-10), loose files in the order of their paths.

    The `uri` of loose files is their folder, with a slash at its end, and `paths` are relative to it; or it is their
    list, and `paths` are its lines in the form that corpus/lists.py describes.

    info["content"] names what is in it, wherever it lies: the identity that everything made from the corpus builds on.
    To see what changed costs the same whether anything did: folders are listed, the files of a list are asked for
    their sizes one by one, and of each parquet file the footer and 128 KiB are read, of each tar every header. The
    table is written only if something did.

    A corpus may grow by files, and loose files may change. InputError, naming the file and the fix, if a parquet file
    or tar that was indexed in this root before has changed since, because what was made from it is stale; if nothing is
    found, forms are mixed, a file cannot be read or lacks the media column, or the corpus has no rows.
    """
    found = survey(corpus, name)
    content = {
        "format": found.format,
        "media": corpus.media,
        "label": corpus.label,
        "classes": read_lines(corpus.classes) if corpus.classes else None,
        "kind": corpus.kind,
        "parts": [corpus.start, corpus.end, corpus.group],
        "shards": _hash(found.light, "rows", "bytes", "fingerprint"),
    }
    identity = {"corpus": identity_of(corpus), "places": _hash(found.light, "uri", "fingerprint")}
    _guard(root, name, found, digest(identity))
    info = {"content": digest(content), "samples": found.samples}
    return root.make(f"shards-{name}", identity, lambda draft: Built(_write(draft, found), info))


def verify_packed(shards: Shards) -> None:
    """`verify` for parquet files and tars; a loose file that vanished costs one sample, a reject, and not the run."""
    if shards.format != "files":
        verify(shards)


def verify(shards: Shards) -> None:
    """Takes all fingerprints again; InputError naming the first shard that changed or vanished since it was indexed."""
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
        light = found.light.slice(first, sum(sizes))
        paths = [reference for _, reference in groups if reference is not None]
        file = f"shards-{number:05d}.parquet"
        tasks.append(_write_file.remote(draft.uri, file, first, found.format, light, sizes, *paths))
        first += sum(sizes)
    return [fetch(task) for task in tasks]


@ray.remote(num_cpus=0.5)
def _write_file(
    folder: str, file: str, first: int, form: Format, light: pa.Table, sizes: list[int], *paths: pa.Table
) -> File:
    groups = []
    for start, size in zip(itertools.accumulate(sizes[:-1], initial=0), sizes, strict=True):
        part = light.slice(start, size)
        lists = paths[len(groups)] if paths else None
        if lists is not None and lists["fingerprint"] != part["fingerprint"]:  # a node was lost and listed again
            raise InputError(f"'{part['uri'][0]}' changed while it was indexed: run again when it is at rest")
        columns = {
            "shard": pa.array(range(first + start, first + start + size), pa.int32()),
            "format": pa.array([form] * size, pa.string()),
            "paths": pa.array([[]] * size, SHARDS.field("paths").type) if lists is None else lists["paths"],
        } | dict(zip(LIGHT.names, part.columns, strict=True))
        table = pa.Table.from_arrays([columns[column] for column in SHARDS.names], schema=SHARDS)
        groups.append(check(table, SHARDS, file))
    return write_table(folder, file, *groups)


def _hash(light: pa.Table, *columns: str) -> str:
    """Of the values of these columns, column by column, however the table is chunked."""
    state = hashlib.sha256()
    for column in columns:
        for chunk in light.column(column).chunks:
            values = chunk.to_pylist() if pa.types.is_string(chunk.type) else chunk.to_numpy().astype("<i8")
            state.update("".join(f"{x}\n" for x in values).encode() if isinstance(values, list) else values.tobytes())
    return state.hexdigest()


def _guard(root: Root, name: str, found: Survey, now: str) -> None:
    """InputError if a parquet file or tar has another fingerprint than in an artifact of the root."""
    if found.format == "files":
        return  # scores of loose files are those of a run with the same fingerprint, or made anew
    light = ray.put(found.light)
    for earlier in root.named(f"shards-{name}"):
        if earlier.digest != now and (changed := fetch(_find_changed.remote(Shards(earlier), light))):
            raise InputError(
                f"shard '{changed}' changed since it was indexed: restore it, or, if the change is meant, "
                f"delete {earlier.uri} and run again"
            )


@ray.remote(num_cpus=0.5)
def _find_changed(earlier: Shards, light: pa.Table) -> str | None:
    """The first URI that has another fingerprint in `light`."""
    before, after = earlier.columns("uri", "fingerprint"), light.select(["uri", "fingerprint"])
    both = before.join(after, "uri", join_type="inner", right_suffix="_now")
    changed = both.filter(pc.field("fingerprint") != pc.field("fingerprint_now"))["uri"]
    return min(changed.to_pylist(), default=None)
