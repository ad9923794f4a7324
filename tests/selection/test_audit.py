"""The audit of a selection against hidden labels, and lists that it shortens."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_select import fake_scores

from raylabel.errors import InputError
from raylabel.schema import AUDIT, HELD, PICKS
from raylabel.selection import audit as module
from raylabel.selection.audit import Audited, HeldOut, audit
from raylabel.selection.config import Select
from raylabel.selection.duplicates import find_duplicates
from raylabel.selection.select import select
from raylabel.selection.shorten import shorten
from raylabel.store.artifact import Root

CLASSES, P, K = 4, 2, 700
NAMES = tuple("abcd")


def scored(rng: np.random.Generator, n: int, foreign: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(true classes [n], the P best classes, their log-odds) by a teacher that is right as often as it says; the last
    `foreign` samples are of no class, so that their logits are small."""
    truth = rng.integers(0, CLASSES, n)
    x = rng.normal(0, 1, (n, CLASSES)) + 2.0 * np.eye(CLASSES)[truth]
    x = 2.0 * x  # the logarithms of the densities, but for a constant
    x[n - foreign :] /= 10
    truth[n - foreign :] = -1
    others = np.stack([np.logaddexp.reduce(np.delete(x, c, 1), axis=1) for c in range(CLASSES)], 1)
    order = np.argsort(-x, axis=1)[:, :P].astype(np.int32)
    return truth, order, np.take_along_axis(x - others, order, 1).astype(np.float32)


def held(rng: np.random.Generator, n: int) -> HeldOut:
    truth, classes, odds = scored(rng, n)
    columns = [np.arange(n), truth.astype(np.int32), list(classes), list(odds), list(odds)]
    table = pa.table([pa.array(c, f.type) for c, f in zip(columns, HELD, strict=True)], schema=HELD)
    return HeldOut(table, "validation", ("held",))


def corpus(root: Root, name: str, foreign: int):
    """(SCORES of 2,000 samples in 5 files, their true classes)"""
    truth, classes, odds = scored(np.random.default_rng(1), 2000, foreign)
    order = np.random.default_rng(2).permutation(2000)
    truth, classes, odds = truth[order], classes[order], odds[order]
    rows = [(i, i.to_bytes(16), classes[i].tolist(), odds[i].tolist(), odds[i].tolist()) for i in range(2000)]
    return fake_scores(root, name, rows, [400] * 5, P), truth


def test_the_intervals_have_the_share_that_is_right_and_lists_end_where_it_is_too_small(ray_local, tmp_path):
    root, config = Root.open(str(tmp_path)), Select(k=K, p=P)
    scores, truth = corpus(root, "s", 0)
    duplicates = find_duplicates(root, scores)
    picks = select(root, scores, duplicates, config, NAMES)
    known = held(np.random.default_rng(0), 200)
    found = audit(root, picks, scores, known, config, CLASSES)
    table, listed = found.table("audit-", AUDIT).to_pylist(), picks.table("picks-", PICKS)
    right = truth[listed["key"].to_numpy()] == listed["label"].to_numpy()
    inside = []
    for row in table:
        own = right[(listed["label"].to_numpy() == row["label"]) & (listed["rank"].to_numpy() <= row["rank"])]
        assert len(own) == row["rank"]
        inside.append(row["low"] - 1e-6 <= own.mean() <= row["high"] + 1e-6)
        assert 0 <= row["low"] <= row["precision"] + 0.1 and row["high"] <= 1
    assert np.mean(inside) >= 0.9
    assert {row["rank"] for row in table if row["label"] == 1} >= {1, 2, 3, 4, 8, 128, 512}
    info = found.info
    assert info["low"] <= right.mean() <= info["high"] and info["high"] - info["low"] < 0.2
    assert info["samples"] == 200 and info["source"] == "validation" and info["foreign"] < 0.05
    assert "lengths" not in info

    least = Select(k=K, p=P, precision=0.8)
    assert select(root, scores, duplicates, least, NAMES) == picks  # the lists are shortened afterwards
    again = audit(root, picks, scores, known, least, CLASSES)
    lengths = again.info["lengths"]
    assert len(lengths) == CLASSES and 0 < min(lengths) < K
    stays = listed["rank"].to_numpy() <= np.array(lengths)[listed["label"].to_numpy()]
    assert again.info["low"] <= right[stays].mean() <= again.info["high"] and again.info["precision"] > 0.8
    short = shorten(root, picks, again, NAMES, False)
    kept = [row for row in listed.to_pylist() if row["rank"] <= lengths[row["label"]]]
    assert short.table("picks-", PICKS).to_pylist() == kept
    assert short.info["per_class"] == lengths and short.info["picks"] == len(kept)
    assert short.info["samples"] == len({row["key"] for row in kept}) and short.info["k"] == K
    for label, length in enumerate(lengths):  # the precision that is expected at the end
        ranks = [row for row in table if row["label"] == label and row["rank"] <= length]
        assert ranks[-1]["precision"] >= 0.8 - 0.02
        later = [row for row in table if row["label"] == label and row["rank"] > length]
        assert not later or later[0]["precision"] < 0.8 + 0.02


