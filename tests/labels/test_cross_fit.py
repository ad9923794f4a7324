"""Cross-fitted heads against scikit-learn, fold by fold."""

import numpy as np
import pyarrow as pa
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from raylabel.errors import InputError
from raylabel.labels.cross_fit import cross_fit
from raylabel.labels.picks import write_picks
from raylabel.schema import HELD, features_schema
from raylabel.store.artifact import Artifact, Built, Root, write_table

C, D, P, STRENGTH = 3, 4, 2, 50.0


def features_of(root: Root, feature: np.ndarray) -> Artifact:
    def build(draft) -> Built:
        n = len(feature)
        lists = pa.FixedSizeListArray.from_arrays(pa.array(feature.ravel(), pa.float16()), D)
        columns = [np.arange(n), [bytes(16)] * n, np.zeros(n, np.int64), lists, np.ones(n, np.float32)]
        schema = features_schema(D)
        table = pa.table([pa.array(c).cast(f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)
        return Built([write_table(draft.uri, "features-000000.parquet", table)], {"p": D, "scored": n})

    return root.make("features", {"n": len(feature)}, build)


def labels_of(root: Root, label: np.ndarray) -> Artifact:
    names = tuple("abc")
    return root.make("truth", {"n": len(label)}, lambda draft: write_picks(draft, np.arange(len(label)), label, names))


def test_each_sample_is_ranked_by_a_head_without_its_fold(ray_local, tmp_path):
    root, rng = Root.open(str(tmp_path)), np.random.default_rng(0)
    label = np.repeat(np.arange(C), 20)
    feature = rng.normal(0, 1, (len(label), D)) + 1.5 * np.eye(C, D)[label]
    feature = (feature / np.linalg.norm(feature, axis=1, keepdims=True)).astype(np.float16)
    found = cross_fit(root, features_of(root, feature), labels_of(root, label), STRENGTH, P, seed=3)
    assert found.info["samples"] == 60 and found.info["folds"] == 5
    table = found.table("held-", HELD)
    assert table["key"].to_pylist() == list(range(60)) and table["label"].to_pylist() == label.tolist()
    x = feature.astype(np.float64)
    expected = np.empty((60, C))
    for train, held in StratifiedKFold(5, shuffle=True, random_state=3).split(x, label):
        model = LogisticRegression(C=STRENGTH, tol=1e-6, max_iter=5000).fit(x[train], label[train])
        p = model.predict_proba(x[held])
        expected[held] = np.log(p) - np.log1p(-p)
    order = np.argsort(-expected, axis=1)[:, :P]
    assert table["classes"].to_pylist() == order.tolist()
    np.testing.assert_allclose(
        np.stack(table["log_odds"].to_numpy()), np.take_along_axis(expected, order, 1), atol=2e-3, rtol=1e-3
    )


def test_too_few_samples_of_a_class_are_an_error(ray_local, tmp_path):
    root = Root.open(str(tmp_path))
    label = np.array([0, 0, 0, 1, 1, 1, 2])
    feature = np.eye(7, D).astype(np.float16)
    with pytest.raises(InputError, match="a class has 1 labeled sample, too few for the audit.*--no-audit"):
        cross_fit(root, features_of(root, feature), labels_of(root, label), STRENGTH, P, seed=0)
