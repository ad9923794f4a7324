"""Log-odds, of one view and of the mean over clips, against 100-digit decimals, and their order against softmax's."""

from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raylabel.inference import log_odds as module
from raylabel.inference.log_odds import log_odds, mean_log_odds, top_classes, top_classes_of_clips


def exact(row: list[float]) -> list[Decimal]:
    with localcontext(prec=60):
        terms = [Decimal(x).exp() for x in row]
        return [Decimal(x) - sum(terms[:c] + terms[c + 1 :], Decimal(0)).ln() for c, x in enumerate(row)]


def exact_mean(clips: list[list[float]]) -> list[Decimal]:
    """log p / (1 - p), where p and 1 - p are means over clips."""
    with localcontext(prec=100):  # 1 - p is down to exp(-160)
        terms = [[Decimal(x).exp() for x in row] for row in clips]
        shares = [[term / sum(row, Decimal(0)) for term in row] for row in terms]
        means = [sum(column, Decimal(0)) / len(clips) for column in zip(*shares, strict=True)]
        return [(mean / (1 - mean)).ln() for mean in means]


def float32(value: Decimal) -> np.float32:
    return np.float32(float(value))


logit = st.floats(-80, 80, width=32) | st.sampled_from([-80.0, -1.0, -0.0, 0.0, 1.0, 80.0])


@settings(max_examples=60)
@given(st.integers(2, 12).flatmap(lambda c: st.lists(st.lists(logit, min_size=c, max_size=c), min_size=1, max_size=4)))
def test_equals_the_exact_value_rounded_once(rows):
    found = log_odds(torch.tensor(rows)).numpy()
    assert found.dtype == np.float32
    for row, values in zip(rows, found, strict=True):
        # A double holds 1e-16 of the largest term; a value near 0 has no better absolute error than that.
        np.testing.assert_allclose(values, [float32(v) for v in exact(row)], rtol=1.2e-7, atol=3e-14)


def test_two_classes_are_the_exact_difference():
    x = torch.tensor([[30.0, 29.0], [80.0, -80.0], [1e-30, 0.0], [-0.0, 0.0], [5.0, 5.0]])
    difference = x[:, 0] - x[:, 1]
    assert torch.equal(log_odds(x), torch.stack([difference, -difference], 1))


@pytest.mark.parametrize("classes", [3, 1000, 10_000])
def test_the_dominant_class_keeps_its_resolution(classes):
    # p of class 0 is within 1e-20 of 1: sum minus own term would be 0, its logarithm -inf.
    x = torch.zeros(4, classes)
    x[:, 0] = torch.tensor([50.0, 60.0, 70.0, 80.0])
    wanted = x[:, 0].double() - np.log(classes - 1)
    torch.testing.assert_close(log_odds(x)[:, 0], wanted.float(), rtol=1e-7, atol=0)


def test_orders_samples_as_softmax_where_float32_softmax_ties():
    g = torch.Generator().manual_seed(0)
    x = (torch.rand(4000, 20, generator=g) * 160 - 80).float()
    odds = log_odds(x)
    wide = x.numpy().astype(np.longdouble)
    wide = np.exp(wide - wide.max(1, keepdims=True))
    wide /= wide.sum(1, keepdims=True)
    for c in range(20):
        # Where float32 odds tie, softmax may differ; beyond 1 - 1e-19 the wide softmax itself is only rounding.
        order = np.lexsort((wide[:, c], odds[:, c].numpy()))
        assert np.diff(wide[order, c]).min() >= -4 * np.finfo(np.longdouble).eps
    # Log-odds differ where float32 softmax ties.
    first = x.argmax(1, keepdim=True)
    assert len(x.softmax(1).gather(1, first).unique()) < 0.8 * len(x)
    assert len(odds.gather(1, first).unique()) > 0.99 * len(x)


def test_classes_that_tie_have_the_same_bits():
    g = torch.Generator().manual_seed(1)
    x = torch.randint(-3, 4, (500, 30), generator=g).float() * 7.3
    odds, (classes, values, logits) = log_odds(x), top_classes(x, 30)
    for row, value in zip(x, odds, strict=True):
        for level in row.unique():
            assert len(value[row == level].unique()) == 1
    assert (values.diff(dim=1) <= 0).all() and (logits.diff(dim=1) <= 0).all()
    assert torch.equal(odds.gather(1, classes.long()), values)


