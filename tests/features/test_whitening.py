"""PCA and whitening of stored features, against scikit-learn."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA
from stored_features import stored, unit

from raylabel.errors import InputError
from raylabel.features import whitening
from raylabel.features.whitening import computed, fit_whitening, whiten
from raylabel.schema import features_schema
from raylabel.store.artifact import Artifact, Root


def made(count: int = 1_500, width: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Features float16 [N, D] of unit length, and their norms; the first six numbers have a mean and different
    variances, the others are 0."""
    random = np.random.default_rng(0)
    spread = np.array([9, 5, 3, 2, 1, 0.5] + [0] * (width - 6))
    raw = 4 + random.standard_normal((count, width)) * spread
    raw[:, 6:] = 0
    return unit(raw), np.linalg.norm(raw, axis=1).astype(np.float32)


def whole(artifact: Artifact) -> np.ndarray:
    return computed(artifact.table("features-", features_schema(artifact.info["p"])))


def test_it_is_that_of_scikit_learn(ray_local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(whitening, "RUN", 2)  # sums of sums
    root = Root.open(str(tmp_path))
    feature, norm = made()
    features = stored(root, feature, norm)
    fitted = fit_whitening(root, features, 4)
    raw = feature.astype(np.float64) * norm[:, None]
    theirs = PCA(4, whiten=True, svd_solver="full").fit(raw)
    np.testing.assert_allclose(fitted.info["variances"], theirs.explained_variance_, rtol=1e-5)
    assert fitted.info["total"] == pytest.approx(
        theirs.explained_variance_.sum() / theirs.explained_variance_ratio_.sum()
    )
    result = whiten(root, features, fitted)
    expected = theirs.transform(raw)
    found = whole(result)
    signs = np.sign((found * expected).sum(0))
    np.testing.assert_allclose(found, expected * signs, atol=5e-3)
    np.testing.assert_allclose(np.cov(found.T), np.eye(4), atol=5e-3)
    table = result.table("features-", features_schema(4))
    unit_length = table["feature"].combine_chunks().flatten().to_numpy().reshape(-1, 4).astype(np.float32)
    np.testing.assert_allclose(np.linalg.norm(unit_length, axis=1), 1, atol=2e-3)
    before = features.table("features-", features_schema(12))
    for name in ("key", "digest", "group"):
        assert table[name].equals(before[name])
    assert [(file.name, file.rows) for file in result.files("features-")] == [
        (file.name, file.rows) for file in features.files("features-")
    ]
    assert result.info["scored"] == len(feature)


def test_components_without_variance_are_left_out(ray_local, tmp_path: Path):
    root = Root.open(str(tmp_path))
    features = stored(root, *made())
    fitted = fit_whitening(root, features, 256)
    assert fitted.info["p"] == 6
    assert np.isfinite(whole(whiten(root, features, fitted))).all()


def test_equal_features_are_an_error(ray_local, tmp_path: Path):
    root = Root.open(str(tmp_path))
    features = stored(root, np.tile(np.array([[0.5, 0.5]], np.float16), (20, 1)))
    with pytest.raises(InputError, match="are equal: there is nothing to whiten"):
        fit_whitening(root, features, 2)
