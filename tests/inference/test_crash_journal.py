"""A teacher whose process dies of some samples: exactly those are rejected, whatever else kills it meanwhile."""

import contextlib
import itertools
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raylabel.inference import crash_journal as module
from raylabel.inference.crash_journal import Journal


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder, count = tmp_path_factory.mktemp("journals"), itertools.count()
    return lambda: str(folder / str(next(count)))


class Death(Exception):
    """Stands for the end of a process: nothing of it runs after."""


def live(
    batches: dict[int, int], poison: set[tuple[int, int]], accidents: set[int], clock: list[int], name="a", hit=()
):
    """One life of an actor that scores every batch (key → rows); {key: guilty slots} of those it scored in parts."""
    journal = Journal(name)

    def score(key: int, first: int, last: int) -> None:
        journal.take((key, first, last))
        clock[0] += 1
        if clock[0] in accidents and (key, first) not in hit:  # the same sample is not hit by chance twice
            if last - first == 1:
                hit.add((key, first))
            os.close(journal._file)
            raise Death
        if any((key, slot) in poison for slot in range(first, last)):
            os.close(journal._file)
            raise Death
        journal.give()

    guilty = {}
    for key, rows in batches.items():
        if journal.accuses(key, rows):
            guilty[key] = []
            covered = []
            for first, last, sure in journal.parts(key, rows):
                if sure:
                    guilty[key].append(first)
                else:
                    score(key, first, last)
                covered += range(first, last)
            assert covered == list(range(rows))
        else:
            score(key, 0, rows)
    os.close(journal._file)
    return guilty


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_guilty_are_found_and_nobody_else(path, data):
    rows = data.draw(st.lists(st.integers(1, 256), min_size=1, max_size=4))
    batches = {1000 * i: n for i, n in enumerate(rows)}
    slots = [(key, slot) for key, n in batches.items() for slot in range(n)]
    poison = set(data.draw(st.lists(st.sampled_from(slots), max_size=4)))
    accidents = set(data.draw(st.lists(st.integers(1, 60), max_size=6, unique=True)))
    clock, name, hit = [0], path(), set()
    lives, guilty = 0, None
    while guilty is None:
        lives += 1
        assert lives < 200, "it goes on for ever"
        with contextlib.suppress(Death):
            guilty = live(batches, poison, accidents, clock, name, hit)
    assert {(key, slot) for key, some in guilty.items() for slot in some} == poison
    assert lives <= 1 + len(accidents) * 2 + 12 * len(poison)


def test_one_death_accuses_nobody_and_other_actors_know_nothing(path):
    clock, name = [0], path()
    with pytest.raises(Death):
        live({0: 8}, {(0, 3)}, set(), clock, name, set())
    journal = Journal(name)
    assert not journal.accuses(0, 8)
    os.close(journal._file)
    with pytest.raises(Death):
        live({0: 8}, {(0, 3)}, set(), clock, name, set())
    journal = Journal(name)
    assert journal.accuses(0, 8) and not journal.accuses(0, 7) and not journal.accuses(8, 8)
    other = Journal(path())
    assert not other.accuses(0, 8)


def test_a_life_without_any_batch_is_counted(path):
    name, other = path(), path()
    for _ in range(module.LIVES):
        journal = Journal(name)
        assert not journal.hopeless
        journal.take((0, 0, 8))
        os.close(journal._file)
    assert Journal(name).hopeless
    journal = Journal(other)
    for number in range(2 * module.LIVES):  # one that dies often, but gets on
        journal = Journal(other)
        assert not journal.hopeless
        journal.take((number, 0, 8))
        journal.give()
        journal.take((number + 1, 0, 8))
        os.close(journal._file)


def test_a_journal_that_was_cut_short_is_read(path):
    name = path()
    journal = Journal(name)
    journal.take((4, 0, 8))
    os.close(journal._file)
    with open(name, "ab") as file:
        file.write(b', "deaths": [[1, 2')  # of a longer one, which was to be cut off next
    assert Journal(name)._deaths == {(4, 0, 8): 1}


def test_batches_in_hand_at_once(path):
    name = path()
    journal = Journal(name)
    journal.take((0, 0, 4))
    journal.take((4, 0, 4))
    journal.give()
    journal.take((8, 0, 4))
    os.close(journal._file)
    died = Journal(name)
    assert np.array_equal(sorted(died._deaths), [(4, 0, 4), (8, 0, 4)])