def test_a_class_without_a_precise_list_is_an_error_unless_it_may_be_empty(ray_local, tmp_path):
    root, config = Root.open(str(tmp_path)), Select(k=K, p=P)
    scores, _ = corpus(root, "s", 0)
    picks = select(root, scores, find_duplicates(root, scores), config, NAMES)

    def build(draft):
        from raylabel.store.artifact import Built

        return Built([], {"lengths": [3, 0, 1, 0]})

    audited = root.make("audit", {}, build)
    with pytest.raises(InputError, match=r"first pick of 2 classes \('b', 'd'\) has the precision.*allow-empty"):
        shorten(root, picks, audited, NAMES, False)
    assert shorten(root, picks, audited, NAMES, True).info["per_class"] == [3, 0, 1, 0]


def test_a_corpus_of_other_classes_is_noticed(ray_local, tmp_path, monkeypatch):
    root = Root.open(str(tmp_path))
    scores, truth = corpus(root, "s", 800)
    picks = select(root, scores, find_duplicates(root, scores), Select(k=K, p=P), NAMES)
    known = held(np.random.default_rng(0), 400)
    found = audit(root, picks, scores, known, Select(k=K, p=P), CLASSES)
    assert 0.05 < found.info["foreign"] <= (truth < 0).mean()
    assert found.info["precision"] is None and not found.files("audit-")  # no interval that could miss the truth
    assert Audited.of(found.info).sentence.startswith("the precision of the picks is not known: at least ")
    best = np.concatenate([np.stack(t["log_odds"].to_numpy())[:, 0] for t in tables_of(scores)])
    mine = np.sort([row[0] for row in known.table["log_odds"].to_pylist()])
    gap = max((best < value).mean() - (mine < value).mean() for value in mine)
    assert found.info["foreign"] == pytest.approx(gap - np.sqrt(np.log(20) / 800), abs=1e-9)
    with pytest.raises(InputError, match=r"select.precision is 0.8, but at least .*% of the corpus is unlike the 400"):
        audit(root, picks, scores, known, Select(k=K, p=P, precision=0.8), CLASSES)
    monkeypatch.setattr(module, "PARTS", 2)
    monkeypatch.setattr(module, "VALUES", 50)
    assert module._foreign(np.array(mine, np.float32), scores) == pytest.approx(found.info["foreign"], abs=0.06)


def tables_of(scores):
    return [pq.read_table(f"{scores.uri}/{file.name}") for file in scores.files("scores-")]


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"precision": 0.0}, "select.precision is 0.0: give a share above 0"),
        ({"precision": 1.5}, "select.precision is 1.5"),
        ({"precision": 0.5, "fill": True}, "but select.fill is set"),
        ({"precision": 0.5, "rank": "random"}, "but select.rank is 'random'"),
    ],
)
def test_a_wrong_precision_is_an_error(fields, message):
    with pytest.raises(InputError, match=message):
        Select(**fields)
