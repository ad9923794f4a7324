"""The reject limit gives the same result for samples counted in batches as for samples counted once."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raylabel.errors import InputError
from raylabel.store import reject_limit
from raylabel.store.reject_limit import RejectTally


@settings(max_examples=200, deadline=None)
@given(
    batches=st.lists(st.integers(0, 20).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))), min_size=1),
    limit=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
)
def test_more_rejects_than_the_limit_stop_a_run(batches, limit):
    samples, rejected = (sum(column) for column in zip(*batches, strict=True))
    tally = RejectTally(samples, limit)
    for count, rejects in batches:
        tally.add(count, {"truncated": rejects} if rejects else {})
    assert (tally.seen, tally.rejected) == (samples, rejected)
    if rejected > limit * samples or rejected == samples:
        with pytest.raises(InputError, match=f"^{rejected} of {samples} samples could not be read, the limit is "):
            tally.close()
    else:
        tally.close()


def test_the_limit_applies_after_enough_samples():
    tally = RejectTally(10 * reject_limit.ENOUGH, 0.05)
    tally.add(reject_limit.ENOUGH - 1, {"missing": reject_limit.ENOUGH - 1})
    tally.check()
    tally.add(1, {})
    with pytest.raises(InputError, match="^9,999 of 10,000 samples could not be read"):
        tally.check()
    small = RejectTally(20, 0.05)
    small.add(20, {"missing": 2})
    with pytest.raises(InputError, match="^2 of 20 "):
        small.check()


def test_the_error_names_the_three_most_frequent_reasons():
    tally = RejectTally(100, 0.1, "picked samples")
    tally.add(60, {"empty": 3, "missing": 20, "timeout": 1})
    tally.add(40, {"truncated": 7})
    with pytest.raises(InputError) as error:
        tally.close()
    assert str(error.value) == (
        "31 of 100 picked samples could not be read, the limit is 10% (most frequent reasons: missing 20, truncated 7, "
        "empty 3): fix the corpus, or raise --label.reject-limit"
    )


def test_a_missing_sample_is_an_assertion_error():
    tally = RejectTally(3, 1.0)
    tally.add(2, {})
    with pytest.raises(AssertionError, match="3 samples in, 2 out"):
        tally.close()
