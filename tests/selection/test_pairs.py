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
from raylabel.schema import PAIRS, PICKS
from raylabel.selection import compare, pairs
from raylabel.selection.compare import CANDIDATE, KINDS, MOST, Sets, merge, pairs_of
from raylabel.selection.pairs import THRESHOLD, count_samples, find_references, first_pairs, read_keys
from raylabel.selection.references import Reference, gather
from raylabel.selection.samples import Samples, take
from raylabel.store.artifact import Artifact, Built, Root, write_table

small = st.integers(1, 6)


def find_pairs(root: Root, corpus: Artifact, sets: dict[str, Artifact], *threshold: float) -> Artifact:
    return pairs.find_pairs(root, corpus, {name: Reference(one) for name, one in sets.items()}, *threshold)


@settings(max_examples=150)
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


@pytest.fixture
def compared(monkeypatch) -> list[int]:
    """With how many samples of the sets each part is compared, in tasks of one part each."""
    found: list[int] = []

    def note(task, arguments, *others):
        records = run_tasks(task, arguments, *others)
        found.extend(record["compared"] for some in records for record in some)
        return records

    run_tasks = pairs.run_tasks
    monkeypatch.setattr(pairs, "run_tasks", note)
    monkeypatch.setattr(pairs, "TASK_PAIRS", 1)
    return found


def test_parts_are_compared_once_whatever_stops_or_grows(ray_local, tmp_path, parts, sets, compared, monkeypatch):
    root, fresh = (Root.open(str(tmp_path / name)) for name in ("root", "fresh"))
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
    found = find_pairs(root, three, {"test": test})
    assert stopped == [3] and compared == [50, 50, 50]
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
    compared.clear()  # another set is new, the test set is known
    other = find_pairs(root, four, {"test": test, "other": stored(root, "other", [sets["validation"]])})
    assert compared == [len(sets["validation"].key)] * 4
    assert [row for row in rows(other) if row["set"] == "test"] == rows(grown)


def test_only_the_new_samples_of_a_set_are_compared(ray_local, tmp_path, parts, sets, compared, monkeypatch):
    """A set of which one sample is gone, one has other bytes and others are new, beside one that is the same."""
    root, fresh = (Root.open(str(tmp_path / name)) for name in ("root", "fresh"))
    whole, beside = sets["test"], sets["validation"]
    before = take(whole, np.arange(45))
    digest = before.digest.copy()
    digest[3] = b"changed"
    edited = take(replace(before, digest=digest), np.arange(45) != 7)
    names = ("key", "digest", "group", "thumbnail")
    after = Samples(**{name: np.concatenate([getattr(edited, name), getattr(whole, name)[45:]]) for name in names})

    def find(root, some):
        made = {"test": stored(root, f"test{len(some.key)}", [some]), "validation": stored(root, "beside", [beside])}
        return find_pairs(root, stored(root, "corpus", parts), made)

    first = find(root, before)
    compared.clear()
    grown, anew = find(root, after), find(fresh, after)
    assert compared == [6] * 4 + [len(after.key) + len(beside.key)] * 4
    assert grown.digest == anew.digest and rows(grown) == rows(anew) and rows(grown) != rows(first)
    gone = int(before.key[7])
    assert any(row["reference"] == gone for row in rows(first) if row["set"] == "test")
    assert not any(row["reference"] == gone for row in rows(grown) if row["set"] == "test")


def test_pairs_that_others_may_replace_are_searched_for_again(ray_local, tmp_path, compared):
    """A sample has the bytes of more samples of a set than are kept; one of these is gone. That of another part has
    fewer."""
    root, fresh = (Root.open(str(tmp_path / name)) for name in ("root", "fresh"))
    some = samples_of([1, 2], [0, 0])
    both = [take(some, slice(0, 1)), take(some, slice(1, 2))]
    whole = samples_of([1] * (MOST + 2) + [2, 2, 3], [0] * (MOST + 5))
    gone = take(whole, ~np.isin(np.arange(MOST + 5), [2, MOST + 2]))

    def find(at: Root, name: str, theirs: Samples) -> Artifact:
        return find_pairs(at, stored(at, "corpus", both), {"test": stored(at, name, [theirs])})

    find(root, "whole", whole)
    compared.clear()
    again, anew = find(root, "gone", gone), find(fresh, "gone", gone)
    assert rows(again) == rows(anew) and [row["key"] for row in rows(again)] == [0] * MOST + [3]
    assert compared[:2] == [MOST + 3, 0]


def test_samples_of_a_set_are_known_only_if_all_of_them_is_the_same(ray_local, tmp_path, sets):
    root, whole = Root.open(str(tmp_path)), sets["test"]
    one = Reference(stored(root, "one", [whole]))
    changed = {
        "key": whole.key + np.where(np.arange(50) == 49, 3, 0),
        "digest": np.where(np.arange(50) == 5, b"x" * 16, whole.digest).astype("S16"),
        "group": whole.group + (np.arange(50) == 6),
        "thumbnail": whole.thumbnail + (np.arange(50) == 8).astype(np.uint8)[:, None],
    }
    for at, (name, values) in zip((49, 5, 6, 8), changed.items(), strict=True):
        other = Reference(stored(root, name, [replace(whole, **{name: values})]))
        assert np.flatnonzero(~gather({"a": other}, {"a": one}, True).known).tolist() == [at]
    assert gather({"a": one}, {"a": one}, True).known.all() and not gather({"a": one}, {"b": one}, True).known.any()


def test_a_part_of_a_set_is_compared_alone(ray_local, tmp_path, parts, sets):
    root, whole = Root.open(str(tmp_path)), sets["test"]
    some = np.arange(50) % 3 == 0
    table = pa.table({"label": np.zeros(17), "rank": np.arange(17), "score": np.zeros(17), "key": whole.key[some]})
    picks = root.make(
        "truth", {}, lambda draft: Built([write_table(draft.uri, "picks-0.parquet", table.cast(PICKS))], {})
    )
    corpus, test = stored(root, "corpus", parts), stored(root, "test", [whole])
    every = find_pairs(root, corpus, {"test": test})
    found = pairs.find_pairs(root, corpus, {"test": Reference(test, picks)})
    keys = set(whole.key[some].tolist())
    assert rows(found) == [row for row in rows(every) if row["reference"] in keys] and found.digest != every.digest
    assert 0 < len(rows(found)) < len(rows(every)) and found.info["new"] == 0


@settings(max_examples=60)
@given(st.data())
def test_pairs_with_parts_of_sets_are_merged_to_those_with_the_whole(data):
    mine = data.draw(st.lists(st.tuples(small, st.integers(0, 3)), max_size=12))
    others = data.draw(st.lists(st.tuples(small, st.integers(0, 3), st.integers(0, 1)), max_size=30))
    others.sort(key=lambda one: one[2])
    number = np.array([x[2] for x in others], int)
    samples, theirs = (samples_of([x[0] for x in some], [x[1] for x in some]) for some in (mine, others))
    sets, part = (
        Sets(("a", "b"), number, theirs),
        np.array(data.draw(st.lists(st.booleans(), min_size=30, max_size=30))),
    )
    part = part[: len(others)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "MOST", data.draw(st.integers(1, 4)))
        whole = pairs_of(samples, sets, None, 0.5)
        tables = [pairs_of(samples, compare.only(sets, some), None, 0.5) for some in (part, ~part)]
        assert merge(tables, sets.names).equals(whole)


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
