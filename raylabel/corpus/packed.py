"""Surveys parquet files and tars. A tar that an earlier SHARDS of the root has, unchanged, is not read again."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray

from raylabel.compute.progress import PatientProgress
from raylabel.compute.resources import Cluster
from raylabel.compute.tasks import chunks, fetch
from raylabel.corpus.config import THREADS, Corpus, Format
from raylabel.corpus.fingerprint import Known, measure_packed
from raylabel.corpus.listing import name
from raylabel.corpus.passed_over import PassedOver
from raylabel.corpus.shards import Shards
from raylabel.corpus.surveyed import MEASURES, Survey, natural_key, show_passed
from raylabel.corpus.tar_check import TarMeasure, merge
from raylabel.errors import InputError
from raylabel.schema import SHARDS, TARS

PACKED = 4096  # parquet files or tars per row group of SHARDS
STREAMS = 4  # requests in flight for a tar in an object store, at most

TAR = [field for field in TARS if field.name != "shard"]
# What is known of each tar: columns of SHARDS and TARS; null except for the URI if nothing is.
KNOWN = pa.schema([field.with_nullable(True) for field in (*MEASURES, SHARDS.field("starts"), *TAR)])


def survey_packed(
    corpus: Corpus, form: Format, listed: list[Any], title: str, passed: PassedOver, earlier: Sequence[Shards]
) -> Survey:
    """`listed`: references to tables of the files; the other arguments are those of `survey`."""
    before = list(earlier) if form == "webdataset" else []
    ordered: Any = _in_order.remote(Cluster.now().cpus, before, *listed)
    sizes: list[int] = fetch(next(ordered))
    shared: Any = ray.put(corpus)
    tasks: list[Any] = [_measure.remote(shared, form, table) for table in ordered]
    tables, found, done = [], TarMeasure(), 0
    with PatientProgress(f"index {title}", sum(sizes), "shards") as progress:
        for task in tasks:
            table, tars = fetch(*task)
            tables.append(table)
            found = merge([found, tars])
            progress.update(done := done + table.num_rows)
        passed.merge(found.passed)
        show_passed(progress, passed)
        if found.unused:
            progress.say(f"{found.unused:,} index files beside tars are not used, for example that of {found.why}")
    groups = [min(PACKED, done - first) for first in range(0, done, PACKED)]
    more = [(size, extra) for size, (_, extra) in zip(sizes, tasks, strict=True)]
    survey = Survey(form, pa.concat_tables(tables).combine_chunks(), groups, more, passed.table())
    if form != "webdataset":
        return survey
    if found.without == survey.samples > 0:
        what = f"extension '{corpus.media}'" if corpus.media else f"extension of {corpus.kind}s"
        raise InputError(
            f"no member of {name(corpus)} has the {what}: {found.example}; set corpus.media to the extension of the "
            f"{corpus.kind}s, or corpus.kind"
        )
    counts = {"read": found.read, "indexed": found.indexed, "known": done - found.read - found.indexed}
    return replace(survey, divided=found.runs != survey.samples, tars=counts)


@ray.remote(num_cpus=0.5, num_returns="streaming")
def _in_order(cpus: float, earlier: Sequence[Shards], *listed: pa.Table) -> Iterator[Any]:
    """First the numbers of files of the tasks that measure them; then KNOWN of the files of each.

    The distinct paths of FILES are sorted in a task because a million Python strings take a gigabyte, which the driver
    would not free.
    """
    uris = pa.concat_tables(listed)["path"].unique()
    keys = pa.array((natural_key(uri.as_py()) for uri in uris), pa.string(), size=len(uris))
    uris = pa.table({"uri": uris, "key": keys}).sort_by("key")["uri"].combine_chunks()
    known = known_tars(earlier, uris)
    some = chunks(len(uris), cpus)
    yield [len(numbers) for numbers in some]
    for numbers in some:
        yield known.take(pa.array(numbers, pa.int64()))  # a slice would be sent with the whole table


def known_tars(earlier: Sequence[Shards], uris: pa.Array) -> pa.Table:
    """KNOWN of these URIs, in their order."""
    tables = [KNOWN.empty_table()]
    for shards in earlier:
        names = [field.name for field in KNOWN if field.name in SHARDS.names]
        if shards.artifact.files("tars"):
            notes = shards.artifact.table("tars", TARS).select([field.name for field in TAR])
            columns = [*shards.columns(*names).columns, *notes.columns]
        elif shards.columns("uri")["uri"].combine_chunks() == uris:
            # An earlier version did not note what belongs to which tar. So its SHARDS say enough only if they have all
            # of these tars and no others: then this artifact is found again.
            some, count = shards.columns(*names[:-1]), len(uris)
            runs = pa.array([0] * count) if "rows" in shards.artifact.identity else some["rows"]
            columns = [*some.columns, [[]] * count, runs, [0] * count, [""] * count, [[]] * count]
        else:
            continue
        tables.append(pa.table(columns, schema=KNOWN))
    known = pa.concat_tables(tables).combine_chunks()
    at = pc.index_in(uris, value_set=known["uri"].combine_chunks())  # pyright: ignore[reportAttributeAccessIssue]
    return known.take(at).set_column(0, KNOWN.field("uri"), uris)


@ray.remote(num_cpus=0.5, num_returns=2)
def _measure(corpus: Corpus, form: Format, known: pa.Table) -> tuple[tuple[pa.Table, TarMeasure], pa.Table]:
    """KNOWN of parquet files or tars → (MEASURES, what else the tars have), and the table of `Survey.more`."""
    shards = known.to_pylist()
    streams = max(1, min(STREAMS, THREADS // len(shards)))
    with ThreadPoolExecutor(THREADS) as pool:
        measured = list(
            pool.map(lambda shard: measure_packed(corpus, shard["uri"], form, known_of(shard), streams), shards)
        )
    rows, sizes, fingerprints, tars = zip(*measured, strict=True)
    measures = pa.table([known["uri"], rows, sizes, fingerprints], schema=MEASURES)
    more = pa.table({"fingerprint": measures["fingerprint"]})
    if form == "webdataset":
        starts = [[{"row": row, "byte": byte} for row, byte in tar.starts] for tar in tars]
        columns = [starts, *([getattr(tar, field.name) for tar in tars] for field in TAR)]
        notes = pa.table(columns, schema=pa.schema([SHARDS.field("starts"), *TAR]))
        for field, column in zip(notes.schema, notes.columns, strict=True):
            more = more.append_column(field, column)
    return (measures, merge(filter(None, tars))), more


def known_of(shard: Mapping[str, Any]) -> Known | None:
    """What a row of KNOWN says about a tar."""
    if shard["fingerprint"] is None:
        return None
    notes = {field.name: shard[field.name] for field in TAR}
    starts = [(start["row"], start["byte"]) for start in shard["starts"]]
    return Known(shard["rows"], shard["bytes"], shard["fingerprint"], TarMeasure(**notes, starts=starts))
