"""Lists and measures the current contents of a corpus in tasks on the cluster.

The calling process holds about 150 bytes per shard. It does not receive the paths of loose files, nor the starts of
units in tars: tasks that find them put them into the cluster's object store, where the tasks that write SHARDS read
them.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from raylabel.compute.progress import PatientProgress
from raylabel.compute.tasks import fetch
from raylabel.corpus.config import Corpus, Format, absolute
from raylabel.corpus.fingerprint import check_exists, file_stats, measure_files
from raylabel.corpus.listing import Packed, find, mixed, name
from raylabel.corpus.packed import survey_packed
from raylabel.corpus.passed_over import PassedOver
from raylabel.corpus.runs import RUN, cut
from raylabel.corpus.shards import Shards
from raylabel.corpus.share import of_files
from raylabel.corpus.surveyed import MEASURES, NEWEST, Survey, natural_key, show_passed
from raylabel.errors import InputError
from raylabel.schema import SHARDS

RUNS = 32  # runs of loose files per row group of SHARDS: a whole row group is read for the paths of one shard

FILES = pa.schema([pa.field("path", pa.string()), *(pa.field(n, pa.int64()) for n in ("size", "modified"))])


def survey(corpus: Corpus, title: str, earlier: Sequence[Shards], by_number: bool) -> Survey:
    """Surveys a corpus. `title` is its name in progress lines. Unchanged tars that are in one of the `earlier` SHARDS,
    whose members were divided in the same way, are not read again. `by_number`: see `cut`. InputError as for
    `index_corpus`."""
    form, listed, files, passed = _list_corpus(corpus, title, by_number)
    if form == "files":
        found = _survey_loose(listed, files, title, passed)
    else:
        found = survey_packed(corpus, form, listed[""], title, passed, earlier)
    if not found.samples:
        shards = found.measures.num_rows
        share = f" of the share {corpus.share}" if corpus.share < 1 else ""
        what = f"{name(corpus)} is empty: its {shards} shards contain 0 rows{share}"
        raise InputError(f"{what}; give a corpus with samples{' or a larger share' if share else ''}")
    return found


Listed = dict[str, list[Any]]  # location → references to tables of its files, in order


def _list_corpus(corpus: Corpus, title: str, by_number: bool) -> tuple[Format, Listed, int, PassedOver]:
    """(form, references to tables, number of files, other files). The tables are runs of loose files by folder or list,
    or FILES of parquet files or tars, all under the location ''."""
    listed: Listed = {}
    forms: set[Format] = set()
    shared: Any = ray.put(corpus)  # it may name thousands of URIs, and there is a task for each
    uris = list(dict.fromkeys(map(absolute, corpus.uri)))
    listings: list[Any] = [_list.remote(shared, uri, RUNS, by_number) for uri in uris]
    passed = PassedOver()
    with PatientProgress(f"list {title}", None, "files") as progress:
        listed_files = 0
        for listing in listings:
            earlier = set(listed) - {""}
            for head in listing:
                location, form, counts, others = fetch(head)
                if form is None:  # the last one, without files
                    passed.merge(others)
                    continue
                files = next(listing)  # a reference
                forms.add(form)
                if len(forms) > 1:
                    raise mixed(corpus, forms)
                if location not in earlier:  # two URIs may contain the same folder
                    found = _measure_runs.remote(corpus.share, location, counts, files) if form == "files" else files
                    listed.setdefault(location, []).append(found)
                    progress.update(listed_files := listed_files + sum(counts))
    return next(iter(forms)) if forms else "files", listed, listed_files, passed  # an empty list has no form


@ray.remote(num_cpus=0.5, num_returns="streaming")
def _list(corpus: Corpus, uri: str, most: int, by_number: bool) -> Iterator[Any]:
    """Pairs: (location, form, numbers of files, None), then FILES with these files: at most `most` runs of loose files,
    with the number of files of each. The location of parquet files and tars is ''. Last, without FILES: ('', None, [],
    the table of PassedOver)."""
    packed: list[Packed] = []
    passed = PassedOver()

    def flush() -> Iterator[Any]:
        yield "", packed[0].format, [len(packed)], None
        yield pa.table([[p.uri for p in packed], *[[None] * len(packed)] * 2], schema=FILES)

    for found in find(corpus, uri, passed):
        if isinstance(found, Packed):
            if packed and (len(packed) == most * RUN or packed[0].format != found.format):
                yield from flush()
                packed.clear()
            packed.append(found)
        else:
            runs = cut(found.files, by_number)
            while some := list(itertools.islice(runs, most)):
                yield found.uri, "files", [len(run) for run in some], None
                columns = zip(*itertools.chain.from_iterable(some), strict=True)
                yield pa.table([list(column) for column in columns], schema=FILES)
    if packed:
        yield from flush()
    yield "", None, [], passed.table()


def _survey_loose(listed: Listed, files: int, title: str, passed: PassedOver) -> Survey:
    tables, groups, done = [pa.schema([*MEASURES, *NEWEST]).empty_table()], [], 0
    with PatientProgress(f"index {title}", files, "files") as progress:
        for location in sorted(listed, key=natural_key):
            first, size = len(groups), 0
            for measures, paths in listed[location]:
                tables.append(fetch(measures, paths))
                groups.append((tables[-1].num_rows, paths))
                progress.update(done := done + int(tables[-1]["rows"].to_numpy().sum()))
                size += int(tables[-1]["bytes"].to_numpy().sum())
            if not (size or location.endswith("/")):
                check_exists(location, fetch(groups[first][1])["paths"][0].as_py()[0])
        show_passed(progress, passed)
    table = pa.concat_tables(tables).combine_chunks()
    measures, newest = table.select(MEASURES.names), table.select(NEWEST.names)
    sizes = [count for count, _ in groups]
    return Survey("files", measures, sizes, groups, passed.table(), newest=newest)


@ray.remote(num_cpus=0.5, num_returns=2)
def _measure_runs(share: float, location: str, counts: list[int], files: pa.Table) -> tuple[pa.Table, pa.Table]:
    """FILES of runs with these numbers of files → MEASURES and NEWEST of the runs, and their fingerprints and paths."""
    paths, sizes, modified = (files[name].to_pylist() for name in FILES.names)
    if not location.endswith("/"):
        try:
            sizes, modified = zip(*file_stats(location, paths), strict=True)
        except OSError as error:
            raise InputError(f"cannot get the sizes of the files of '{location}': {error}; check its paths") from error
    ends = list(itertools.accumulate(counts))
    runs = [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]
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
