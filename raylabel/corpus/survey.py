"""Lists and measures the current contents of a corpus in tasks on the cluster.

The calling process holds about 150 bytes per shard. It does not receive the paths of loose files: tasks that list them
put them into the cluster's object store, where the tasks that write SHARDS read them.
"""

import itertools
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.exceptions import RayTaskError

from raylabel.compute.progress import PatientProgress
from raylabel.compute.resources import Cluster
from raylabel.compute.watchdog import progressed
from raylabel.corpus.config import THREADS, Corpus, Format, absolute
from raylabel.corpus.fingerprint import check_exists, file_stats, measure_files, measure_packed
from raylabel.corpus.listing import Packed, find, mixed, name
from raylabel.corpus.passed_over import PassedOver, sentence
from raylabel.corpus.share import of_files
from raylabel.corpus.tar_check import TarMeasure, merge
from raylabel.errors import InputError, find_input_error
from raylabel.schema import SHARDS

RUN = 1024  # loose files per shard
RUNS = 32  # such shards per row group of SHARDS: a whole row group is read for the paths of one shard
PACKED = 4096  # parquet files or tars per row group of SHARDS
CHUNK = 256  # parquet files or tars that one task opens, at most

MEASURES = pa.schema([SHARDS.field(column) for column in ("uri", "rows", "bytes", "fingerprint")])
FILES = pa.schema([pa.field("path", pa.string()), *(pa.field(n, pa.int64()) for n in ("size", "modified"))])
# Of a run of loose files: when its newest file was modified, in nanoseconds since 1970, and the row of that file. Only
# rows of the share count; 0 if there are none.
NEWEST = pa.schema([pa.field("modified", pa.int64()), pa.field("row", pa.int64())])


@dataclass(frozen=True)
class Survey:
    """The contents of a corpus at the time of the survey."""

    format: Format
    measures: pa.Table
    """MEASURES of every shard, in order."""
    groups: list[tuple[int, Any]]
    """(number of shards, reference to their fingerprints and paths) of each row group. Parquet files and tars have None
    instead of the reference: they have no paths."""
    passed: list[dict[str, Any]]
    """PassedOver: what was found and is not a sample."""
    divided: bool = False
    """Whether a tar has more samples than names up to the first dot."""
    newest: pa.Table | None = None
    """NEWEST of every shard; None of parquet files and tars."""

    @property
    def samples(self) -> int:
        return int(self.measures["rows"].to_numpy().sum())


def survey(corpus: Corpus, title: str) -> Survey:
    """Surveys a corpus. `title` is its name in progress lines. InputError as for `index_corpus`."""
    form, listed, files, passed = _list_corpus(corpus, title)
    if form == "files":
        found = _survey_loose(listed, files, title, passed)
    else:
        found = _survey_packed(corpus, form, listed, title, passed)
    if not found.samples:
        shards = found.measures.num_rows
        share = f" of the share {corpus.share}" if corpus.share < 1 else ""
        what = f"{name(corpus)} is empty: its {shards} shards contain 0 rows{share}"
        raise InputError(f"{what}; give a corpus with samples{' or a larger share' if share else ''}")
    return found


Listed = dict[str, list[Any]]  # location → references to tables of its files, in order


def _list_corpus(corpus: Corpus, title: str) -> tuple[Format, Listed, int, PassedOver]:
    """(form, references to tables, number of files, other files). The tables are runs of loose files by folder or list,
    or FILES of parquet files or tars, all under the location ''."""
    listed: Listed = {}
    forms: set[Format] = set()
    shared: Any = ray.put(corpus)  # it may name thousands of URIs, and there is a task for each
    uris = list(dict.fromkeys(map(absolute, corpus.uri)))
    listings: list[Any] = [_list.remote(shared, uri, RUN * RUNS) for uri in uris]
    passed = PassedOver()
    with PatientProgress(f"list {title}", None, "files") as progress:
        listed_files = 0
        for listing in listings:
            earlier = set(listed) - {""}
            for head in listing:
                location, form, count, others = fetch(head)
                if form is None:  # the last one, without files
                    passed.merge(others)
                    continue
                files = next(listing)  # a reference
                forms.add(form)
                if len(forms) > 1:
                    raise mixed(corpus, forms)
                if location not in earlier:  # two URIs may contain the same folder
                    found = _cut_runs.remote(corpus.share, location, files) if form == "files" else files
                    listed.setdefault(location, []).append(found)
                    progress.update(listed_files := listed_files + count)
    return next(iter(forms)) if forms else "files", listed, listed_files, passed  # an empty list has no form


