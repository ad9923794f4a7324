"""An iterator that runs ahead: the same values, the same error, no thread left behind."""

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylabel.prefetch import ahead


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "ahead"]


@given(st.lists(st.none() | st.integers()), st.integers(1, 4))
def test_the_values_in_order(values, depth):
    assert list(ahead(values, depth)) == values
    assert not threads()


def test_an_error_comes_in_its_turn():
    def source() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("the storage is gone")

    stream = ahead(source(), 4)
    assert [next(stream), next(stream)] == [1, 2]
    with pytest.raises(OSError, match="gone"):
        next(stream)
    assert not threads()


def test_it_runs_ahead_by_its_depth_and_no_further():
    made, third = [], threading.Event()

    def source() -> Iterator[int]:
        for value in range(100):
            made.append(value)
            if len(made) == 4:
                third.set()
            yield value

    stream = ahead(source(), 2)
    assert next(stream) == 0
    assert third.wait(60)  # one was taken, two are ready, and the thread holds the fourth
    assert len(made) == 4
    stream.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert len(made) == 4 and not threads()
