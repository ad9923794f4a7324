"""Labels that are likely wrong, against plain Python and planted errors."""

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from raylabel.schema import HELD
from raylabel.selection.suspects import find_suspects

C, P = 4, 3


def held(label: list[int], classes: np.ndarray, odds: np.ndarray) -> pa.Table:
    columns = [list(range(len(label))), label, list(classes), list(odds), list(odds)]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, HELD, strict=True)], schema=HELD)


@settings(max_examples=100)
@given(st.integers(1, 12), st.integers(0, 10_000))
def test_suspects_are_those_of_the_definition(n: int, seed: int):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, C, n).tolist()
    classes = rng.permuted(np.tile(np.arange(C, dtype=np.int32), (n, 1)), axis=1)[:, :P]
    odds = -np.sort(rng.normal(0, 2, (n, P)).astype(np.float32).round(1))  # rounded: some are equal
    p = 1 / (1 + np.exp(-odds.astype(float)))
    own = [dict(zip(row.tolist(), some, strict=True)) for row, some in zip(classes, p, strict=True)]
    mean = {c: np.mean(of) for c in range(C) if (of := [own[i].get(c, 0) for i in range(n) if label[i] == c])}
    expected = []
    for i in range(n):
        best = int(classes[i, 0])
        if best != label[i] and mean.get(best, 0) > 0 and p[i, 0] >= mean[best]:
            expected.append((-odds[i, 0], i, label[i], best))
    found = find_suspects(held(label, classes, odds), C)
    assert [(row["key"], row["label"], row["best"]) for row in found.to_pylist()] == [
        row[1:] for row in sorted(expected)
    ]


def test_planted_errors_are_found():
    rng, n = np.random.default_rng(0), 400
    truth = rng.integers(0, C, n)
    x = 3 * (rng.normal(0, 1, (n, C)) + 2 * np.eye(C)[truth])
    others = np.stack([np.logaddexp.reduce(np.delete(x, c, 1), axis=1) for c in range(C)], 1)
    order = np.argsort(-x, axis=1)[:, :P].astype(np.int32)
    label, wrong = truth.copy(), rng.choice(n, 40, replace=False)
    label[wrong] = (label[wrong] + rng.integers(1, C, 40)) % C
    odds = np.take_along_axis(x - others, order, 1).astype(np.float32)
    found = find_suspects(held(label.tolist(), order, odds), C).column("key").to_numpy()
    assert len(np.intersect1d(found, wrong)) >= 32  # of 40; by chance it were a tenth of those that are found
    assert len(np.intersect1d(found[:25], wrong)) >= 20


def test_a_class_as_probable_as_for_its_own_samples_is_enough():
    classes = np.array([[0, 1, 2], [0, 1, 2]], np.int32)
    odds = np.array([[1, -1, -2], [1, -1, -2]], np.float32)
    assert find_suspects(held([0, 1], classes, odds), C).column("key").to_pylist() == [1]
