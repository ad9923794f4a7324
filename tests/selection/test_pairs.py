"""PAIRS compared with brute force; after a stop, and when the corpus or the sets grow."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from copies import COPIES, photographs, samples_of, stored, thumbnails_of
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.exceptions import RayTaskError

from raylabel.errors import InputError
from raylabel.features.alignment import similarities
from raylabel.features.search import References
from raylabel.features.thumbnails import descriptors
from raylabel.schema import PAIRS
from raylabel.selection import compare, pairs
from raylabel.selection.compare import CANDIDATE, KINDS, MOST, Sets, pairs_of
from raylabel.selection.pairs import THRESHOLD, count_samples, find_pairs, find_references, first_pairs, read_keys
from raylabel.selection.samples import Samples, take
from raylabel.store.artifact import Artifact, Built, Root

small = st.integers(1, 6)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_equal_bytes_and_videos_are_those_of_brute_force(data):
    mine = data.draw(st.lists(st.tuples(small, st.integers(0, 3)), max_size=20))
    others = data.draw(st.lists(st.tuples(small, st.integers(0, 3), st.integers(0, 2)), max_size=30))
    others.sort(key=lambda one: one[2])
    most, names = data.draw(st.integers(1, 4)), ("a", "b", "c")
    samples, theirs = (samples_of([x[0] for x in some], [x[1] for x in some]) for some in (mine, others))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "MOST", most)
        found = pairs_of(samples, Sets(names, np.array([x[2] for x in others], int), theirs), None, 0.5).to_pylist()
    expected = []
    for i, (digest, group) in enumerate(mine):
        for number, name in enumerate(names):
            for kind in ("bytes", "video"):
                same = [x[0] == digest if kind == "bytes" else 0 != group == x[1] for x in others]
                at = [j for j, x in enumerate(others) if x[2] == number and same[j]][:most]
                expected += [
                    {
                        "key": 3 * i,
                        "set": name,
                        "reference": 3 * j,
                        "kind": kind,
                        "similarity": 1.0 if kind == "bytes" else None,
                    }
                    for j in at
                ]
    assert found == expected


@pytest.fixture(scope="module")
def pictures() -> tuple[np.ndarray, np.ndarray]:
    """Thumbnails of a corpus, and of a set of which the first 40 pictures are altered copies of pictures in it."""
    rng, some = np.random.default_rng(0), photographs(160)
    kinds = list(COPIES.values())
    copies = [kinds[i % len(kinds)](some[3 * i], rng) for i in range(40)]
    return thumbnails_of(some), thumbnails_of(copies + photographs(40, seed=9))


def brute_force(mine: np.ndarray, others: np.ndarray) -> dict[tuple[int, int], float]:
    at, other = (axis.ravel() for axis in np.indices((len(mine), len(others))))
    coarse = (descriptors(mine).astype(np.float64) @ descriptors(others).astype(np.float64).T).ravel()
    some = coarse >= CANDIDATE
    value = similarities(mine[at[some]], others[other[some]])
    least = THRESHOLD - compare.BELOW
    return {(int(i), int(j)): float(v) for i, j, v in zip(at[some], other[some], value, strict=True) if v >= least}


def test_near_duplicates_are_those_of_brute_force(pictures, monkeypatch):
    mine, others = pictures
    samples, theirs = samples_of([1] * 160, [0] * 160, mine), samples_of([2] * 80, [0] * 80, others)
    sets = Sets(("test",), np.zeros(80, int), theirs)
    expected = brute_force(mine, others)
    assert {(3 * i, i) for i in range(40)} & expected.keys() and len(expected) >= 36
    monkeypatch.setattr(compare, "ALIGNED", 5)
    table = pairs_of(samples, sets, References(descriptors(others), CANDIDATE, "fp32"), THRESHOLD)
    found = {(row["key"] // 3, row["reference"] // 3): row["similarity"] for row in table.to_pylist()}
    assert found == pytest.approx(expected, abs=1e-4)
    kinds = [(row["kind"], row["similarity"]) for row in table.to_pylist()]
    assert {*kinds} == {("near" if value >= np.float32(THRESHOLD) else "below", value) for _, value in kinds}
    # Of equal bytes there is one row, which says so.
    same = replace(theirs, digest=np.where(np.arange(80) == 4, b"\x01" * 16, theirs.digest))
    rows = pairs_of(samples, replace(sets, samples=same), References(descriptors(others), CANDIDATE, "fp32"), THRESHOLD)
    of_copy = [row["kind"] for row in rows.to_pylist() if row["key"] == 36 and row["reference"] == 12]
    assert of_copy == ["bytes"]


def test_the_most_similar_samples_of_a_set_are_kept():
    mine = thumbnails_of(photographs(1))
    others = np.repeat(mine, MOST + 5, axis=0)
    others = np.clip(
        others + np.arange(MOST + 5)[::-1, None] * np.random.default_rng(0).normal(size=others.shape), 0, 255
    )
    others = others.astype(np.uint8)
    theirs = samples_of([2] * (MOST + 5), [0] * (MOST + 5), others)
    sets = Sets(("test",), np.zeros(MOST + 5, int), theirs)
    table = pairs_of(samples_of([1], [0], mine), sets, References(descriptors(others), CANDIDATE, "fp32"), 0.5)
    value = table.column("similarity").to_pylist()
    assert len(value) == MOST and value == sorted(value, reverse=True)
    assert value == pytest.approx(sorted(similarities(np.repeat(mine, len(others), 0), others))[::-1][:MOST], abs=1e-5)


@pytest.fixture(scope="module")
def parts(pictures) -> list[Samples]:
    whole = samples_of(list(range(160)), [0] * 160, pictures[0])
    return [take(whole, slice(first, first + 40)) for first in range(0, 160, 40)]


@pytest.fixture(scope="module")
def sets(pictures) -> dict[str, Samples]:
    whole = samples_of([159, *range(160, 239)], [0] * 80, pictures[1])
    return {"test": take(whole, slice(0, 50)), "validation": take(whole, slice(50, 80))}


def rows(found: Artifact) -> list[dict]:
    return found.table("pairs-", PAIRS).to_pylist()


def test_parts_are_compared_once_whatever_stops_or_grows(ray_local, tmp_path, parts, sets, monkeypatch):
    root, fresh = (Root.open(str(tmp_path / name)) for name in ("root", "fresh"))
    monkeypatch.setattr(pairs, "TASK_PAIRS", 1)  # a part in each task
    test, more = (stored(root, name, [sets[name]]) for name in ("test", "validation"))
    three, four = stored(root, "three", parts[:3]), stored(root, "four", parts)

    stopped, run_tasks = [], pairs.run_tasks

    def stop(task, arguments, *others):
        stopped.append(len(list(arguments)))
        run_tasks(task, list(arguments)[:2], *others)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pairs, "run_tasks", lambda task, arguments, *others: stop(task, list(arguments), *others))
        with pytest.raises(KeyboardInterrupt):
            find_pairs(root, three, {"test": test})
    asked: list[dict] = []

    def note(task, arguments, *others):
        arguments = list(arguments)
        asked.extend(one[3] for one in arguments)
        return run_tasks(task, arguments, *others)

    monkeypatch.setattr(pairs, "run_tasks", note)
    found = find_pairs(root, three, {"test": test})
    assert stopped == [3] and [list(one) for one in asked] == [[2]]
    whole = find_pairs(fresh, stored(fresh, "three", parts[:3]), {"test": stored(fresh, "test", [sets["test"]])})
    assert found.digest == whole.digest and rows(found) == rows(whole) and len(rows(found)) > 20
    assert [file.sha256 for file in found.files()] == [file.sha256 for file in whole.files()]

    grown = find_pairs(root, four, {"test": test})
    assert (grown.info["new"], grown.info["earlier"]) == (1, 3)
    more_sets = find_pairs(root, four, {"test": test, "validation": more})
    assert (more_sets.info["new"], more_sets.info["earlier"]) == (4, 0)
    all_new = find_pairs(
        fresh,
        stored(fresh, "four", parts),
        {name: stored(fresh, name, [some]) for name, some in sets.items()},
        THRESHOLD,
    )
    assert rows(more_sets) == rows(all_new) and more_sets.digest == all_new.digest
    asked.clear()  # another set is new, the test set is known
    other = find_pairs(root, four, {"test": test, "other": stored(root, "other", [sets["validation"]])})
    known = [one for some in asked for one in some.values()]
    assert [one.sets for one in known if one] == [("test",)] * 4
    assert [row for row in rows(other) if row["set"] == "test"] == rows(grown)


def test_info_counts_what_is_in_the_table(ray_local, tmp_path, parts, sets):
    root = Root.open(str(tmp_path))
    found = find_pairs(
        root,
        stored(root, "corpus", parts),
        {name: stored(root, name, [some]) for name, some in sets.items()},
    )
    table = rows(found)
    in_a_set = sorted({row["key"] for row in table if row["kind"] != "below"})
    assert found.info["pairs"] == len(table) and found.info["removed"] == len(in_a_set)
    assert found.info["threshold"] == THRESHOLD
    for name in sets:
        references = find_references(found, name)
        for kind in KINDS:
            some = [row for row in table if (row["set"], row["kind"]) == (name, kind)]
            assert count_samples(found, name, kind) == len({row["key"] for row in some})
            assert references[kind].tolist() == sorted({row["reference"] for row in some})
    assert count_samples(found, "test", "bytes") == 1  # the digest of sample 159
    uris = [f"{found.uri}/{file.name}" for file in found.files("pairs-")]
    assert read_keys(uris).tolist() == in_a_set


def test_pairs_below_the_threshold_do_not_count(tmp_path):
    root, kinds = Root.open(str(tmp_path)), ["below", "near", "below", "bytes", "video", "below"]
    columns = [[1, 2, 2, 3, 4, 5], ["test"] * 6, [7] * 6, kinds, [0.9, 0.95, 0.9, 1.0, None, 0.91]]
    table = pa.table([pa.array(c, f.type) for c, f in zip(columns, PAIRS, strict=True)], schema=PAIRS)

    def build(draft):
        record = pairs._commit(draft.uri, 0, table, 1)
        return Built(pairs.files_of({0: record}), pairs._info({0: record}))

    found = root.make("pairs", {}, build)
    assert read_keys([f"{found.uri}/{file.name}" for file in found.files("pairs-")]).tolist() == [2, 3, 4]
    assert [row["key"] for row in first_pairs(found)] == [2, 3, 4]
    assert (found.info["removed"], found.info["pairs"], count_samples(found, "test", "below")) == (3, 6, 3)


def test_without_thumbnails_only_bytes_are_compared(ray_local, tmp_path, parts, sets):
    root = Root.open(str(tmp_path))
    without = [replace(some, thumbnail=None) for some in parts]
    for mine, others in ((without, sets["test"]), (parts, replace(sets["test"], thumbnail=None))):
        name = f"{mine is parts}"
        found = find_pairs(root, stored(root, f"c{name}", mine), {"test": stored(root, f"t{name}", [others])})
        assert [row["kind"] for row in rows(found)] == ["bytes"] and found.info["threshold"] is None


def test_a_threshold_outside_its_range_is_an_error(tmp_path):
    with pytest.raises(InputError, match="^the threshold is 1.1: give a similarity above 0 and up to 1$"):
        find_pairs(Root(str(tmp_path)), Artifact("", "pictures", "0"), {}, 1.1)


def test_thumbnails_of_other_samples_are_an_error(ray_local, tmp_path, parts, sets):
    root = Root.open(str(tmp_path))
    corpus = stored(root, "corpus", parts)
    other = stored(root, "other", parts[::-1])
    for name in ("thumbnails-000000.parquet",):
        with open(f"{corpus.uri}/{name}", "wb") as file:
            file.write(other.read(name))
    with pytest.raises(RayTaskError, match="part 0 of .* has thumbnails of other samples: delete it"):
        find_pairs(root, corpus, {"test": stored(root, "test", [sets["test"]])})
