"""The picks that a run will have: those of its PICKS, or estimated from SCORES or from what the pilot labeled."""

import pyarrow as pa
import pyarrow.parquet as pq

from raylabel.corpus import Shards, unit_rows
from raylabel.pipelines.inputs import Prepared
from raylabel.plan.cost import Expected, expected_picks
from raylabel.plan.done import Done
from raylabel.plan.pilot import Labeled
from raylabel.recipes.recipe import Recipe
from raylabel.schema import SCORES
from raylabel.store.files import filesystem, reading

FILES = 16  # of existing SCORES that are read to estimate the picks


def expect(recipe: Recipe, start: Prepared, done: Done, labeled: Labeled | None) -> Expected | None:
    """The expected picks; None if there is no teacher yet to estimate them with."""
    classes, unit = start.classes, unit_rows(start.corpora["unlabeled"])
    if picks := done["picks"]:
        info = picks.info
        lengths = info.get("lengths", [recipe.select.k] * len(classes))
        reach = sum(count >= most for count, most in zip(info["per_class"], lengths, strict=True))
        return Expected((reach, reach, reach), info["picks"], info["samples"])
    if scores := done["labels"]:
        files = scores.files("scores-")
        some = files[:: max(1, len(files) // FILES)]
        fs, path = filesystem(scores.uri)
        with reading(scores.uri):
            tables = [pq.read_table(f"{path}/{file.name}", filesystem=fs) for file in some]
        table = pa.concat_tables([SCORES.empty_table(), *tables])
        return expected_picks(table, unit, table.num_rows, scores.info["scored"], recipe.select, classes)
    if done["teacher"] and labeled:
        samples = Shards(start.shards["unlabeled"]).samples
        return expected_picks(labeled.rows, unit, labeled.seen, samples, recipe.select, classes)
    return None
