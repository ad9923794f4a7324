"""The page of a deduplication: counts, the largest groups, and the pairs around the threshold side by side."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from raylabel.report.html import render
from raylabel.report.page import Pair, ShownGroup
from raylabel.report.pairs import SHOWN, around_threshold
from raylabel.report.previews import read_previews
from raylabel.selection.groups import Groups
from raylabel.ship.deduplication import Deduplication
from raylabel.ship.parts import Places
from raylabel.store.artifact import Artifact


@dataclass(frozen=True)
class Picture:
    """A sample that is shown."""

    uri: str
    jpeg: bytes


@dataclass(frozen=True)
class ShownPair:
    """A pair that is shown: a copy, and the sample that is kept or that of the set."""

    pair: Pair
    uris: tuple[str, str]


@dataclass(frozen=True)
class _Row:
    """A pair of the key of a copy and that of a sample of the corpus or, if `set` is not empty, of a set."""

    key: int
    other: int
    set: str
    similarity: float
    near: bool


def make_page(
    found: Deduplication, groups: Groups, pairs: Artifact | None, places: Mapping[str, Places], max_jpeg_pixels: int
) -> str:
    """The page as HTML text. `places`: those of the corpus, by the name '', and of each set."""
    rows = _rows(groups, pairs)
    keys = {name: {row.other for row in rows if row.set == name} for name in places}
    keys[""] |= {row.key for row in rows}.union(*({group.kept, *group.copies} for group in groups.largest))
    pictures = {name: _pictures(places[name], some, max_jpeg_pixels) for name, some in keys.items()}
    mine = pictures[""]
    data = json.loads(json.dumps(dataclasses.asdict(found), allow_nan=False))
    shown = [
        ShownGroup(
            group.size, mine[group.kept].uri, [(mine[key].jpeg, mine[key].uri) for key in (group.kept, *group.copies)]
        )
        for group in groups.largest
        if all(key in mine for key in (group.kept, *group.copies))
    ]
    return render("ship/deduplication.html.j2", data, groups=shown, pairs=_shown(rows, pictures))


def _rows(groups: Groups, pairs: Artifact | None) -> list[_Row]:
    """The near-duplicates that are least similar, and the pairs with sets below the threshold that are most similar; by
    similarity, descending."""
    near = [_Row(key, original, "", similarity, True) for key, original, similarity in groups.nearest]
    of_sets = [
        _Row(row["key"], row["reference"], row["set"], row["similarity"], row["kind"] == "near")
        for row in (around_threshold(pairs) if pairs else ())
    ]
    near = sorted([*near, *(row for row in of_sets if row.near)], key=lambda row: (row.similarity, row.key))[:SHOWN]
    return [*near[::-1], *(row for row in of_sets if not row.near)]


def _shown(rows: list[_Row], pictures: Mapping[str, Mapping[int, Picture]]) -> list[ShownPair]:
    found = list[ShownPair]()
    for row in rows:
        copy, other = pictures[""].get(row.key), pictures[row.set].get(row.other)
        if copy and other:
            pair = Pair(similarity=row.similarity, near=row.near, set=row.set, jpegs=(copy.jpeg, other.jpeg))
            found.append(ShownPair(pair, (copy.uri, other.uri)))
    return found


def _pictures(places: Places, keys: set[int], max_jpeg_pixels: int) -> dict[int, Picture]:
    """The samples that can be shown."""
    key = sorted(keys)
    if not key:
        return {}
    uris = dict(zip(key, places.addresses(np.array(key, np.int64)), strict=True))
    previews = read_previews(places.corpus, places.shards, key, max_jpeg_pixels)
    return {one: Picture(uris[one], jpeg) for one, (jpeg, _) in previews.items()}
