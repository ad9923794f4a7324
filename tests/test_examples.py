"""PICKS + corpus → EXAMPLES: the picked multiset, nothing else, and the stream over it."""

import io
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from helpers import contents, digit_images, write_parquet
from PIL import Image

from raylabel import examples
from raylabel.artifact import Artifact, Built, Root, write_table
from raylabel.corpus import Corpus, index_corpus
from raylabel.errors import InputError
from raylabel.examples import Materialize, materialize
from raylabel.media.decode import decode_image
from raylabel.schema import EXAMPLES, PICKS, REJECTS
from raylabel.stream import Stream

LANES = Materialize(lanes=4)


def picks_of(root: Root, pairs: list[tuple[int, int]]) -> Artifact:
    """PICKS of (label, key) pairs."""
    rank: Counter[int] = Counter()
    rows = []
    for label, key in sorted(pairs):
        rank[label] += 1
        rows.append({"label": label, "rank": rank[label], "score": 0.0, "key": key})
    table = pa.Table.from_pylist(rows, schema=PICKS)
    name = {"pairs": sorted(map(list, pairs))}
    return root.make("picks", name, lambda d: Built([write_table(d.uri, "picks-00000.parquet", table)], {}))


def make(tmp_path, media, pairs, config=LANES, limit=0.05):
    (tmp_path / "data").mkdir(exist_ok=True)
    for number in range(2):  # two shards: keys of the second begin at 1 << 32
        write_parquet(tmp_path / "data" / f"{number}.parquet", media[number])
    corpus = Corpus(uri=(str(tmp_path / "data"),))
    root = Root.open(str(tmp_path / "root"))
    shards = index_corpus(root, "unlabeled", corpus)
    return materialize(root, "picked", picks_of(root, pairs), shards, corpus, config, limit)


@pytest.fixture(scope="module")
def media():
    some, _ = digit_images()
    return some[:150], some[150:250]


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(0)
    keys = [*range(0, 150, 2), *((1 << 32) + i for i in range(0, 100, 3))]
    return [(int(label), key) for key in keys for label in rng.choice(10, rng.integers(1, 4), replace=False)]


def test_examples_hold_exactly_the_picks(ray_local, tmp_path, media, pairs):
    made = make(tmp_path, media, pairs)
    rows = made.table("examples-", EXAMPLES).to_pylist()
    assert Counter((label, row["key"]) for row in rows for label in row["labels"]) == Counter(pairs)
    assert len({row["key"] for row in rows}) == len(rows)  # bytes once
    assert all(row["media"] == media[row["key"] >> 32][row["key"] & 0xFFFFFFFF] for row in rows)
    assert made.info["items"] == len(pairs) and made.info["samples"] == len(rows) and made.info["rejected"] == 0
    # Each epoch of the stream is the picks.
    stream = Stream(made, seed=0)
    sizes = [lane.size for lane in stream.lanes]
    assert sum(sizes) == len(pairs) and len(sizes) == 4
    epoch = [(label, key) for g, key, _, label in stream.items(0, 4 * max(sizes)) if g // 4 < sizes[g % 4]]
    assert Counter(epoch) == Counter(pairs)


def test_files_of_a_corpus_sorted_by_class_are_well_mixed(ray_local, tmp_path):
    some, labels = digit_images()
    order = np.argsort(labels, kind="stable")
    media = [some[i] for i in order], some[:1]
    made = make(tmp_path, media, [(int(labels[i]), key) for key, i in enumerate(order)], Materialize(lanes=8))
    first = [label for _, _, _, label in Stream(made, seed=0).items(0, 200)]
    assert min(Counter(first)[c] for c in range(10)) >= 8  # of 20 expected; in corpus order all would be of one class


def test_equal_picks_give_equal_bytes(ray_local, tmp_path, media, pairs):
    made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        made.append(make(tmp_path / name, media, pairs))
    assert contents(made[0]) == contents(made[1]) and made[0].digest == made[1].digest


def test_reencoding_shrinks_the_short_side_only_where_larger(ray_local, tmp_path):
    rng = np.random.default_rng(0)

    def jpeg(width, height):
        out = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (5, 5, 3), np.uint8)).resize((width, height)).save(out, "JPEG")
        return out.getvalue()

    big, wide, small = jpeg(200, 100), jpeg(90, 300), jpeg(30, 40)
    made = make(tmp_path, ([big, wide, small], [small]), [(0, 0), (1, 1), (0, 2)], Materialize(short_side=50))
    rows = {row["key"]: row["media"] for row in made.table("examples-", EXAMPLES).to_pylist()}
    assert [decode_image(rows[key]).size for key in range(3)] == [(100, 50), (50, 167), (30, 40)]
    assert rows[2] == small
    reference = np.asarray(decode_image(big).resize((100, 50)), int)
    assert np.abs(np.asarray(decode_image(rows[0]), int) - reference).mean() < 3  # JPEG at quality 90


def test_unreadable_picks_are_rejects_and_too_many_an_error(ray_local, tmp_path, media):
    bad = [b"no picture", *media[0][1:40]], [None, *media[1][1:]]
    pairs = [(0, key) for key in range(40)] + [(1, 1 << 32)]
    made = make(tmp_path, bad, pairs, limit=0.06)
    rejects = made.table("rejects-", REJECTS).to_pylist()
    assert sorted((r["key"], r["stage"], r["reason"]) for r in rejects) == [
        (0, "decode", "unrecognized"),
        (1 << 32, "read", "missing"),
    ]
    assert made.info["samples"] == 39 and made.info["rejected"] == 2
    (tmp_path / "again").mkdir()
    with pytest.raises(InputError, match="2 of 41 picked samples could not be read"):
        make(tmp_path / "again", bad, pairs, limit=0.01)


def test_mixing_is_a_bijection():
    keys = [k << s for k in range(200) for s in (0, 32)]
    assert len({examples._mix(k) for k in keys}) == len(set(keys))
