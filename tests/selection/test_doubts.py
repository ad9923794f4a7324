"""The reasons not to expect a gain from a selection."""

from dataclasses import replace

import pytest

from raylabel.selection.audit import Audited
from raylabel.selection.doubts import LEAST, doubts

SURE = Audited(samples=100, source="validation", foreign=0.0, precision=0.9, low=0.85, high=0.95, suspects=0)


def test_good_lists_raise_no_doubt():
    assert doubts(1_000, 100, SURE) == doubts(1_000, 100, None) == []


@pytest.mark.parametrize("high, found", [(LEAST - 0.001, 1), (LEAST, 0), (0.8, 0)])
def test_lists_that_are_likely_wrong(high, found):
    reasons = doubts(1_000, 100, replace(SURE, precision=0.5, low=0.4, high=high))
    assert len(reasons) == found
    if reasons:
        assert reasons == [
            "at most 66.6% of the picks are expected to have their true label, and with less than 66.7% students have "
            "lost"
        ]


def test_fewer_right_picks_than_labels():
    few = "90 picked samples are expected to have their true label, and 90 labeled samples have theirs"
    assert doubts(100, 90, SURE) == [few]
    assert doubts(100, 89, SURE) == []
    assert doubts(90, 90, None) == ["90 samples are picked, and 90 labeled samples have their true labels"]
    assert doubts(91, 90, None) == []


def test_an_unknown_precision_is_none_that_is_low():
    unlike = replace(SURE, foreign=0.2, precision=None, low=None, high=None)
    assert doubts(1_000, 100, unlike) == []
    assert len(doubts(100, 100, unlike)) == 1
