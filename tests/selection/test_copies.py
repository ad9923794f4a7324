"""COPIES compared with brute force, in one partition and in several, and after a stop."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from copies import COPIES as ALTER
from copies import photographs, samples_of, stored, thumbnails_of
from hypothesis import given, settings
from hypothesis import strategies as st

from raylabel.errors import InputError
from raylabel.features.alignment import similarities
from raylabel.features.partitions import PROBES, centroids_of, nearest
from raylabel.features.thumbnails import descriptors
from raylabel.schema import COPIES, SCORES, THUMBNAILS
from raylabel.selection import copies, leaders
from raylabel.selection.compare import MOST
from raylabel.selection.copies import find_copies
from raylabel.selection.duplicates import find_duplicates
from raylabel.selection.leaders import CANDIDATE, copies_of, keep_of
from raylabel.selection.pairs import THRESHOLD
from raylabel.selection.samples import take
from raylabel.store.artifact import Artifact, Built, Root, write_table


@settings(max_examples=200)
@given(st.integers(1, 12), st.data())
def test_a_picture_is_removed_if_one_of_its_originals_is_kept(count, data):
    rank = np.array(data.draw(st.permutations(range(count))))  # any order, as of scores
    drawn = data.draw(st.lists(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)), max_size=40))
    pairs = [(a, b) if rank[a] > rank[b] else (b, a) for a, b in drawn if a != b]
    expected = np.ones(count, bool)
    for one in np.argsort(rank):
        expected[one] = not any(expected[b] for a, b in pairs if a == one)
    at, original = (np.array([pair[i] for pair in pairs], np.int64) for i in (0, 1))
    assert keep_of(at, original, count).tolist() == expected.tolist()


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """Thumbnails of 100 photographs, 80 altered copies of some, and 20 copies of one, shuffled."""
    rng, some = np.random.default_rng(0), photographs(100)
    kinds = list(ALTER.values())
    copied = [kinds[i % len(kinds)](some[int(rng.integers(60))], rng) for i in range(80)]
    placeholder = [ALTER["jpeg"](some[99], rng) for _ in range(20)]
    return thumbnails_of(some + copied + placeholder)[rng.permutation(200)]


def near_pairs(pictures: np.ndarray) -> np.ndarray:
    """float64 [N, N]: the similarity of each and one before it, if they are near-duplicates; else 0."""
    at, other = np.tril_indices(len(pictures), -1)
    feature = descriptors(pictures).astype(np.float64)
    some = (feature @ feature.T)[at, other] >= CANDIDATE
    value = similarities(pictures[at[some]], pictures[other[some]])
    found = np.zeros((len(pictures),) * 2)
    found[at[some], other[some]] = np.where(value >= THRESHOLD, value, 0)
    return found


def brute_force(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the similarities, which are kept)."""
    near, keep = near_pairs(pictures), np.ones(len(pictures), bool)
    for at in range(len(pictures)):
        keep[at] = not (near[at] * keep).any()
    return near, keep


@pytest.mark.parametrize("block", [1, 7, 64, 1000])
def test_copies_are_those_of_brute_force_in_blocks_of_any_size(pictures, block, monkeypatch):
    monkeypatch.setattr(leaders, "BLOCK", block)
    near, keep = brute_force(pictures)
    found = copies_of(pictures, THRESHOLD, "fp32")
    expected = {}
    for at in np.flatnonzero(~keep):
        originals = np.flatnonzero((near[at] > 0) & keep)
        best = originals[np.argsort(-near[at, originals], kind="stable")][:MOST]
        expected |= {(int(at), int(original)): near[at, original] for original in best}
    got = dict(zip(zip(found.at.tolist(), found.original.tolist(), strict=True), found.similarity, strict=True))
    assert got == pytest.approx(expected, abs=1e-4)
    assert (~keep).sum() > 80 and keep.sum() > 80


def test_no_pictures_have_no_copies(pictures):
    for some in (pictures[:0], pictures[:1]):
        assert len(copies_of(some, THRESHOLD, "fp32").at) == 0


def test_the_partitions_of_a_feature_are_the_nearest_ones(pictures):
    feature = descriptors(pictures)
    centroids = centroids_of(feature, 12)
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-5)
    found = nearest(feature, centroids)
    cosine = feature.astype(np.float64) @ centroids.T.astype(np.float64)
    best = np.sort(cosine, axis=1)[:, ::-1][:, :PROBES]
    np.testing.assert_allclose(np.take_along_axis(cosine, found, 1), best, atol=1e-3)
    assert np.array_equal(centroids, centroids_of(feature, 12))
    assert nearest(feature, centroids[:2]).shape == (200, 2)


def stored_scores(root: Root, pictures: np.ndarray, score: np.ndarray, digest: list[int]) -> Artifact:
    """SCORES with THUMBNAILS, in parts of 50."""
    samples = samples_of(digest, [0] * len(pictures), pictures)

    def build(draft):
        files = []
        for number, first in enumerate(range(0, len(pictures), 50)):
            some, mine = take(samples, slice(first, first + 50)), score[first : first + 50]
            values = [[float(one), -9.0] for one in mine]
            rows = len(mine)
            columns = [
                some.key,
                [one.ljust(16, b"\0") for one in some.digest.tolist()],
                some.group,
                [[1, 0]] * rows,
                values,
                values,
                [[]] * rows,
            ]
            table = pa.Table.from_arrays(
                [pa.array(column, field.type) for column, field in zip(columns, SCORES, strict=True)], schema=SCORES
            )
            files.append(write_table(draft.uri, f"scores-{number:06d}.parquet", table))
            pixels = pa.array([one.tobytes() for one in some.thumbnail], THUMBNAILS.field(1).type)
            beside = pa.table([pa.array(some.key), pixels], schema=THUMBNAILS)
            files.append(write_table(draft.uri, f"thumbnails-{number:06d}.parquet", beside))
        return Built(files, {"p": 2})

    return root.make("scores", {}, build)


