"""Random labels against a draw for each key, shuffled ones against the true ones, and both against their
distributions."""

import numpy as np
import pytest
from helpers import write_parquet
from scipy import stats

from raylabel.corpus import Corpus, Shards
from raylabel.errors import InputError
from raylabel.labels import drawn
from raylabel.labels.drawn import RandomLabels, ShuffledLabels, draw
from raylabel.labels.truth import GivenLabels
from raylabel.rng import mixed
from raylabel.schema import PICKS, make_key
from raylabel.store.artifact import Artifact, Root

FILES = 7, 0, 40, 1


@pytest.fixture(scope="module")
def labeled(tmp_path_factory, indexed) -> tuple[Corpus, Artifact]:
    """48 samples in files of different sizes, a quarter of the classes 0 and 1, half of 2. No picture can be read."""
    folder, first = tmp_path_factory.mktemp("labeled"), 0
    for number, rows in enumerate(FILES):
        labels = [min(i % 4, 2) for i in range(first, first + rows)]
        write_parquet(folder / f"{number}.parquet", [b"no picture"] * rows, labels)
        first += rows
    corpus = Corpus(uri=(str(folder),))
    return corpus, indexed(corpus).artifact


@pytest.fixture
def root(tmp_path) -> Root:
    return Root.open(str(tmp_path / "root"))


def rows_of(picks: Artifact) -> list[tuple[int, int, float, int]]:
    return [tuple(row.values()) for row in picks.table("picks-", PICKS).to_pylist()]


def labels_of(picks: Artifact) -> np.ndarray:
    """In the order of keys."""
    table = picks.table("picks-", PICKS).sort_by("key")
    return table.column("label").to_numpy()


@pytest.mark.parametrize("rows", [drawn.ROWS, 10, 1])
@pytest.mark.parametrize("classes, round", [(3, 0), (3, 1), (200, 0)])
def test_each_sample_has_the_label_of_its_key(labeled, root, monkeypatch, rows, classes, round):
    monkeypatch.setattr(drawn, "ROWS", rows)
    corpus, shards = labeled
    source = RandomLabels(classes=tuple(f"c{n}" for n in range(classes)), seed=5)
    picks = source.label(root, corpus, shards, round)
    keys = [make_key(number, row) for number, rows in enumerate(Shards(shards).rows) for row in range(rows)]
    lists: dict[int, list[int]] = {}
    for key in keys:
        lists.setdefault(int(draw(np.array([key]), classes, 5, round)[0]), []).append(key)
    assert rows_of(picks) == [(c, n, 0.0, k) for c in sorted(lists) for n, k in enumerate(sorted(lists[c]), 1)]
    assert picks.info["per_class"] == [len(lists.get(c, ())) for c in range(classes)]
    assert (picks.info["picks"], picks.info["samples"], picks.info["classes"]) == (48, 48, list(source.classes))
    assert picks.name == "random" and picks == source.label(root, corpus, shards, round)
    # A slice has at most 64 classes, and with many samples fewer.
    assert len(picks.files("picks-")) == {drawn.ROWS: 1, 10: 3, 1: 3}[rows] if classes == 3 else 4


def test_blocks_have_every_sample_once_in_key_order(labeled, monkeypatch):
    _, shards = labeled
    whole = list(drawn._Drawing(Shards(shards), "", 3, 5, 0).draws())
    monkeypatch.setattr(drawn, "BLOCK", 6)
    blocks = list(drawn._Drawing(Shards(shards), "", 3, 5, 0).draws())
    assert [len(key) for key, _ in blocks] == [6, 1, 6, 6, 6, 6, 6, 6, 4, 1]
    for some, all in zip(zip(*blocks, strict=True), zip(*whole, strict=True), strict=True):
        assert np.array_equal(np.concatenate(some), np.concatenate(all))


@pytest.mark.parametrize("classes", [2, 10, 101])
def test_every_class_is_as_likely_whatever_the_seed_and_the_round(classes):
    keys = np.concatenate([make_key(shard, 0) + np.arange(500) for shard in range(400)])
    draws = [draw(keys, classes, seed, round) for seed, round in [(0, 0), (0, 1), (1, 0), (2**63, 7)]]
    for one in draws:
        assert stats.chisquare(np.bincount(one, minlength=classes)).pvalue > 1e-4
        assert abs(np.corrcoef(one[:-1], one[1:])[0, 1]) < 0.01  # of neighbours
        for other in draws:
            if one is not other:
                both = np.bincount(one * classes + other, minlength=classes**2)
                assert stats.chisquare(both).pvalue > 1e-4  # independent
                for shift in (-2, -1, 1, 2):  # nor is one the other of the next samples
                    assert abs((np.roll(one, shift) == other).mean() - 1 / classes) < 0.01


def test_the_numbers_are_those_of_splitmix64():
    """The first outputs of the generator with the state 0, which has added its constant once before each."""
    golden = 0x9E3779B97F4A7C15
    states = np.array([n * golden % 2**64 for n in range(3)], np.uint64)
    assert mixed(states).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_shuffled_labels_are_the_true_ones_of_other_samples(labeled, root):
    corpus, shards = labeled
    truth = GivenLabels().label(root, corpus, shards)
    true, seen = labels_of(truth), set()
    for seed, round in [(0, 0), (0, 1), (1, 0)]:
        picks = ShuffledLabels(seed=seed).label(root, corpus, shards, round)
        assert picks.name == "shuffled" and picks.info | {"seconds": 0} == truth.info | {"seconds": 0}
        assert sorted(labels_of(picks)) == sorted(true)
        assert {row[3] for row in rows_of(picks)} == {row[3] for row in rows_of(truth)}
        seen.add(tuple(labels_of(picks)))
    assert len(seen) == 3 and tuple(true) not in seen


def test_any_sample_may_get_any_label(labeled, root):
    corpus, shards = labeled
    true = labels_of(GivenLabels().label(root, corpus, shards))
    found = np.array([labels_of(ShuffledLabels(seed=n).label(root, corpus, shards)) for n in range(200)])
    shares = np.bincount(true) / len(true)
    for sample in range(0, 48, 5):
        counts = np.bincount(found[:, sample], minlength=3)
        assert stats.chisquare(counts, shares * len(found)).pvalue > 1e-4
    agreement = (found == true).mean()
    assert abs(agreement - (shares**2).sum()) < 0.02


def test_what_cannot_be_drawn_is_an_error(labeled, root, tmp_path, indexed):
    corpus, shards = labeled
    with pytest.raises(InputError, match="^1 random classes: give two or more"):
        RandomLabels(classes=("one",)).label(root, corpus, shards)
    path = write_parquet(tmp_path / "one.parquet", [b"x"] * 3, [0] * 3)
    one = Corpus(uri=(str(path),))
    with pytest.raises(InputError, match="all samples are of one class, '0'"):
        ShuffledLabels().label(root, one, indexed(one).artifact)
