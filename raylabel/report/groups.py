"""The copies within a run's corpus that are shown: the largest groups, and the near-duplicates that are least
similar."""

from raylabel.corpus import Shards
from raylabel.pipelines.semi_supervised import Run
from raylabel.report.page import Copies, Pair, ShownGroup
from raylabel.report.pairs import SHOWN
from raylabel.report.previews import read_previews
from raylabel.selection.groups import find_groups

GROUPS, MEMBERS = 20, 7
"""What is shown at most: groups, and copies of each."""


def shown_copies(run: Run) -> Copies | None:
    """None if near-duplicates were not searched for, or there are no copies."""
    if not (run.copies and run.duplicates):
        return None
    found = find_groups(run.duplicates, run.copies, GROUPS, MEMBERS, SHOWN)
    keys = {key for group in found.largest for key in (group.kept, *group.copies)}
    keys |= {key for copy, original, _ in found.nearest for key in (copy, original)}
    shards, limit = Shards(run.start.shards["unlabeled"]), run.recipe.max_jpeg_pixels
    previews = read_previews(run.start.corpora["unlabeled"], shards, sorted(keys), limit)
    jpeg = {key: picture for key, (picture, _) in previews.items()}
    groups = [
        ShownGroup(group.size, "", [(jpeg[key], "sample of the corpus") for key in (group.kept, *group.copies)])
        for group in found.largest
        if jpeg.keys() >= {group.kept, *group.copies}
    ]
    pairs = [
        Pair(similarity=similarity, near=True, set="", jpegs=(jpeg[copy], jpeg[original]))
        for copy, original, similarity in found.nearest[::-1]
        if jpeg.keys() >= {copy, original}
    ]
    return Copies(count=found.count, groups=groups, pairs=pairs) if found.count else None
