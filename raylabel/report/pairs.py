"""The pairs of a run's corpus and its evaluation sets that are shown side by side: those around the threshold."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raylabel.corpus import Shards
from raylabel.pipelines.leaks import corpus_of
from raylabel.pipelines.semi_supervised import Run
from raylabel.report.page import Pair
from raylabel.report.previews import read_previews
from raylabel.schema import PAIRS
from raylabel.store.artifact import Artifact

SHOWN = 12
"""On each side of the threshold."""
READ = 1 << 16  # rows of PAIRS of which only those that are shown are kept


def shown_pairs(run: Run) -> list[Pair]:
    """The near-duplicates that are least similar, and the pairs below the threshold that are most similar; by
    similarity, descending. Of each sample of the corpus, its most similar pair."""
    rows = around_threshold(run.pairs) if run.pairs else []
    names = {"unlabeled", *(row["set"] for row in rows)}
    keys = {name: sorted({row["reference"] for row in rows if row["set"] == name}) for name in names}
    keys["unlabeled"] = sorted({row["key"] for row in rows})
    limit = run.recipe.max_jpeg_pixels
    corpora = {name: corpus_of(run, name) for name in keys}
    pictures = {
        name: read_previews(run.start.corpora[corpora[name]], Shards(run.start.shards[corpora[name]]), some, limit)
        for name, some in keys.items()
    }
    return [
        Pair(similarity=row["similarity"], near=row["kind"] == "near", set=row["set"], jpegs=(mine[0], other[0]))
        for row in rows
        if (mine := pictures["unlabeled"].get(row["key"])) and (other := pictures[row["set"]].get(row["reference"]))
    ]


def around_threshold(pairs: Artifact) -> list[dict[str, Any]]:
    """The rows of PAIRS that are shown; none if near-duplicates were not searched for."""
    if not pairs.info["threshold"]:
        return []
    near, below = PAIRS.empty_table(), PAIRS.empty_table()
    for file in pairs.files("pairs-"):
        with pairs.opened(file) as opened:
            for batch in opened.iter_batches(READ):
                table = pa.Table.from_batches([batch])
                near = _first(pa.concat_tables([near, _of_kind(table, "near")]), "ascending")
                below = _first(pa.concat_tables([below, _of_kind(table, "below")]), "descending")
    return sorted([*near.to_pylist(), *below.to_pylist()], key=lambda row: -row["similarity"])


def _of_kind(table: pa.Table, kind: str) -> pa.Table:
    """Of each sample the most similar pair of this kind."""
    table = table.filter(pc.equal(table.column("kind"), kind))  # pyright: ignore[reportAttributeAccessIssue]
    table = table.sort_by([("key", "ascending"), ("similarity", "descending")])
    return table.take(np.unique(table.column("key").to_numpy(), return_index=True)[1])


def _first(table: pa.Table, order: str) -> pa.Table:
    return table.sort_by([("similarity", order), ("key", "ascending")])[:SHOWN]
