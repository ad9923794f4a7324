"""The cost model: sizes and speeds → the seconds of a stage, and the expected picks. It runs no work.

Letters: N samples of the corpus, n of them sampled, S shards, C classes, P classes kept per sample, K samples kept per
class.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from raylabel.features.partitions import ITERATIONS
from raylabel.inference.pool import units_of_item
from raylabel.plan.pilot import Compared, Materialized, Sorted
from raylabel.selection.candidates import lists_of
from raylabel.selection.config import Select
from raylabel.selection.copies import MAPPED, Layout
from raylabel.selection.leaders import BLOCK, CONFIRMED
from raylabel.selection.lengths import list_lengths
from raylabel.selection.pairs import task_parts
from raylabel.selection.topk import TopK

REPLICATES = 200  # of the bootstrap
COMMON = 2.1
"""Partitions in which two similar pictures both are, of the three of each. Measured on the 2,751 pairs of 46,000
CIFAR-10 pictures that are candidates: 2.2 with 45 partitions, 2.0 with 180."""


def labeling_seconds(rows: np.ndarray, unit: int, batch: int, actors: int, slots_per_second: float) -> float:
    """Seconds to label a corpus in the steady state. `rows`: rows of each shard, int64 [S]. `unit`: rows of a unit.
    `slots_per_second`: of one actor.

    Batches are padded at the end of a unit. Actors take whole work items, so some of them have nothing to do at the end
    of a small corpus.
    """
    full, rest = np.divmod(rows, unit)
    slots = int((full * -(-unit // batch) + -(-rest // batch)).sum()) * batch
    units = int((full + (rest > 0)).sum())
    items = math.ceil(units / units_of_item(units, actors))
    rounds = math.ceil(items / actors)
    return slots / items * rounds / slots_per_second


def sorting_seconds(rows: int, tasks: int, found: Sorted) -> float:
    """Seconds of a pass over `rows` rows of SCORES by `tasks` tasks."""
    return found.seconds + max(0, rows - found.rows) * found.seconds_per_row / tasks


def comparing_seconds(rows: int, references: int, part: int, cpus: int, found: Compared) -> float:
    """Seconds to compare `rows` rows, in parts of `part` rows, with references. A task takes whole parts, and prepares
    all references for itself. The pairs that are aligned grow with all pairs."""
    part = min(part, rows)
    parts = -(-rows // part)
    tasks = sum(1 for _ in task_parts(dict.fromkeys(range(parts), part), references))
    per_pair = found.seconds_per_pair + found.candidates * found.seconds_per_candidate
    work = (rows + tasks * references) * found.seconds_per_row + rows * references * per_pair
    return work / tasks * -(-tasks // cpus)


def copying_seconds(rows: int, cpus: int, found: Compared) -> float:
    """Seconds to find the near-duplicates within a corpus: one task trains the partitions, others divide the rows, and
    others compare each with those before it in its partitions.

    A picture has similar ones in proportion to `rows`, of which at most CONFIRMED are aligned in each partition. Of a
    sample of n pictures it is not known how many have fewer than one in n that is similar, so of a corpus that is much
    larger than the sample the estimate is too low.
    """
    inside, layout = found.inside, Layout.of(rows, "")
    assert inside is not None
    maps = -(-rows // MAPPED)
    training = layout.trained * layout.partitions * ITERATIONS * inside.seconds_per_centroid
    # A row is read, and written for each of its partitions: each takes about as long.
    dividing = rows * (1 + layout.probes) * found.seconds_per_row
    dividing += rows * layout.partitions * inside.seconds_per_centroid * (layout.partitions > 1)
    before = rows * layout.probes / layout.partitions / 2  # pictures that one is compared with in a partition
    similar = float(np.minimum(CONFIRMED, inside.candidates * rows / 2).mean())
    aligned = similar * (COMMON if layout.probes > 1 else 1)
    blocks = rows * layout.probes / BLOCK
    comparing = rows * layout.probes * (found.seconds_per_row + before * inside.seconds_per_pair)
    comparing += rows * aligned * found.seconds_per_candidate
    comparing += blocks * -math.expm1(-rows * aligned / blocks) * inside.seconds_per_call  # those that have candidates
    shares = ((dividing, maps), (comparing, layout.buckets))
    return training + sum(work / tasks * -(-tasks // cpus) for work, tasks in shares)


def materializing_seconds(samples: int, read: float, file_samples: int, cpus: int, found: Materialized) -> float:
    """Seconds to read `read` rows and write `samples` of them, in files of `file_samples`, each written by one CPU."""
    files = max(1, -(-samples // file_samples))
    work = read * found.seconds_per_row + samples * found.seconds_per_pick
    return found.start + work / files * -(-files // cpus)


def rows_read(rows: int, density: float, group_rows: int, stretches: int = 1) -> float:
    """Rows that are read of a corpus of `rows` rows in which samples are picked at random with this density, 0 to 1.

    Each group is read from its start to its last picked row. So row i of m is read with the probability that at least
    one of the m - i rows from i on is picked. If the picks are read in so many stretches, a group in which one of them
    ends and the next one begins is also read up to this end.
    """
    group, miss = min(group_rows, rows), 1 - density
    if not density:
        return 0.0
    end = np.arange(1, group + 1)  # rows up to the last pick of a stretch; another pick may follow in the group
    again = float((end * (1 - miss ** (group - end))).mean())
    return rows * (1 - miss * (1 - miss**group) / (density * group)) + (stretches - 1) * again


@dataclass(frozen=True)
class Expected:
    """The expected result of a selection."""

    reach: tuple[int, int, int]
    """Classes that will have K picks: the estimate, and the ends of its 95% interval."""
    picks: int
    """Pairs of a sample and a label."""
    samples: int
    """Distinct samples."""


def expected_picks(
    scores: pa.Table, unit: int, seen: int, samples: int, config: Select, classes: Sequence[str]
) -> Expected:
    """Estimates the picks from SCORES of `seen` of the N = `samples` samples: whole units of `unit` rows, or stretches
    of them, that were drawn at random.

    Segments of one video that are not adjacent in the corpus count as if they were from several videos. The interval
    comes from a bootstrap over units, since neighbours in a corpus are similar. If all samples were seen and scored,
    the result is exactly that of the selection.
    """
    key = scores.column("key").to_numpy()
    digest = np.frombuffer(b"".join(scores.column("digest").to_pylist()), np.uint64).reshape(-1, 2)
    order = np.lexsort((key, digest[:, 1], digest[:, 0]))
    new = np.ones(len(order), bool)
    new[1:] = (digest[order][1:] != digest[order][:-1]).any(axis=1)
    kept = np.sort(order[new])  # byte-identical copies count once, under the smallest key
    p, scale, count = config.p, samples / max(1, seen), len(classes)
    label, value = (lists_of(scores, name)[kept, :p].ravel() for name in ("classes", config.column))
    lengths = list_lengths(config, classes, np.bincount(label[::p], minlength=count))
    units = np.unique(key[kept] // unit)
    stretch = np.cumsum(np.diff(units, prepend=units[:1]) > 1)  # adjacent units were drawn together
    stretches = len(np.unique(stretch))
    rows = np.bincount(stretch[np.searchsorted(units, key[kept] // unit)], minlength=stretches)
    own = [np.repeat(values[kept], p) for values in (key, scores.column("group").to_numpy())]
    if config.minimum is not None:
        enough = value >= np.float32(config.minimum)
        label, value, own = label[enough], value[enough], [values[enough] for values in own]
    best = TopK(count, max(1, len(label)), groups=True)
    best.add(label, value, own[0], own[1] * (not config.repeat_videos))
    label, value, key, _ = best.kept(0, count)
    of = stretch[np.searchsorted(units, key // unit)]
    counts = np.bincount(of * count + label, minlength=stretches * count).reshape(stretches, count)
    expected = counts.sum(axis=0) * scale

    best = TopK(count, np.ceil(lengths / scale).astype(np.int64))
    best.add(label, value, key)
    distinct = len(np.unique(best.result()[3]))
    reach = int((expected >= lengths).sum())
    low = high = reach
    if seen < samples:
        rng = np.random.default_rng(0)
        weights = rng.multinomial(stretches, np.full(stretches, 1 / stretches), REPLICATES)
        drawn = weights @ counts * (scale * rows.sum() / (weights @ rows))[:, None]
        ends = np.percentile((drawn >= lengths).sum(axis=1), (2.5, 97.5))
        low, high = min(reach, math.floor(ends[0])), max(reach, math.ceil(ends[1]))
    picks = round(float((lengths * (expected > 0) if config.fill else np.minimum(expected, lengths)).sum()))
    return Expected((reach, low, high), picks, min(samples, round(distinct * scale)))
