"""Soft targets: from SCORES to the targets of a batch, against the formula."""

from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
import torch
from helpers import DIGITS_VIEW, digit_images, write_parquet
from hypothesis import given
from hypothesis import strategies as st

from raylabel.corpus import Corpus, Shards, index_corpus
from raylabel.labels.picks import write_picks
from raylabel.schema import SCORES
from raylabel.store.artifact import Built, Root, write_table
from raylabel.training.config import Train
from raylabel.training.examples import materialize, media_of
from raylabel.training.media import GROUP, Materialize, WritingTask
from raylabel.training.mixed_stream import MixedStream, Mixture
from raylabel.training.schedule import Schedule
from raylabel.training.soft import Soft, make_targets, stack
from raylabel.training.stream import Stream

P = 3


def config(soft: float, temperature: float = 1.0) -> Train:
    found = Train(images=8, batch=8, schedule=Schedule(lr=0.1), soft=soft, temperature=temperature)
    found.check("train")
    return found


@st.composite
def batches(draw) -> tuple[int, np.ndarray, Soft]:
    """(C, labels [B], Soft [B, P]): log-odds of a softmax, some of them so large that p rounds to 1."""
    classes, size = draw(st.integers(2, 9)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    p = draw(st.integers(1, classes))
    x = rng.normal(0, draw(st.sampled_from([0.1, 3, 30])), (size, classes))
    others = np.array([[np.logaddexp.reduce(np.delete(row, c)) for c in range(classes)] for row in x])
    order = np.argsort(-x)[:, :p]
    log_odds = np.take_along_axis(x - others, order, 1).astype(np.float32)
    return classes, rng.integers(0, classes, size), Soft(order.astype(np.int32), log_odds)


@given(batches(), st.floats(0.01, 1), st.sampled_from([1.0, 0.5, 4.0]))
def test_targets_and_gradients_are_those_of_the_formula(batch, soft, temperature):
    classes, labels, given_soft = batch
    found = make_targets(config(soft, temperature), classes)(torch.from_numpy(labels), given_soft)
    expected = np.zeros((len(labels), classes))
    for row, (label, own, odds) in enumerate(zip(labels, *given_soft, strict=True)):
        p = 1 / (1 + np.exp(-odds.astype(np.float64)))
        if temperature == 1:
            rest = max(0.0, 1 - p.sum()) / (classes - len(own)) if len(own) < classes else 0.0
            q = np.full(classes, rest)
            q[own] = p if len(own) < classes else p / p.sum()
        else:
            log_p = -np.logaddexp(0, -odds.astype(np.float64)) / temperature
            q = np.zeros(classes)
            q[own] = np.exp(log_p - log_p.max()) / np.exp(log_p - log_p.max()).sum()
        expected[row] = soft * q
        expected[row, label] += 1 - soft
    np.testing.assert_allclose(found, expected, atol=2e-6)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)

    # The gradient of -sum_c t_c log softmax(x)_c, by autograd and in closed form: softmax(x) sum t - t.
    x = torch.randn(len(labels), classes, dtype=torch.float64, requires_grad=True)
    torch.nn.functional.cross_entropy(x, found.double(), reduction="sum").backward()
    target = torch.from_numpy(expected)
    wanted = x.detach().softmax(1) * target.sum(1, keepdim=True) - target
    torch.testing.assert_close(x.grad, wanted, atol=1e-5, rtol=0)


def test_without_soft_the_labels_are_passed_on_and_samples_without_log_odds_keep_theirs():
    labels = torch.tensor([1, 0])
    soft = Soft(np.array([[1, 2], [0, 0]], np.int32), np.array([[0.0, -1.0], [np.nan, np.nan]], np.float32))
    assert make_targets(config(0), 3)(labels, soft) is labels
    for temperature in (1.0, 2.0):
        found = make_targets(config(0.5, temperature), 3)(labels, soft)
        assert found[1].tolist() == [1, 0, 0] and found[0, 1] < 1
        assert make_targets(config(0.5, temperature), 3)(labels, None).tolist() == [[0, 1, 0], [1, 0, 0]]


def test_samples_without_soft_beside_others():
    one = Soft(np.array([4, 2], np.int32), np.array([0.5, -1], np.float32))
    assert stack([None, None]) is None
    found = stack([None, one])
    assert found and found.classes.tolist() == [[0, 0], [4, 2]]
    assert np.isnan(found.log_odds[0]).all() and found.log_odds[1].tolist() == [0.5, -1]