@settings(max_examples=60)
@given(st.integers(2, 9).flatmap(lambda c: st.tuples(st.lists(logit, min_size=c, max_size=c), st.integers(1, c))))
def test_top_classes_are_in_the_total_order(case):
    row, p = case
    classes, values, logits = top_classes(torch.tensor([row]), p)
    wanted = sorted(range(len(row)), key=lambda c: (-row[c], c))[:p]
    assert classes.tolist() == [wanted]
    assert (classes.dtype, values.dtype, logits.dtype) == (torch.int32, torch.float32, torch.float32)
    assert logits.tolist() == [[row[c] for c in wanted]]
    assert not logits[logits == 0].signbit().any()  # no -0.0
    assert torch.equal(values, log_odds(torch.tensor([row]))[:, wanted])


def test_top_classes_equal_the_sort_of_wide_rows_with_ties():
    g = torch.Generator().manual_seed(2)
    x = torch.randint(0, 50, (8, 10_000), generator=g).float()
    classes, _, _ = top_classes(x.bfloat16(), 200)
    wanted = np.argsort(-x.numpy(), axis=1, kind="stable")[:, :200]
    assert np.array_equal(classes.numpy(), wanted)


def test_rows_that_are_ranked_in_pieces_have_the_same_bits(monkeypatch):
    g = torch.Generator().manual_seed(4)
    x = torch.cat([torch.randn(50, 100, generator=g) * 5, torch.randint(0, 9, (51, 100), generator=g).float()])
    whole = top_classes(x, 7)
    monkeypatch.setattr(module, "CACHED", 1000)  # 10 rows
    for mine, wanted in zip(top_classes(x, 7), whole, strict=True):
        assert mine.numpy().tobytes() == wanted.numpy().tobytes()


# ---- clips ----


def clips_of(elements: st.SearchStrategy[float]) -> st.SearchStrategy[list[list[float]]]:
    sizes = st.tuples(st.integers(1, 5), st.integers(2, 8))
    return sizes.flatmap(
        lambda size: st.lists(
            st.lists(elements, min_size=size[1], max_size=size[1]), min_size=size[0], max_size=size[0]
        )
    )


@settings(max_examples=100)
@given(clips_of(logit))
def test_the_mean_over_clips_equals_the_exact_value_rounded_once(clips):
    found = mean_log_odds(torch.tensor([clips])).numpy()
    assert found.dtype == np.float32 and found.shape == (1, len(clips[0]))
    np.testing.assert_allclose(found[0], [float32(v) for v in exact_mean(clips)], rtol=1.2e-7, atol=1e-13)


@pytest.mark.parametrize("other", [-80.0, 70.0, 79.0])
def test_the_mean_keeps_its_resolution_where_all_clips_agree(other):
    # 1 - p is about 1e-70 or 1e-60 for some clips: float64 has no such values near 1.
    clips = [[80.0, other, -80.0], [75.0, -80.0, -79.0], [80.0, -75.0, other - 3]]
    found = mean_log_odds(torch.tensor([clips]))[0].numpy()
    np.testing.assert_allclose(found, [float32(v) for v in exact_mean(clips)], rtol=1.2e-7)
    assert mean_log_odds(torch.tensor([[clips[1]] * 3]))[0, 0] > 150


@settings(max_examples=60)
@given(st.integers(2, 12).flatmap(lambda c: st.lists(st.lists(logit, min_size=c, max_size=c), min_size=1, max_size=4)))
def test_one_clip_gives_the_same_bits_as_an_image(rows):
    x = torch.tensor(rows)
    for p in (1, x.shape[1]):
        *found, clips = top_classes_of_clips(x[:, None], p)
        for mine, wanted in zip(found, top_classes(x, p), strict=True):
            assert mine.dtype == wanted.dtype and mine.numpy().tobytes() == wanted.numpy().tobytes()
        assert torch.equal(clips[:, 0], top_classes(x, 1)[0][:, 0])


