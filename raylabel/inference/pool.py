"""The actor pool that scores a corpus: Ray Data streams units through actors, and tasks commit the parts.

The driver handles only references to the data.
"""

import functools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
from ray.util.annotations import RayDeprecationWarning

from raylabel.compute.metrics import show_writing
from raylabel.compute.ray_internals import blocks_of
from raylabel.compute.resources import WRITERS
from raylabel.corpus import Unit
from raylabel.inference.actor import CALLS, ScoringActor
from raylabel.inference.batches import ITEM, ScoringTask, decode, item
from raylabel.inference.parts import Part, write_part
from raylabel.inference.reuse import Reader, Rows
from raylabel.inference.scorer import Kept
from raylabel.schema import NAMES, REJECTS, THUMBNAILS

ITEMS = 32  # per actor at least, if there are enough units, so that all actors end at about the same time
PIXELS = 4  # batches in a block of pixels, if tasks decode: an actor copies one to the GPU while another is scored
BLOCK = 8 << 20  # bytes of a block that an actor returns, about 50,000 samples: the driver handles and counts blocks
FEW_ITEMS = 1000  # that the driver makes itself, and that one task makes
IN_FLIGHT = 64  # tasks that write parts at the same time
REUSED = 16  # parts that one task commits, if most of their units are reused: it reads 16 or 17 earlier ones, once each
# Restarts of one actor or task in total: a lost node takes one, a sample that crashes the teacher about ten.
MAX_RESTARTS = 1000


def score(task: ScoringTask, parts: Callable[[], Iterator[Part]], folder: str) -> Iterator[dict[str, Any]]:
    """Scores the parts and commits them in `folder`; yields the record of each once it is committed, in any order.

    `parts` yields the same parts each time it is called, so that they need not all be in memory.
    """
    writing: list[Any] = []  # references
    for run in _together(_spans(task, parts)):
        blocks = [ref for _, spans in run for ref, _, _ in spans]
        cuts = [[cut for _, *cut in spans] for _, spans in run]
        parts_of_run = [part for part, _ in run]
        beside = task.scorer.kept.beside(task.names)
        writing.append(_commit.remote(folder, task.scorer.kept, beside, parts_of_run, cuts, *blocks))
        while writing and (len(writing) > IN_FLIGHT or ray.wait(writing, timeout=0)[0]):
            done, writing = ray.wait(writing)
            yield from ray.get(done[0])
        show_writing(len(writing))
    while writing:
        done, writing = ray.wait(writing)
        show_writing(len(writing))
        yield from ray.get(done[0])


Span = tuple[Any, int, int]  # rows of a block: (reference of the block, first row, number of rows)


def _together(parts: Iterable[tuple[Part, list[Span]]]) -> Iterator[list[tuple[Part, list[Span]]]]:
    """The parts that one task commits: up to REUSED, which have together about as many new units as one part has
    units."""
    run, new = list[tuple[Part, list[Span]]](), 0
    for part, spans in parts:
        run.append((part, spans))
        new += len(part.units)
        if len(run) == REUSED or new >= len(part.units) + len(part.pieces):
            yield run
            run, new = [], 0
    if run:
        yield run


def _spans(task: ScoringTask, parts: Callable[[], Iterator[Part]]) -> Iterator[tuple[Part, list[Span]]]:
    """Each part with the rows that were scored for it, in order."""
    pool, count = task.pool, sum(len(part.units) for part in parts())
    if not count:
        yield from ((part, []) for part in parts())
        return
    size = units_of_item(count, pool.actors)
    items = [part.units[i : i + size] for part in parts() for i in range(0, len(part.units), size)]
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_consecutive_actor_init_deaths = 3  # a node may be lost while an actor starts on it
    # Ray starts another actor if more than 1.75 calls per thread of the others are in flight, and ends one below 0.5.
    context.autoscaling_config.actor_pool_util_upscaling_threshold /= CALLS
    context.autoscaling_config.actor_pool_util_downscaling_threshold /= CALLS
    # Rows are assigned to parts by their order alone.
    context.execution_options.preserve_order = True
    pixels = PIXELS * task.batch * int(np.prod(task.scorer.shape))
    context.target_max_block_size = BLOCK if pool.threads else max(BLOCK, pixels)
    with ray.data.DataContext.current(context):
        scored = _grouped(_pipeline(task, items), (part for part in parts() if part.units))
        yield from (next(scored) if part.units else (part, []) for part in parts())
        next(scored, None)  # raises an error if there are more rows


