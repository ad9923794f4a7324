"""A teacher whose process crashes on some samples: exactly those are rejected, also if the process is killed too."""

import contextlib
import itertools
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raylabel.inference import crash_journal as module
from raylabel.inference.crash_journal import CrashJournal


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder, count = tmp_path_factory.mktemp("journals"), itertools.count()
    return lambda: str(folder / str(next(count)))


class Crash(Exception):
    """The end of the simulated process."""


def run_actor(
    batches: dict[int, int], poison: set[tuple[int, int]], kills: set[int], clock: list[int], name="a", killed=()
):
    """Starts an actor that scores every batch (key → rows). Returns {key: rejected slots} for the suspects."""
    journal = CrashJournal(name)

    def score(key: int, first: int, last: int) -> None:
        journal.start((key, first, last))
        clock[0] += 1
        if clock[0] in kills and (key, first) not in killed:  # a sample that does not crash is not killed twice
            if last - first == 1:
                killed.add((key, first))
            os.close(journal._file)
            raise Crash
        if any((key, slot) in poison for slot in range(first, last)):
            os.close(journal._file)
            raise Crash
        journal.finish()

    rejected = {}
    for key, rows in batches.items():
        if journal.is_suspect(key, rows):
            rejected[key] = []
            covered = []
            for first, last, reject in journal.spans(key, rows):
                if reject:
                    rejected[key].append(first)
                else:
                    score(key, first, last)
                covered += range(first, last)
            assert covered == list(range(rows))
        else:
            score(key, 0, rows)
    os.close(journal._file)
    return rejected


@settings(max_examples=60)
@given(data=st.data())
def test_exactly_the_samples_that_crash_are_rejected(path, data):
    rows = data.draw(st.lists(st.integers(1, 256), min_size=1, max_size=4))
    batches = {1000 * i: n for i, n in enumerate(rows)}
    slots = [(key, slot) for key, n in batches.items() for slot in range(n)]
    poison = set(data.draw(st.lists(st.sampled_from(slots), max_size=4)))
    kills = set(data.draw(st.lists(st.integers(1, 60), max_size=6, unique=True)))
    clock, name, killed = [0], path(), set()
    starts, rejected = 0, None
    while rejected is None:
        starts += 1
        assert starts < 200, "the actor is restarted forever"
        with contextlib.suppress(Crash):
            rejected = run_actor(batches, poison, kills, clock, name, killed)
    assert {(key, slot) for key, some in rejected.items() for slot in some} == poison
    assert starts <= 1 + len(kills) * 2 + 12 * len(poison)


def test_two_crashes_make_a_batch_a_suspect_for_its_actor_only(path):
    clock, name = [0], path()
    with pytest.raises(Crash):
        run_actor({0: 8}, {(0, 3)}, set(), clock, name, set())
    journal = CrashJournal(name)
    assert not journal.is_suspect(0, 8)
    os.close(journal._file)
    with pytest.raises(Crash):
        run_actor({0: 8}, {(0, 3)}, set(), clock, name, set())
    journal = CrashJournal(name)
    assert journal.is_suspect(0, 8) and not journal.is_suspect(0, 7) and not journal.is_suspect(8, 8)
    other = CrashJournal(path())
    assert not other.is_suspect(0, 8)


def test_crashes_in_a_row_without_a_finished_batch_are_counted(path):
    name, other = path(), path()
    for _ in range(module.MAX_CRASHES):
        journal = CrashJournal(name)
        assert not journal.exhausted
        journal.start((0, 0, 8))
        os.close(journal._file)
    assert CrashJournal(name).exhausted
    journal = CrashJournal(other)
    for number in range(2 * module.MAX_CRASHES):  # crashes often, but finishes batches
        journal = CrashJournal(other)
        assert not journal.exhausted
        journal.start((number, 0, 8))
        journal.finish()
        journal.start((number + 1, 0, 8))
        os.close(journal._file)


def test_a_journal_whose_truncation_was_interrupted_is_read(path):
    name = path()
    journal = CrashJournal(name)
    journal.start((4, 0, 8))
    os.close(journal._file)
    with open(name, "ab") as file:
        file.write(b', "crashes": [[1, 2')  # the rest of a longer line, not yet truncated
    assert CrashJournal(name)._crashes == {(4, 0, 8): 1}


def test_all_batches_in_flight_at_a_crash_are_counted(path):
    name = path()
    journal = CrashJournal(name)
    journal.start((0, 0, 4))
    journal.start((4, 0, 4))
    journal.finish()
    journal.start((8, 0, 4))
    os.close(journal._file)
    restarted = CrashJournal(name)
    assert np.array_equal(sorted(restarted._crashes), [(4, 0, 4), (8, 0, 4)])
