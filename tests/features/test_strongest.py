"""The samples for which each number of a feature is largest, against a sort of all of them."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stored_features import stored, unit

from raylabel.errors import InputError
from raylabel.features import strongest as module
from raylabel.features.strongest import STRONGEST, _largest, _merged, strongest
from raylabel.schema import features_schema
from raylabel.store.artifact import Root


def by_sorting(value: np.ndarray, key: np.ndarray, count: int) -> list[list[tuple[float, int]]]:
    rows = zip(value.tolist(), key.tolist(), strict=True)
    return [sorted((-v, k) for v, k in zip(*row, strict=True))[:count] for row in rows]


@given(
    st.integers(1, 400), st.integers(1, 4), st.integers(1, 9), st.integers(1, 6), st.integers(2, 60), st.integers(0, 99)
)
def test_any_division_is_a_sort(samples: int, width: int, count: int, parts: int, values: int, seed: int):
    """Of few different values, so that there are ties."""
    random = np.random.default_rng(seed)
    value = random.integers(0, values, (width, samples)).astype(np.float32)
    key = random.permutation(samples).astype(np.int64)
    pieces = [some for some in np.array_split(np.arange(samples), parts) if len(some)]
    each = [_largest(value[:, some], np.broadcast_to(key[some], (width, len(some))), count) for some in pieces]
    found, keys = _merged(count, *each)
    wanted = by_sorting(value, np.broadcast_to(key, value.shape), count)
    assert [list(zip((-v).tolist(), k.tolist(), strict=True)) for v, k in zip(found, keys, strict=True)] == wanted


def rounded(value: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(features float16 of unit length, norms, the values that these give)."""
    norm = np.linalg.norm(value, axis=1).astype(np.float32)
    feature = unit(value)
    return feature, norm, feature.astype(np.float32) * norm[:, None]


def test_features_in_many_files(ray_local: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root, random = Root.open(str(tmp_path)), np.random.default_rng(3)
    raw = random.standard_normal((700, 5)) * 10.0 ** random.integers(-1, 2, (700, 1))
    feature, norm, value = rounded(raw)
    made = stored(root, feature, norm)
    keys = made.table("features-", features_schema(5))["key"].to_numpy()
    assert len(made.files("features-")) > 4
    found = strongest(root, made, 4).table("strongest", STRONGEST)
    wanted = by_sorting(value.T, np.broadcast_to(keys, (5, 700)), 4)
    assert found["number"].to_pylist() == np.repeat(np.arange(5), 4).tolist()
    assert found["rank"].to_pylist() == list(range(4)) * 5
    assert found["key"].to_pylist() == [k for row in wanted for _, k in row]
    np.testing.assert_allclose(found["value"].to_numpy(), [-v for row in wanted for v, _ in row])
    monkeypatch.setattr(module, "FILES", 2)  # three rounds of merging
    again = strongest(Root.open(str(tmp_path / "other")), made, 4)
    assert again.table("strongest", STRONGEST).equals(found)


def test_fewer_samples_than_are_asked_for_and_none(ray_local: None, tmp_path: Path):
    root = Root.open(str(tmp_path))
    feature, norm, _ = rounded(np.array([[1.0, 5.0], [2.0, 4.0]]))
    made = stored(root, feature, norm)
    key = made.table("features-", features_schema(2))["key"].to_pylist()
    table = strongest(root, made, 9).table("strongest", STRONGEST)
    assert table["key"].to_pylist() == [key[1], key[0], key[0], key[1]]
    empty = stored(root, np.empty((0, 2), np.float16), np.empty(0, np.float32))
    with pytest.raises(InputError, match="has no samples"):
        strongest(root, empty)
