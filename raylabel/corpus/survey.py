"""Lists and measures the current contents of a corpus in tasks on the cluster.

The process that asks holds some 150 bytes a shard. The paths of loose files go from the tasks that list them into the
cluster's object store, for those that write them.
"""

import itertools
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import RayTaskError

from raylabel.compute.progress import PatientProgress
from raylabel.compute.resources import Cluster
from raylabel.compute.watchdog import progressed
from raylabel.corpus.config import THREADS, Corpus, Format, absolute
from raylabel.corpus.fingerprint import file_sizes, measure_files, measure_packed
from raylabel.corpus.listing import Packed, find, mixed, name
from raylabel.errors import InputError, find_input_error
from raylabel.schema import SHARDS

RUN = 1024  # loose files of one shard
RUNS = 32  # such shards in a row group of SHARDS: what is read to know the paths of one
PACKED = 4096  # parquet files or tars in one
CHUNK = 256  # parquet files or tars that a task opens at most

LIGHT = pa.schema([SHARDS.field(column) for column in ("uri", "rows", "bytes", "fingerprint")])
FILES = pa.schema([pa.field("path", pa.string()), pa.field("size", pa.int64())])


@dataclass(frozen=True)
class Survey:
    """A corpus as it is at the moment, or was when it was looked at."""

    format: Format
    light: pa.Table
    """LIGHT of every shard, in order."""
    groups: list[tuple[int, Any]]
    """(shards, reference to their fingerprints and paths) of each row group; None where none has paths."""

    @property
    def samples(self) -> int:
        return int(self.light["rows"].to_numpy().sum())


def survey(corpus: Corpus, title: str) -> Survey:
    """The corpus now; `title` is what the terminal calls it. InputError as `index_corpus` says."""
    form, listed, files = _list_corpus(corpus, title)
    found = _survey_loose(listed, files, title) if form == "files" else _survey_packed(corpus, form, listed, title)
    if not found.samples:
        shards = found.light.num_rows
        raise InputError(f"{name(corpus)} is empty: its {shards} shards hold 0 rows; give a corpus with samples")
    return found


Listed = dict[str, list[Any]]  # place → references to what stands there, in order


def _list_corpus(corpus: Corpus, title: str) -> tuple[Format, Listed, int]:
    """(form, what is listed, number of files): runs of loose files by folder or list, or FILES, all under ''."""
    listed: Listed = {}
    forms: set[Format] = set()
    shared: Any = ray.put(corpus)  # it may name thousands of URIs, and there is a task for each
    listings: list[Any] = [_list.remote(shared, absolute(uri), RUN * RUNS) for uri in corpus.uri]
    with PatientProgress(f"list {title}", None, "files") as progress:
        listed_files = 0
        for listing in listings:
            earlier = set(listed) - {""}
            for head in listing:
                place, form, count = fetch(head)
                files = next(listing)  # a reference
                forms.add(form)
                if len(forms) > 1:
                    raise mixed(corpus, forms)
                if place not in earlier:  # two URIs may lead to one folder
                    found = _cut_runs.remote(place, files) if form == "files" else files
                    listed.setdefault(place, []).append(found)
                    progress.update(listed_files := listed_files + count)
    return next(iter(forms)) if forms else "files", listed, listed_files  # a list without a line is of no form


@ray.remote(num_cpus=0.5, num_returns="streaming")
def _list(corpus: Corpus, uri: str, most: int) -> Iterator[Any]:
    """Pairs: (place, form, number of files), then FILES with these, at most `most`. Packed ones are of no place."""
    packed: list[Packed] = []

    def flush() -> Iterator[Any]:
        yield "", packed[0].format, len(packed)
        yield pa.table([[p.uri for p in packed], [None] * len(packed)], schema=FILES)

    for found in find(corpus, uri):
        if isinstance(found, Packed):
            if packed and (len(packed) == most or packed[0].format != found.format):
                yield from flush()
                packed.clear()
            packed.append(found)
        else:
            while some := list(itertools.islice(found.files, most)):
                yield found.uri, "files", len(some)
                yield pa.table([[path for path, _ in some], [size for _, size in some]], schema=FILES)
    if packed:
        yield from flush()


