"""NMI and moved samples of two labelings."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import normalized_mutual_info_score

from raylabel.features import agreement
from raylabel.features.agreement import Agreement

LABELS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4)), min_size=1, max_size=80)


@given(LABELS, st.integers(1, 7))
def test_it_is_that_of_scikit_learn_however_the_samples_are_cut(pairs: list[tuple[int, int]], size: int):
    first, second = np.array(pairs, np.int32).T
    cuts = range(0, len(first), size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agreement, "HELD", 5)
        found = Agreement.of((first[i : i + size], second[i : i + size]) for i in cuts)
    expected = normalized_mutual_info_score(first, second, average_method="geometric")
    assert found.nmi == pytest.approx(expected, abs=1e-9)
    largest = sum(np.bincount(second[first == one]).max() for one in np.unique(first))
    assert found.moved == pytest.approx(1 - largest / len(first))


def test_of_equal_partitions_it_is_one_and_of_independent_ones_zero():
    label = np.arange(1_000) % 10
    assert Agreement.of([(label, 9 - label)]).nmi == pytest.approx(1) and Agreement.of([(label, label)]).moved == 0
    assert Agreement.of([(label, np.arange(1_000) // 100)]).nmi == pytest.approx(0, abs=1e-9)
