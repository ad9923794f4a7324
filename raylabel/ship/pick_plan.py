"""PICKS + EXAMPLES → which picks are in which file of MEDIA, so that one pass over the media writes them.

PICKS are in the order of classes, and the media in the order of training, which mixes the classes. A task plans the
files of MEDIA of one file of EXAMPLES, up to 256: it holds their keys and reads PICKS once. So PICKS are read once for
each million samples, which is a few percent of the bytes of their media.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from raylabel.compute.watchdog import heartbeat
from raylabel.corpus import Corpus, Shards
from raylabel.corpus.addresses import addresses
from raylabel.corpus.share import rows_of
from raylabel.errors import InputError
from raylabel.schema import PICKS, PREDICTIONS
from raylabel.selection.shuffle import BATCH_ROWS, open_table
from raylabel.store.artifact import Artifact, File, write_table
from raylabel.training.examples import media_of

# The picks of a file of MEDIA, in the order of their media; those of one sample by (label, rank). `row` is the row of
# the sample in the file.
PLANNED = pa.schema(
    [
        pa.field("row", pa.int32(), nullable=False),
        *(PICKS.field(name) for name in ("label", "rank", "score")),
        PREDICTIONS.field("uri"),
    ]
)


@dataclass(frozen=True, kw_only=True)
class PlanTask:
    """What is planned. Plain data, so that Ray can send it."""

    picks: Artifact
    examples: Artifact
    corpus: Corpus
    shards: Shards
    queue: np.ndarray | None
    """`Queue.codes` of the picks that are wanted, and of each sample only the first of these; None: all."""
    out: str
    """Folder of the plans."""


class Planned(NamedTuple):
    """The picks of a file of MEDIA."""

    media: int
    """The number of the file."""
    plan: str
    """The name of the file with its plan."""
    group: int
    """The row group of the plan."""
    picks: int


def plan_arguments(task: PlanTask) -> list[tuple[PlanTask, str, int, list[int]]]:
    """The arguments of `plan_file` for each file of EXAMPLES. InputError if an earlier version made the EXAMPLES."""
    if "lane_items" in task.examples.info:
        raise InputError(
            f"{task.examples.uri} was made by an earlier version of raylabel, and has its media itself: delete that "
            "folder, and run the command of its run again"
        )
    found, media, number = [], media_of(task.examples).files("media-"), 0
    for file in task.examples.files("examples-"):
        first, left = number, file.rows
        while left > 0:
            left, number = left - media[number].rows, number + 1
        if left:
            raise AssertionError(f"{task.examples.uri}/{file.name} ends within a file of {media_of(task.examples).uri}")
        found.append((task, file.name, first, [one.rows for one in media[first:number]]))
    return found


def plan_file(task: PlanTask, name: str, first: int, rows: list[int]) -> list[Planned]:
    """Writes the plans of the files of MEDIA whose samples are those of a file of EXAMPLES: `rows` samples each, the
    first of which has the number `first`. Those without a pick have no plan."""
    with task.examples.opened(_file(task.examples, name)) as opened:
        table = opened.read(["key", "labels"])
    key, labels = table.column("key").to_numpy(), len(table.column("labels").combine_chunks().flatten())
    table = _picks_of(task, key)
    if task.queue is None and len(table) != labels:
        raise AssertionError(f"{task.examples.uri}/{name} has {labels} labels, and its samples have {len(table)} picks")
    at = table.column("at").to_numpy()
    ends = np.append(0, np.cumsum(rows))
    cuts = np.searchsorted(at, ends)
    row = (at - np.repeat(ends[:-1], np.diff(cuts))).astype(np.int32)
    columns = [pa.array(row), *(table.column(field) for field in PLANNED.names[1:])]
    planned = pa.Table.from_arrays(columns, schema=PLANNED)
    groups = [planned.slice(begin, end - begin) for begin, end in zip(cuts[:-1], cuts[1:], strict=True)]
    numbers = [number for number, group in enumerate(groups) if len(group)]
    plan = f"plan-{first:06d}.parquet"
    if numbers:
        write_table(task.out, plan, *(groups[number] for number in numbers))
    return [Planned(first + number, plan, place, len(groups[number])) for place, number in enumerate(numbers)]


def _file(artifact: Artifact, name: str) -> File:
    return next(file for file in artifact.files(name) if file.name == name)


def _picks_of(task: PlanTask, key: np.ndarray) -> pa.Table:
    """The picks of these samples: their place `at` in `key`, label, rank, score and uri, by (at, label, rank)."""
    order = np.argsort(key)
    ordered = key[order]
    found = []
    for batch in read_picks(task.picks):
        place = np.searchsorted(ordered, batch.column("key").to_numpy())
        place[place == len(ordered)] = 0
        mine = ordered[place] == batch.column("key").to_numpy()
        if task.queue is not None:
            code = batch.column("label").to_numpy().astype(np.int64) << 32 | batch.column("rank").to_numpy()
            mine &= np.isin(code, task.queue)
        own = batch.filter(pa.array(mine))
        found.append([order[place[mine]], *(own.column(name).to_numpy() for name in ("label", "rank", "score"))])
    at, label, rank, score = (np.concatenate(parts) for parts in zip(*found, strict=True))
    by = np.lexsort((rank, label, at))
    if task.queue is not None:  # a person says once what is in a picture
        by = by[np.diff(at[by], prepend=-1) > 0]
    at = at[by]
    samples, index = np.unique(at, return_inverse=True)
    columns = {"at": at, "label": label[by], "rank": rank[by], "score": score[by]}
    uri = uris(task.corpus, task.shards, key[samples]).take(pa.array(index))
    return pa.table({**columns, "uri": uri})


def read_picks(picks: Artifact) -> Iterator[pa.RecordBatch]:
    """Batches of PICKS, in order; an empty one if there are none."""
    yield pa.RecordBatch.from_pylist([], PICKS)
    for file in picks.files("picks-"):
        with open_table(picks.uri, file.name, PICKS) as opened:
            for batch in opened.iter_batches(BATCH_ROWS, columns=PICKS.names, use_threads=False):
                heartbeat()
                yield batch


def uris(corpus: Corpus, shards: Shards, key: np.ndarray) -> pa.Array:
    """The addresses of samples, in the order of their keys int64 [n], as in PREDICTIONS. A sample of a tar is
    `a.tar#row=12`, counted from 0: SHARDS do not have the names of its members."""
    if not len(key):
        return pa.array([], pa.string())
    order = np.argsort(key)
    found = list[str]()
    numbers, firsts = np.unique(key[order] >> 32, return_index=True)
    for number, keys in zip(numbers.tolist(), np.split(key[order], firsts[1:]), strict=True):
        heartbeat()
        shard, rows = shards.row(number), (keys & 0xFFFFFFFF).tolist()
        names = [""] * len(rows)
        if shard["format"] == "webdataset":
            names = [f"row={row}" for row in rows_of(corpus.share, shard)[np.asarray(rows)].tolist()]
        found += addresses(corpus, shard, rows, names)
    back = np.empty(len(order), np.int64)
    back[order] = np.arange(len(order))
    return pa.array(found, pa.string()).take(pa.array(back))
