"""The search for near-duplicates, against all similarities in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raylabel.errors import InputError
from raylabel.features import search
from raylabel.features.search import MARGIN, References


def unit(values: np.ndarray) -> np.ndarray:
    return (values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-30)).astype(np.float16)


def features(seed: int, rows: int, others: int, width: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Features [rows, width], and references of which some are noisy copies of them, one is zero, and one is there
    twice."""
    rng = np.random.default_rng(seed)
    mine = np.maximum(rng.standard_normal((rows, width)), 0)
    theirs = np.maximum(rng.standard_normal((others, width)), 0)
    copied = rng.random(others) < 0.5
    theirs[copied] = mine[rng.integers(rows, size=copied.sum())]
    theirs[copied] += noise * rng.random((copied.sum(), 1)) * rng.standard_normal((copied.sum(), width))
    theirs[0], theirs[-1] = 0, theirs[others // 2]
    return unit(mine), unit(theirs)


def brute_force(mine: np.ndarray, theirs: np.ndarray, threshold: float) -> list[tuple[int, int, float]]:
    similarity = (mine.astype(np.float64) @ theirs.astype(np.float64).T).astype(np.float32)
    return [(int(i), int(j), float(similarity[i, j])) for i, j in np.argwhere(similarity >= np.float32(threshold))]


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 40),
    others=st.integers(2, 90),
    width=st.sampled_from([1, 3, 64, 513]),
    noise=st.sampled_from([0.0, 0.1, 1.0]),
    threshold=st.sampled_from([0.05, 0.7, 0.95, 0.99, 1.0]),
    screened=st.sampled_from([1, 100, 1 << 20]),
)
def test_pairs_are_those_of_all_similarities(precision, seed, rows, others, width, noise, threshold, screened):
    mine, theirs = features(seed, rows, others, width, noise)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "SCREENED", screened)
        patch.setattr(search, "EXACT", 4 * width)
        found = References(theirs, threshold, precision).pairs(mine)
    expected = brute_force(mine, theirs, threshold)
    known = {(i, j): value for i, j, value in expected}
    mine_found = dict(zip(zip(found.at.tolist(), found.reference.tolist(), strict=True), found.similarity, strict=True))
    assert list(mine_found) == sorted(mine_found)
    # The sums of both have other orders, so a similarity may round to the next float32.
    for pair in known.keys() ^ mine_found.keys():
        assert (known | mine_found)[pair] == pytest.approx(threshold, abs=1e-6)
    assert all(abs(known[pair] - value) < 1e-6 for pair, value in mine_found.items() if pair in known)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_the_screen_loses_no_pair_at_the_threshold(precision):
    """In bf16 each number of this feature is rounded down by the most there is, and then their product is as well."""
    sizes = np.array([2**-4] * 249 + [2**-5, 2**-6, 2**-6, 2**-7, 2**-7])
    one = (sizes * (1 + 2**-8)).astype(np.float16)[None]
    similarity = float((one.astype(np.float64) ** 2).sum())
    screened = float((torch.from_numpy(one).bfloat16() @ torch.from_numpy(one).bfloat16().T)[0, 0])
    assert 2**-7 < similarity - screened < MARGIN["bf16"] and similarity < 1
    found = References(one, similarity, precision).pairs(one)
    assert found.similarity.tolist() == [np.float32(similarity)]


def test_features_that_are_zero_are_similar_to_none_and_empty_sides_give_no_pair():
    zero, one = np.zeros((2, 4), np.float16), unit(np.ones((3, 4)))
    one.setflags(write=False)  # as those of a table are
    assert not len(References(zero, 0.1, "bf16").pairs(np.concatenate([zero, one])).at)
    assert not len(References(one, 0.1, "bf16").pairs(one[:0]).at)
    found = References(one[:0], 0.1, "bf16").pairs(one)
    assert (found.at.dtype, found.reference.dtype, found.similarity.dtype) == (np.int64, np.int64, np.float32)
    assert len(References(one, 0.9, "bf16").pairs(one).at) == 9


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.5])
def test_a_threshold_is_a_cosine(threshold):
    with pytest.raises(InputError, match=f"^the threshold is {threshold}: give a cosine above 0 and up to 1$"):
        References(np.zeros((1, 2), np.float16), threshold, "bf16")
