"""The prefetching iterator gives the same values and the same error, and leaves no thread running."""

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylabel.prefetch import ahead


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "ahead"]


@given(st.lists(st.none() | st.integers()), st.integers(1, 4))
def test_values_keep_their_order(values, depth):
    assert list(ahead(values, depth)) == values
    assert not threads()


def test_an_error_is_raised_after_the_values_before_it():
    def source() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("the storage is gone")

    stream = ahead(source(), 4)
    assert [next(stream), next(stream)] == [1, 2]
    with pytest.raises(OSError, match="gone"):
        next(stream)
    assert not threads()


def test_at_most_depth_values_are_prefetched():
    made, fourth = [], threading.Event()

    def source() -> Iterator[int]:
        for value in range(100):
            made.append(value)
            if len(made) == 4:
                fourth.set()
            yield value

    stream = ahead(source(), 2)
    assert next(stream) == 0
    assert fourth.wait(60)  # one was read, two are in the queue, and the thread holds the fourth
    assert len(made) == 4
    stream.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert len(made) == 4 and not threads()