def rows(found: Artifact) -> list[dict]:
    return found.table("copies-", COPIES).to_pylist()


def test_the_best_scored_sample_is_kept(ray_local, tmp_path, pictures):
    root, rng = Root.open(str(tmp_path)), np.random.default_rng(1)
    score = rng.integers(0, 20, 200).astype(np.float32)  # with ties
    digest = list(range(1, 201))
    digest[150], digest[160] = digest[3], digest[3]  # the same bytes
    scores = stored_scores(root, pictures, score, digest)
    found = find_copies(root, scores, find_duplicates(root, scores))
    compared = np.setdiff1d(np.arange(200), [150, 160])
    order = compared[np.argsort(-score[compared], kind="stable")]
    near, keep = brute_force(pictures[order])
    table = rows(found)
    assert [row["key"] // 3 for row in table] == sorted(order[~keep].tolist())
    place = {int(one): position for position, one in enumerate(order)}
    for row in table:
        at, original = place[row["key"] // 3], place[row["original"] // 3]
        assert keep[original] and row["similarity"] == pytest.approx((near[at] * keep).max(), abs=1e-4)
    copied = [row["original"] for row in table]
    assert found.info["copies"] == len(table) and found.info["groups"] == len({*copied})
    assert found.info["largest"] == max(map(copied.count, copied))


@pytest.fixture
def many(monkeypatch) -> None:
    """Samples are divided although they are few."""
    for name, value in {"WHOLE": 10, "PARTITION": 20, "MAPPED": 60, "BUCKET": 120}.items():
        monkeypatch.setattr(copies, name, value)


@pytest.mark.long
def test_in_several_partitions_copies_are_copies_and_most_are_found(ray_local, tmp_path, pictures, many):
    root = Root.open(str(tmp_path))
    parts = [take(samples_of(list(range(200)), [0] * 200, pictures), slice(i, i + 50)) for i in range(0, 200, 50)]
    corpus = stored(root, "corpus", parts)
    found = find_copies(root, corpus, find_duplicates(root, corpus))
    near, keep = brute_force(pictures)
    table = rows(found)
    removed = {row["key"] // 3 for row in table}
    for row in table:
        assert near[row["key"] // 3, row["original"] // 3] == pytest.approx(row["similarity"], abs=1e-4)
        assert row["original"] // 3 not in removed
    assert len(removed & {*np.flatnonzero(~keep).tolist()}) >= 0.95 * (~keep).sum()
    assert len(removed) <= (~keep).sum() + 2


@pytest.mark.long
def test_a_stopped_search_compares_only_what_is_left(ray_local, tmp_path, pictures, many, monkeypatch):
    root, fresh = (Root.open(str(tmp_path / name)) for name in ("root", "fresh"))
    parts = [take(samples_of(list(range(200)), [0] * 200, pictures), slice(i, i + 50)) for i in range(0, 200, 50)]
    run_tasks, asked, stopped = copies.run_tasks, list[tuple[str, int]](), list[str]()

    def stop_in(task, arguments, *others, **more):
        arguments = list(arguments)
        asked.append((task.__name__, len(arguments)))
        if task.__name__ in stopped[-1:]:
            run_tasks(task, arguments[:1], *others, **more)
            raise KeyboardInterrupt
        return run_tasks(task, arguments, *others, **more)

    monkeypatch.setattr(copies, "run_tasks", stop_in)
    corpus = stored(root, "corpus", parts)
    duplicates = find_duplicates(root, corpus)
    for name in ("_divide", "_compare"):
        stopped.append(name)
        with pytest.raises(KeyboardInterrupt):
            find_copies(root, corpus, duplicates)
    before = {path: os.stat(path).st_mtime_ns for path in Path(root.uri).rglob("*-00000*") if path.is_file()}
    stopped.clear()
    asked.clear()
    found = find_copies(root, corpus, duplicates)
    assert asked == [("_divide", 0), ("_compare", 4), ("_decide", 1)]
    assert all(os.stat(path).st_mtime_ns == at for path, at in before.items() if path.exists())
    other = stored(fresh, "corpus", parts)
    whole = find_copies(fresh, other, find_duplicates(fresh, other))
    assert [file.sha256 for file in whole.files()] == [file.sha256 for file in found.files()] and len(rows(found)) > 80


def test_a_corpus_without_thumbnails_is_an_error(ray_local, tmp_path, pictures):
    root = Root.open(str(tmp_path))
    corpus = stored(root, "corpus", [samples_of([1, 2], [0, 0])])
    duplicates = find_duplicates(root, corpus)
    with pytest.raises(InputError, match=f"{corpus.uri} has no thumbnails.*24 pixels, or an earlier version"):
        find_copies(root, corpus, duplicates)
    with pytest.raises(InputError, match="^the threshold is 0: give a similarity above 0 and up to 1$"):
        find_copies(root, corpus, duplicates, 0)