def test_one_clip_gives_the_same_bits_as_an_image_in_wide_rows_with_ties():
    g = torch.Generator().manual_seed(3)
    half = 1 + torch.randint(0, 2**23, (500, 1), generator=g).double() * 2**-23 + 2**-24  # between two float32 values
    x = torch.cat([half, torch.zeros_like(half)], 1)
    assert mean_log_odds(x[:, None]).numpy().tobytes() == log_odds(x).numpy().tobytes()
    for x in (torch.randn(50, 1000, generator=g) * 8, torch.randint(-9, 9, (50, 1000), generator=g).float() / 8):
        assert mean_log_odds(x[:, None]).numpy().tobytes() == log_odds(x).numpy().tobytes()
        for mine, wanted in zip(top_classes_of_clips(x[:, None], 1000), top_classes(x, 1000), strict=False):
            assert mine.numpy().tobytes() == wanted.numpy().tobytes()


@settings(max_examples=100)
@given(clips_of(st.sampled_from([-1.0, -0.0, 0.0, 1.0, 2.0]) | logit), st.data())
def test_top_classes_of_clips_are_in_the_total_order(clips, data):
    p = data.draw(st.integers(1, len(clips[0])))
    x = torch.tensor([clips])
    classes, values, logits, firsts = top_classes_of_clips(x, p)
    odds = mean_log_odds(x)[0].tolist()
    mean = (np.array(clips).sum(0) / len(clips)).astype(np.float32).tolist()
    wanted = sorted(range(len(clips[0])), key=lambda c: (-odds[c], -mean[c], c))[:p]
    assert classes.tolist() == [wanted]
    assert [values.tolist(), logits.tolist()] == [[[of[c] for c in wanted]] for of in (odds, mean)]
    assert not logits[logits == 0].signbit().any()
    assert firsts.tolist() == [[row.index(max(row)) for row in clips]]
    assert classes.dtype == firsts.dtype == torch.int32 and values.dtype == logits.dtype == torch.float32


def test_a_mean_logit_that_rounds_to_zero_is_positive_zero():
    x = torch.tensor([[[-1.4e-45, -1.0], [0.0, -1.0]]])
    assert not top_classes_of_clips(x, 1)[2].signbit().any()


def test_a_clip_with_a_nan_or_infinite_logit_makes_the_scores_not_finite():
    x = torch.zeros(3, 4, 5)
    x[1, 2, 3], x[2, 0, 1] = torch.nan, torch.inf
    _, values, logits, _ = top_classes_of_clips(x, 2)
    finite = values.isfinite().all(1) & logits.isfinite().all(1)
    assert finite.tolist() == [True, False, False]


def test_the_mean_is_of_the_softmax_and_not_of_the_logits():
    clips = torch.tensor([[[9.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 4.0, 0.0]]])  # two clips of three predict 1
    assert clips.mean(1).argmax() == 0
    classes, values, _, each = top_classes_of_clips(clips, 3)
    assert classes[0, 0] == 1 and each.tolist() == [[0, 1, 1]]
    p = clips.double().softmax(2).mean(1)
    torch.testing.assert_close(values[0, 0], (p / (1 - p)).log().float()[0, 1])


def test_bad_shapes_and_bad_p_are_errors():
    with pytest.raises(ValueError, match="at least 2 classes"):
        log_odds(torch.zeros(3, 1))
    with pytest.raises(ValueError, match="at least 2 classes"):
        mean_log_odds(torch.zeros(3, 2, 1))
    for x in (torch.zeros(3, 5), torch.zeros(3, 0, 5)):
        with pytest.raises(ValueError, match="at least 1 clip"):
            mean_log_odds(x)
    for p in (0, 4):
        with pytest.raises(ValueError, match=f"cannot keep {p} of 3"):
            top_classes(torch.zeros(2, 3), p)
        with pytest.raises(ValueError, match=f"cannot keep {p} of 3"):
            top_classes_of_clips(torch.zeros(2, 4, 3), p)