def _survey_loose(listed: Listed, files: int, title: str) -> Survey:
    tables, groups, done = [LIGHT.empty_table()], [], 0
    with PatientProgress(f"index {title}", files, "files") as progress:
        for place in sorted(listed, key=_natural):
            for light, paths in listed[place]:
                tables.append(fetch(light))
                groups.append((tables[-1].num_rows, paths))
                progress.update(done := done + int(tables[-1]["rows"].to_numpy().sum()))
    return Survey("files", pa.concat_tables(tables).combine_chunks(), groups)


@ray.remote(num_cpus=0.5, num_returns=2)
def _cut_runs(place: str, files: pa.Table) -> tuple[pa.Table, pa.Table]:
    """FILES → LIGHT of its runs, and their fingerprints and paths."""
    paths, sizes = files["path"].to_pylist(), files["size"].to_pylist()
    if not place.endswith("/"):
        try:
            sizes = file_sizes(place, paths)
        except OSError as error:
            raise InputError(f"cannot look for the files of '{place}': {error}") from error
    runs = [slice(first, first + RUN) for first in range(0, len(paths), RUN)]
    measured = [measure_files(paths[run], sizes[run]) for run in runs]
    fingerprints = [fingerprint for _, fingerprint in measured]
    columns = [[place] * len(runs), [len(paths[run]) for run in runs], [size for size, _ in measured], fingerprints]
    schema = pa.schema([SHARDS.field("fingerprint"), SHARDS.field("paths")])
    return pa.table(columns, schema=LIGHT), pa.table([fingerprints, [paths[run] for run in runs]], schema=schema)


def _survey_packed(corpus: Corpus, form: Format, listed: Listed, title: str) -> Survey:
    uris = fetch(_in_natural_order.remote(*listed[""]))
    shared: Any = ray.put(corpus)
    tasks = [_measure.remote(shared, form, uris[some.start : some.stop].to_pylist()) for some in chunks(len(uris))]
    tables, done = [], 0
    with PatientProgress(f"index {title}", len(uris), "shards") as progress:
        for task in tasks:
            tables.append(fetch(task))
            progress.update(done := done + tables[-1].num_rows)
    sizes = [min(PACKED, len(uris) - first) for first in range(0, len(uris), PACKED)]
    return Survey(form, pa.concat_tables(tables).combine_chunks(), [(size, None) for size in sizes])


@ray.remote(num_cpus=0.5)
def _in_natural_order(*listed: pa.Table) -> pa.ChunkedArray:
    """The paths of FILES, each once. A task, for a million Python strings are a gigabyte that the driver keeps."""
    uris = pa.concat_tables(listed)["path"].unique()
    keys = pa.array((_natural(uri.as_py()) for uri in uris), pa.string(), size=len(uris))
    return pa.table({"uri": uris, "key": keys}).sort_by("key")["uri"]


@ray.remote(num_cpus=0.5)
def _measure(corpus: Corpus, form: Format, uris: list[str]) -> pa.Table:
    """LIGHT of parquet files or tars."""
    with ThreadPoolExecutor(THREADS) as pool:
        measured = list(pool.map(lambda uri: measure_packed(corpus, uri, form), uris))
    rows, sizes, fingerprints = zip(*measured, strict=True)
    return pa.table([uris, rows, sizes, fingerprints], schema=LIGHT)


def chunks(count: int) -> list[range]:
    """The numbers below `count` in pieces for tasks: enough of them for all CPUs, and no more than there need be."""
    size = max(1, min(CHUNK, count // (4 * max(1, Cluster.now().cpus))))
    return [range(first, min(first + size, count)) for first in range(0, count, size)]


def _natural(uri: str) -> str:
    """Sorts digits by their number, and text before them by its letters; the text itself keeps a01 and a1 apart."""

    def number(digits: re.Match[str]) -> str:
        text = digits[0].lstrip("0")
        return f"\0{chr(1 + len(text))}{text}"  # the longer number is the larger one; \0 ends the text before it

    return re.sub("[0-9]+", number, uri) + "\0\0" + uri


def fetch(reference: Any) -> Any:
    """What a task made; the InputError that it raised, without Ray's wrapping."""
    try:
        found = ray.get(reference)
    except RayTaskError as error:
        if found := find_input_error(error):
            raise found from error
        raise
    progressed()
    return found