def units_of_item(units: int, actors: int) -> int:
    """Units per work item, for `units` in total."""
    return max(1, units // (ITEMS * actors))


def _blocks(items: Sequence[Sequence[Unit]]) -> ray.data.Dataset:
    """One block of ITEM for each. To put a block costs the driver a millisecond, so many are made by tasks."""
    if len(items) <= FEW_ITEMS:  # `from_arrow` would start a Ray task for each, which counts its rows
        return ray.data.from_blocks([item(units) for units in items])
    refs, size = [], int(np.mean([item(units).nbytes for units in items[:: -(-len(items) // 100)]]))
    for first in range(0, len(items), FEW_ITEMS):
        some = list(items[first : first + FEW_ITEMS])
        found: Any = _make_items.options(num_returns=len(some)).remote(some)
        refs += found if len(some) > 1 else [found]
    return blocks_of(refs, 1, size, ITEM)


@ray.remote(num_cpus=WRITERS, max_retries=3)
def _make_items(items: list[Sequence[Unit]]) -> Any:
    made = [item(units) for units in items]
    return made if len(made) > 1 else made[0]


def _pipeline(task: ScoringTask, items: list[Sequence[Unit]]) -> ray.data.Dataset:
    pool, work = task.pool, _blocks(items)
    size = min(pool.actors, len(items))  # the minimum; actors that wait for a lost node make Ray start another one
    work.set_name(task.shards.artifact.name.replace("shards", "label"))  # in Ray's dashboard and its metrics
    with warnings.catch_warnings():  # Ray deprecates these options but has no replacement yet
        warnings.simplefilter("ignore", RayDeprecationWarning)
        if not pool.threads:
            # Half a CPU: a decoding task waits for storage as long as it computes. (It also differs from the CPUs of
            # the actors, which keeps Ray from fusing decoding into them.)
            work = work.map_batches(
                functools.partial(decode, task),
                batch_size=1,
                batch_format="pyarrow",
                num_cpus=0.5,
                max_retries=MAX_RESTARTS,
            )
        # A call gets a block as it is: Ray would copy pixels into batches of other sizes. `map_batches` refuses that
        # for actors with a GPU, since it cannot know that `task.batch` images go to the GPU at a time.
        return work.map_batches_internal(
            ScoringActor,
            fn_constructor_args=(task,),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=pool.cpus,
            num_gpus=pool.gpus,
            compute=ray.data.ActorPoolStrategy(
                min_size=size,
                initial_size=size,
                max_size=len(items) if pool.grows else size,
                max_tasks_in_flight_per_actor=CALLS,
                max_concurrent_calls_per_actor=CALLS,
                enable_true_multi_threading=True,
            ),
            max_restarts=MAX_RESTARTS,
            max_task_retries=MAX_RESTARTS,
        )


def _grouped(dataset: ray.data.Dataset, parts: Iterator[Part]) -> Iterator[tuple[Part, list[Span]]]:
    """Each part with its spans of the blocks. The blocks are in the order of the parts."""
    part = next(parts)
    spans: list[Span] = []
    missing = part.rows
    for bundle in dataset.iter_internal_ref_bundles():
        for entry in bundle.blocks:
            first, rows = 0, entry.metadata.num_rows or 0
            while first < rows:
                taken = min(missing, rows - first)
                if not taken:
                    raise AssertionError("the stream of scores has more rows than the parts")
                spans.append((entry.ref, first, taken))
                first, missing = first + taken, missing - taken
                if not missing:
                    yield part, spans
                    part, spans = next(parts, Part(-1, ())), []
                    missing = part.rows
    if part.units:
        raise AssertionError(f"the stream of scores ended inside part {part.number}")


@ray.remote(num_cpus=WRITERS / 4, max_retries=3)
def _commit(
    folder: str,
    kept: Kept,
    beside: tuple[str, ...],
    parts: Sequence[Part],
    cuts: Sequence[Sequence[Sequence[int]]],
    *blocks: pa.Table,
) -> list[dict[str, Any]]:
    """Commits the parts and returns their records. `cuts`: of each part, the (first row, rows) of its blocks."""
    reader, rest = Reader(kept.name, beside), iter(blocks)
    return [
        write_part(folder, kept, part, reader, [_split(kept, next(rest).slice(*cut), beside) for cut in mine], beside)
        for part, mine in zip(parts, cuts, strict=True)
    ]


def _split(kept: Kept, block: pa.Table, beside: tuple[str, ...]) -> Rows:
    """Rows of `kept.rows`."""
    rejected = pc.not_equal(block.column("reason"), "")  # pyright: ignore[reportAttributeAccessIssue]
    scored = block.filter(pc.invert(rejected))  # pyright: ignore[reportAttributeAccessIssue]
    others = {"names": lambda: block.select(NAMES.names), "thumbnails": lambda: _thumbnails(scored)}
    tables = scored.select(kept.schema.names).cast(kept.schema), block.filter(rejected).select(REJECTS.names)
    return *tables, *(others[name]() for name in beside)


def _thumbnails(scored: pa.Table) -> pa.Table:
    pixels = scored.column("thumbnail").combine_chunks().flatten().to_numpy()
    field = THUMBNAILS.field("thumbnail")
    column = pa.FixedSizeBinaryArray.from_buffers(field.type, len(scored), [None, pa.py_buffer(pixels)])
    return pa.Table.from_arrays([scored.column("key"), column], schema=THUMBNAILS)