@ray.remote(num_cpus=0.5, num_returns="streaming")
def _list(corpus: Corpus, uri: str, most: int) -> Iterator[Any]:
    """Pairs: (location, form, number of files, None), then FILES with these files, at most `most`. The location of
    parquet files and tars is ''. Last, without FILES: ('', None, 0, the table of PassedOver)."""
    packed: list[Packed] = []
    passed = PassedOver()

    def flush() -> Iterator[Any]:
        yield "", packed[0].format, len(packed), None
        yield pa.table([[p.uri for p in packed], *[[None] * len(packed)] * 2], schema=FILES)

    for found in find(corpus, uri, passed):
        if isinstance(found, Packed):
            if packed and (len(packed) == most or packed[0].format != found.format):
                yield from flush()
                packed.clear()
            packed.append(found)
        else:
            while some := list(itertools.islice(found.files, most)):
                yield found.uri, "files", len(some), None
                yield pa.table([list(column) for column in zip(*some, strict=True)], schema=FILES)
    if packed:
        yield from flush()
    yield "", None, 0, passed.table()


def _survey_loose(listed: Listed, files: int, title: str, passed: PassedOver) -> Survey:
    tables, groups, done = [pa.schema([*MEASURES, *NEWEST]).empty_table()], [], 0
    with PatientProgress(f"index {title}", files, "files") as progress:
        for location in sorted(listed, key=_natural_key):
            first, size = len(groups), 0
            for measures, paths in listed[location]:
                tables.append(fetch(measures))
                groups.append((tables[-1].num_rows, paths))
                progress.update(done := done + int(tables[-1]["rows"].to_numpy().sum()))
                size += int(tables[-1]["bytes"].to_numpy().sum())
            if not (size or location.endswith("/")):
                check_exists(location, fetch(groups[first][1])["paths"][0].as_py()[0])
        _show(progress, passed)
    table = pa.concat_tables(tables).combine_chunks()
    measures, newest = table.select(MEASURES.names), table.select(NEWEST.names)
    return Survey("files", measures, groups, passed.table(), newest=newest)


def _show(progress: PatientProgress, passed: PassedOver) -> None:
    if passed.count:
        progress.say(f"{sentence(passed.table())}; corpus.extensions names others to read")


@ray.remote(num_cpus=0.5, num_returns=2)
def _cut_runs(share: float, location: str, files: pa.Table) -> tuple[pa.Table, pa.Table]:
    """FILES → MEASURES and NEWEST of its runs, and their fingerprints and paths."""
    paths, sizes, modified = (files[name].to_pylist() for name in FILES.names)
    if not location.endswith("/"):
        try:
            sizes, modified = zip(*file_stats(location, paths), strict=True)
        except OSError as error:
            raise InputError(f"cannot get the sizes of the files of '{location}': {error}; check its paths") from error
    runs = [slice(first, first + RUN) for first in range(0, len(paths), RUN)]
    measured = [measure_files(paths[run], sizes[run]) for run in runs]
    fingerprints = [fingerprint for _, fingerprint in measured]
    used = np.ones(len(paths), bool) if share == 1 else of_files(share, location, paths)
    rows = [np.count_nonzero(used[run]) for run in runs]
    newest = [_newest(np.array(modified[run], np.int64)[used[run]]) for run in runs]
    columns = [[location] * len(runs), rows, [size for size, _ in measured], fingerprints, *zip(*newest, strict=True)]
    schema = pa.schema([SHARDS.field("fingerprint"), SHARDS.field("paths")])
    measures = pa.table(columns, schema=pa.schema([*MEASURES, *NEWEST]))
    return measures, pa.table([fingerprints, [paths[run] for run in runs]], schema=schema)