@pytest.fixture(scope="module")
def made(ray_local, tmp_path_factory):
    """(root, EXAMPLES with SOFT of 60 of 4,000 samples, 30 of them in two classes; key → Soft)"""
    folder = tmp_path_factory.mktemp("soft")
    root = Root.open(str(folder / "root"))
    media, _ = digit_images()
    few = [media[i % 50] for i in range(4_000)]
    files = [write_parquet(folder / f"{name}.parquet", some) for name, some in (("a", few[:1500]), ("b", few[1500:]))]
    corpus = Corpus(uri=tuple(map(str, files)))
    shards = index_corpus(root, "unlabeled", corpus)
    rng = np.random.default_rng(0)
    rows = Shards(shards).rows.tolist()
    keys = np.concatenate([(number << 32) + np.arange(count) for number, count in enumerate(rows)])
    classes = rng.permuted(np.tile(np.arange(10, dtype=np.int32), (len(keys), 1)), axis=1)[:, :P]
    odds = rng.normal(size=(len(keys), P)).astype(np.float32)

    def scores(draft) -> Built:
        units = [0, 1024, 1500, 2524, 3548, 4000]  # units of 1,024 rows; parts of two
        written = []
        for number, (low, high) in enumerate(((units[0], units[2]), (units[2], units[4]), (units[4], units[5]))):
            at = np.arange(low, high)[np.arange(low, high) % 7 != 0]  # others are rejects
            columns = {"key": keys[at], "digest": [b"0" * 16] * len(at), "group": np.zeros(len(at), np.int64)}
            lists = {"classes": list(classes[at]), "log_odds": list(odds[at]), "logits": list(odds[at])}
            table = pa.table({**columns, **lists, "clips": [[]] * len(at)}, schema=SCORES)
            written.append(write_table(draft.uri, f"scores-{number:06d}.parquet", table))
        return Built(written, {"p": P})

    of_scores = root.make("scores", {"unit": [1024, 2]}, scores)
    some = rng.choice(np.flatnonzero(np.arange(len(keys)) % 7), 60, replace=False)
    pairs = [(keys[i], int(classes[i, 0])) for i in some] + [(keys[i], int(classes[i, 1])) for i in some[:30]]
    key, label = (np.array(column, np.int64) for column in zip(*pairs, strict=True))
    names = tuple(map(str, range(10)))
    picks = root.make("picks", {"soft": True}, lambda draft: write_picks(draft, key, label, names))
    task = WritingTask(shards=Shards(shards), corpus=corpus, config=Materialize(lanes=4))
    with patch.dict(GROUP, image=5):  # three groups in each lane
        examples = materialize(root, "picked", picks, task, 0.05, scores=of_scores)
        plain = materialize(root, "picked", picks, task, 0.05)
    return examples, plain, {int(keys[i]): Soft(classes[i], odds[i]) for i in some}


def test_each_item_has_what_the_teacher_says_of_its_sample(made):
    examples, plain, known = made
    assert media_of(examples) == media_of(plain) and examples.info["items"] == 90
    whole = list(Stream(examples, 0).items(0, 180))
    assert [item[:4] for item in whole] == [item[:4] for item in Stream(plain, 0).items(0, 180)]
    assert {item[4] for item in Stream(plain, 0).items(0, 90)} == {None}
    for _, key, _, label, soft in whole:
        expected = known[key]
        assert soft and soft.classes.tolist() == expected.classes.tolist() and label in soft.classes[:2]
        assert soft.log_odds.tolist() == expected.log_odds.tolist()
    shares = [list(Stream(examples, 0).batches(DIGITS_VIEW, 10, 0, 40, rank, 2)) for rank in range(2)]
    joined = np.concatenate([soft.log_odds for share in shares for *_, soft in share if soft])
    assert sorted(map(tuple, joined)) == sorted(tuple(item[4].log_odds) for item in whole[:40] if item[4])


def test_a_mixture_has_soft_targets_where_its_samples_have_them(made):
    examples, plain, known = made
    for own, other in ((examples, plain), (plain, examples)):
        stream = MixedStream(own, Mixture(examples=other, share=0.25), 0)
        with_soft = {item[0] % 8: bool(item[4]) for item in stream.items(0, 80, batch=8)}
        assert sum(with_soft.values()) == (6 if own is examples else 2)
        *_, soft = next(stream.batches(DIGITS_VIEW, 8, 0, 80, 0, 1))
        assert soft and (~np.isnan(soft.log_odds).any(1)).tolist() == [with_soft[i] for i in range(8)]


def test_a_folder_of_other_scores_is_an_error(made):
    from raylabel.training.soft import add_soft

    examples, *_ = made
    root = Root(str(Path(examples.uri).parent))
    (scores,) = root.named("scores")
    (shards,) = root.named("shards-unlabeled")
    reject = pa.table({"key": pa.array([7], pa.int64()), "labels": pa.array([[0]], pa.list_(pa.int32()))})
    with pytest.raises(AssertionError, match="lacks samples that were picked"):
        add_soft(reject, scores, Shards(shards))
