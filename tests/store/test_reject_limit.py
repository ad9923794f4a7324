"""The reject limit gives the same result for samples counted in batches as for samples counted once."""

from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raylabel.errors import InputError
from raylabel.schema import REASONS, REJECTS
from raylabel.store import reject_limit
from raylabel.store.artifact import File, write_table
from raylabel.store.parts import commit_part, committed_parts
from raylabel.store.reject_limit import RejectTally


@settings(max_examples=200)
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
        "empty 3): correct the paths, or set unlabeled.media to where the encoded bytes are, or raise "
        "--label.reject-limit"
    )


def rejects(folder: str, number: int, rows: list[tuple[str, str, str]]) -> dict:
    """A committed part whose REJECTS are these (uri, reason, detail)."""
    values = [(at, uri, "decode", reason, detail) for at, (uri, reason, detail) in enumerate(rows)]
    columns = [pa.array(column, field.type) for column, field in zip(zip(*values, strict=True), REJECTS, strict=True)]
    file = write_table(folder, f"rejects-{number:06d}.parquet", pa.Table.from_arrays(columns, schema=REJECTS))
    reasons = Counter(reason for _, reason, _ in rows)
    return commit_part(folder, number, [File("scores", 0, 0, ""), file], {"reasons": reasons})


def test_the_error_names_three_samples_their_reasons_and_the_table(tmp_path):
    folder = str(tmp_path)
    tally = RejectTally(201, 0.05, corpus="test")
    some = [(f"a/{i}.jpg", "corrupt", "no SOI") for i in range(5)] + [
        ("b\x1b[31m.jpg", "too_many_pixels", "9 x 9, limit 8")
    ]
    tally.add_part(folder, rejects(folder, 3, some), 100)
    tally.add_part(folder, {"files": [{"name": "scores-000004.parquet"}], "reasons": {}}, 1)
    tally.add_part(folder, rejects(folder, 5, [("c.jpg", "missing", "")] * 2 + some), 100)
    with pytest.raises(InputError) as error:
        tally.close()
    assert str(error.value) == (
        "14 of 201 samples could not be read, the limit is 5% (most frequent reasons: corrupt 10, too_many_pixels 2, "
        f"missing 2), for example 'a/0.jpg' (corrupt: no SOI), 'b[31m.jpg' (too_many_pixels: 9 x 9, limit 8), 'c.jpg' "
        f"(missing); all are in {folder}/rejects-*.parquet: copy or download these files again, or convert them, or "
        "raise --label.reject-limit"
    )
    one = RejectTally(6, 0.05)
    one.add_part(folder, rejects(folder, 6, some), 6)
    with pytest.raises(InputError) as error:
        one.close()  # all samples are rejects: a higher limit does not help
    for text in ("'a/0.jpg' (corrupt: no SOI)", "'a/1.jpg'", "limit 8), 'a/1.jpg'"):
        assert text in str(error.value)
    assert str(error.value).endswith("copy or download these files again, or convert them")


@pytest.mark.parametrize("reason", REASONS)
def test_the_fix_fits_the_reason(reason):
    tally = RejectTally(10, 0.05, corpus="labeled")
    tally.add(10, {reason: 9, "other": 1})
    with pytest.raises(InputError) as error:
        tally.close()
    fix = str(error.value).rpartition(": ")[2]
    words = {
        "missing": "paths",
        "unrecognized": "labeled.media",
        "too_many_pixels": "limit",
        "unreadable": "permissions",
    }
    assert words.get(reason, "") in fix and "{" not in fix and fix != "fix the corpus"


def test_parts_with_rejects_are_done_again_only_on_request(tmp_path):
    folder = str(tmp_path)
    rejects(folder, 0, [("a", "unreadable", "")])
    commit_part(folder, 1, [], {"reasons": {}})
    assert set(committed_parts(folder)) == {0, 1} and set(committed_parts(folder, retry_rejects=True)) == {1}


def test_a_missing_sample_is_an_assertion_error():
    tally = RejectTally(3, 1.0)
    tally.add(2, {})
    with pytest.raises(AssertionError, match="3 samples in, 2 out"):
        tally.close()
