"""The similarity of aligned pictures: of copies, of other pictures, and against a search of all places."""

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from copies import COPIES, photographs, thumbnails_of
from PIL import Image

from raylabel.features import alignment
from raylabel.features.alignment import LEVELS, similarities
from raylabel.features.search import References
from raylabel.features.thumbnails import SIDE, descriptors, thumbnails
from raylabel.selection.compare import CANDIDATE
from raylabel.selection.pairs import THRESHOLD

COUNT = 150


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return photographs(COUNT)


def test_a_picture_is_like_itself_whatever_its_brightness_and_contrast(pictures):
    found = thumbnails_of(pictures)
    np.testing.assert_allclose(similarities(found, found), 1, atol=1e-4)
    darker = (found // 2 + 30).astype(np.uint8)
    assert (similarities(found, darker) > 0.99).all()


@pytest.mark.parametrize("kind", COPIES)
def test_copies_are_similar(pictures, kind):
    rng = np.random.default_rng(1)
    altered = thumbnails_of([COPIES[kind](picture, rng) for picture in pictures])
    similar = similarities(altered, thumbnails_of(pictures)) >= THRESHOLD
    assert similar.mean() >= (0.9 if kind in ("crop", "combo") else 0.99)


def test_other_pictures_are_not(pictures):
    found = thumbnails_of(photographs(COUNT, seed=5))
    others = similarities(found, np.roll(found, 1, axis=0))  # windows of two photographs in turn
    assert len(others) == COUNT and others.max() < 0.5


def test_pictures_without_edges_are_like_none():
    flat = np.full((3, SIDE * SIDE * 3), 90, np.uint8)
    edge = flat.reshape(3, SIDE, SIDE, 3).copy()
    edge[:, :, 12:] = 200
    assert similarities(flat, flat).tolist() == [0, 0, 0]
    assert similarities(flat, edge.reshape(3, -1)).tolist() == [0, 0, 0]
    assert similarities(edge.reshape(3, -1), edge.reshape(3, -1)) == pytest.approx(1, abs=1e-4)


def test_a_pair_does_not_depend_on_the_others(pictures, monkeypatch):
    rng = np.random.default_rng(1)
    mine, others = thumbnails_of([COPIES["combo"](picture, rng) for picture in pictures]), thumbnails_of(pictures)
    whole = similarities(mine, others)
    monkeypatch.setattr(alignment, "PAIRS", 7)
    np.testing.assert_allclose(similarities(mine, others), whole, atol=1e-4)
    order = rng.permutation(COUNT)
    np.testing.assert_allclose(similarities(mine[order], others[order]), whole[order], atol=1e-4)


def test_the_place_is_about_as_good_as_the_best_of_all_places(pictures):
    """Against all scales and shifts on a grid, by the correlation that is maximised."""
    some = pictures[:12]
    rng = np.random.default_rng(2)
    fixed = alignment._pixels(thumbnails_of([COPIES["crop"](picture, rng) for picture in some]))
    moving = alignment._pixels(thumbnails_of(some))
    best = torch.full((len(some),), -1.0)
    for scale_x in (grid := np.linspace(0.85, 1, 6)):
        for scale_y in grid:
            for shift_x in np.linspace(-0.1, 0.1, 5):
                for shift_y in np.linspace(-0.1, 0.1, 5):
                    place = torch.tensor([[scale_x, shift_x, scale_y, shift_y]]).float().repeat(len(some), 1)
                    best = torch.maximum(best, alignment._align(fixed, moving, place, 0)[0])
    place, found = torch.tensor([1.0, 0, 1, 0]).repeat(len(some), 1), best
    for side, steps, _ in LEVELS:
        mine, others = (torch.nn.functional.adaptive_avg_pool2d(x, side) for x in (fixed, moving))
        found, place = alignment._align(mine, others, place, steps)
    assert (found > best - 0.02).all() and (found > best).float().mean() > 0.5


def test_recall_on_planted_copies_by_kind(shared: Path):
    """The figures of docs/leaks.md; bars by kind."""
    folder = shared / "dups-dev"
    truth = {row["id"]: row for row in pq.read_table(folder / "dups-truth.parquet").to_pylist()}
    table = pq.read_table(folder / "dups.parquet").to_pylist()
    rows = [row for number, row in enumerate(table) if row["id"] in truth or number % 4 == 0]
    samples = [Image.open(io.BytesIO(row["image"])).convert("RGB") for row in rows]
    pixels = np.stack([np.asarray(picture.resize((32, 32), Image.Resampling.BILINEAR)) for picture in samples])
    found = np.concatenate([thumbnails(some).numpy() for some in torch.from_numpy(pixels).split(256)])
    pairs = References(descriptors(found), CANDIDATE, "fp32").pairs(descriptors(found))
    once = pairs.at < pairs.reference
    at, other = pairs.at[once], pairs.reference[once]
    near = similarities(found[at], found[other]) >= THRESHOLD
    known = {*zip(at[near].tolist(), other[near].tolist(), strict=True)}
    of = [truth.get(row["id"], {"group": row["id"], "kind": ""}) for row in rows]
    original = {one["group"]: number for number, one in enumerate(of) if one["kind"] == "original"}
    hits: dict[str, list[bool]] = {}
    for number, one in enumerate(of):
        if one["kind"] not in ("", "original"):
            first = original[one["group"]]
            hits.setdefault(one["kind"], []).append((min(first, number), max(first, number)) in known)
    recall = {kind: float(np.mean(some)) for kind, some in hits.items()}
    assert all(recall[kind] >= 0.98 for kind in ("bytes", "png", "jpeg", "resize", "bright")), recall
    assert recall["crop"] >= 0.9 and recall["combo"] >= 0.9 and recall["flip"] <= 0.05, recall