def _newest(modified: np.ndarray) -> tuple[int, int]:
    """A row of NEWEST."""
    row = int(modified.argmax()) if len(modified) else 0
    return (int(modified[row]), row) if len(modified) else (0, 0)


def _survey_packed(corpus: Corpus, form: Format, listed: Listed, title: str, passed: PassedOver) -> Survey:
    uris = fetch(_in_natural_order.remote(*listed[""]))
    shared: Any = ray.put(corpus)
    tasks = [_measure.remote(shared, form, uris[some.start : some.stop].to_pylist()) for some in chunks(len(uris))]
    tables, done, runs, without, example = [], 0, 0, 0, ""
    with PatientProgress(f"index {title}", len(uris), "shards") as progress:
        for task in tasks:
            table, tars = fetch(task)
            tables.append(table)
            passed.merge(tars.passed)
            runs, without, example = runs + tars.runs, without + tars.without, example or tars.example
            progress.update(done := done + table.num_rows)
        _show(progress, passed)
    sizes = [min(PACKED, len(uris) - first) for first in range(0, len(uris), PACKED)]
    measures = pa.concat_tables(tables).combine_chunks()
    found = Survey(form, measures, [(size, None) for size in sizes], passed.table())
    if form != "webdataset":
        return found
    if without == found.samples > 0:
        what = f"extension '{corpus.media}'" if corpus.media else f"extension of {corpus.kind}s"
        raise InputError(
            f"no member of {name(corpus)} has the {what}: {example}; set corpus.media to the extension of the "
            f"{corpus.kind}s, or corpus.kind"
        )
    return replace(found, divided=runs != found.samples)


@ray.remote(num_cpus=0.5)
def _in_natural_order(*listed: pa.Table) -> pa.ChunkedArray:
    """The distinct paths of FILES. A task sorts them because a million Python strings take a gigabyte, which the driver
    would not free."""
    uris = pa.concat_tables(listed)["path"].unique()
    keys = pa.array((_natural_key(uri.as_py()) for uri in uris), pa.string(), size=len(uris))
    return pa.table({"uri": uris, "key": keys}).sort_by("key")["uri"]


@ray.remote(num_cpus=0.5)
def _measure(corpus: Corpus, form: Format, uris: list[str]) -> tuple[pa.Table, TarMeasure]:
    """(MEASURES of parquet files or tars, what else the tars have)."""
    with ThreadPoolExecutor(THREADS) as pool:
        measured = list(pool.map(lambda uri: measure_packed(corpus, uri, form), uris))
    rows, sizes, fingerprints, tars = zip(*measured, strict=True)
    return pa.table([uris, rows, sizes, fingerprints], schema=MEASURES), merge(filter(None, tars))


def chunks(count: int) -> list[range]:
    """Ranges of the numbers below `count`, one per task: enough tasks for all CPUs, at most CHUNK numbers in each."""
    size = max(1, min(CHUNK, count // (4 * max(1, Cluster.now().cpus))))
    return [range(first, min(first + size, count)) for first in range(0, count, size)]


def _natural_key(uri: str) -> str:
    """A sort key: digits compare as numbers, other text by its characters. The URI at the end tells a01 from a1."""

    def number(digits: re.Match[str]) -> str:
        text = digits[0].lstrip("0")
        return f"\0{chr(1 + len(text))}{text}"  # a longer number is larger; \0 ends the text before it

    return re.sub("[0-9]+", number, uri) + "\0\0" + uri


def fetch(reference: Any) -> Any:
    """The result of a task. If the task raised an InputError, it is raised here without Ray's wrapper."""
    try:
        found = ray.get(reference)
    except RayTaskError as error:
        if found := find_input_error(error):
            raise found from error
        raise
    progressed()
    return found
