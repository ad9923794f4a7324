"""Selection against plain Python: sort everything, take the first K."""

import tempfile
from collections import defaultdict
from dataclasses import replace
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raylabel.compute import tasks
from raylabel.errors import InputError
from raylabel.schema import DUPLICATES, PICKS, SCORES, check
from raylabel.selection import select as selection
from raylabel.selection import shuffle, topk
from raylabel.selection.candidates import Scored
from raylabel.selection.config import Select
from raylabel.selection.duplicates import _write_hashes, find_duplicates
from raylabel.selection.select import SelectionTask, _count_keys, _write_candidates, select
from raylabel.selection.topk import TopK, sort_order
from raylabel.store.artifact import Artifact, Built, File, Root, write_table


def best(rows, k):
    """(label, rank, score, key) of the first k of each label, for rows of (label, score, key[, group])."""
    lists = defaultdict(list)
    for label, score, key, *group in rows:
        lists[label].append((-score, key, *group))
    found = []
    for label in sorted(lists):
        seen, mine = set(), []
        for score, key, *group in sorted(lists[label]):
            if group in ([], [0]) or group[0] not in seen:
                mine.append((-score, key))
            seen.update(group)
        found += [(label, rank, score, key) for rank, (score, key) in enumerate(mine[:k], 1)]
    return found


def as_rows(result):
    return list(zip(*(column.tolist() for column in result), strict=True))


# Few values, so that most cuts fall into a tie.
tied_score = st.sampled_from([-np.inf, -1.5, -0.0, 0.0, 2.0**-149, 1.0, 3.0, np.inf]) | st.floats(-2, 2, width=32)


@settings(max_examples=200)
@given(st.data())
def test_topk_equals_brute_force(data):
    classes, k = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 8))
    rows = data.draw(st.lists(st.tuples(st.integers(0, classes - 1), tied_score), max_size=60))
    keys = data.draw(st.permutations(range(len(rows))))
    rows = [(label, score, key) for (label, score), key in zip(rows, keys, strict=True)]
    with mock.patch.object(topk, "STAGE_ROWS", data.draw(st.integers(0, 20))):
        top = TopK(classes, k)
        for part in cut(data, rows):
            top.add(*columns_of(part))
    low, high = sorted(data.draw(st.tuples(st.integers(0, classes - 1), st.integers(1, classes))))
    wanted = {(label, score, key) for label, _, score, key in best(rows, k) if low <= label < high}
    if low < high:
        assert set(as_rows(top.kept(low, high))) == wanted
    result = top.result()
    assert [column.dtype for column in result] == [np.int32, np.int32, np.float32, np.int64]
    assert as_rows(result) == best(rows, k)
    assert not np.signbit(result[2][result[2] == 0]).any()  # no -0.0, whichever zero was added


@settings(max_examples=300)
@given(st.data())
def test_topk_keeps_the_best_of_each_group_however_rows_are_split(data):
    classes, k = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 6))
    group = (
        st.integers(-(2**63), 2**63 - 1) if data.draw(st.booleans()) else st.integers(0, data.draw(st.integers(0, 9)))
    )
    rows = data.draw(st.lists(st.tuples(st.integers(0, classes - 1), tied_score, group), max_size=60))
    keys = data.draw(st.permutations(range(len(rows))))
    rows = [(label, score, key, group) for (label, score, group), key in zip(rows, keys, strict=True)]
    with mock.patch.object(topk, "STAGE_ROWS", data.draw(st.integers(0, 20))):
        whole = TopK(classes, k, groups=True)
        for share in cut(data, rows):  # the rows of one task, added in batches; its result is added to the whole
            top = TopK(classes, k, groups=True)
            for part in cut(data, share):
                top.add(*columns_of(part, groups=True))
            assert as_rows(top.result()) == best(share, k)
            whole.add(*top.kept(0, classes))
    assert as_rows(whole.result()) == best(rows, k)


@settings(max_examples=200)
@given(st.data())
def test_rows_that_were_taken_and_those_that_are_left_hold_the_best(data):
    """A task with little memory takes what it has and continues. Rows below the thresholds of then are dropped."""
    classes, k, grouped = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 4)), data.draw(st.booleans())
    pairs = data.draw(st.lists(st.tuples(st.integers(0, classes - 1), tied_score), max_size=60))
    rows = [(label, score, key, key % 5) for key, (label, score) in enumerate(pairs)]
    with mock.patch.object(topk, "STAGE_ROWS", 0):
        top, whole, taken = TopK(classes, k, grouped), TopK(classes, k, grouped), 0
        for part in cut(data, rows):
            top.add(*columns_of(part, grouped)[: 3 + grouped])
            if data.draw(st.booleans()):
                for c in range(classes):
                    found = top.take(c, c + 1)
                    taken += len(found[0])
                    whole.add(*found)
                assert top.rows == 0 and not len(top.kept(0, classes)[0])
        whole.add(*top.kept(0, classes))
    assert as_rows(whole.result()) == best(rows if grouped else [row[:3] for row in rows], k)


def cut(data, rows):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=6)))
    return [rows[start:end] for start, end in zip([0, *cuts], [*cuts, len(rows)], strict=True)]


def columns_of(rows, groups=False):
    types = (np.int32, np.float32, np.int64, np.int64)[: 3 + groups]
    return [np.array([row[i] for row in rows], dtype) for i, dtype in enumerate(types)]


def test_topk_drops_rows_below_the_threshold_before_staging():
    with mock.patch.object(topk, "STAGE_ROWS", 25):
        top = TopK(2, 10)
        top.add(np.zeros(60, np.int32), np.arange(60, dtype=np.float32), np.arange(60))
        assert (len(top._rows[0][0]), top._staged_rows) == (10, 0)
        top.add(np.zeros(40, np.int32), np.full(40, 49.0, np.float32), np.arange(40))
        assert (len(top._rows[0][0]), top._staged_rows) == (10, 0)
        top.add(np.zeros(3, np.int32), np.full(3, 50.0, np.float32), np.array([7, 50, 99]))  # ties with the last
        assert (len(top._rows[0][0]), top._staged_rows) == (10, 3)
    assert top.result()[3].tolist() == [59, 58, 57, 56, 55, 54, 53, 52, 51, 7]


@settings(max_examples=100)
@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3)))
def test_sort_order_is_lexsort(rows):
    a, b, c = np.array(rows, np.int64).reshape(-1, 3).T
    order = sort_order(a, b, c)
    assert sorted(order.tolist()) == list(range(len(rows)))
    assert [rows[i] for i in order] == sorted(rows)


@settings(max_examples=100)
@given(st.lists(st.integers(0, 100)), st.integers(0, 8))
def test_groups_are_runs_of_about_equal_rows(sizes, count):
    files = [File(f"{i:05d}", rows, 0, "") for i, rows in enumerate(sizes)]
    groups = shuffle.group_files(files, count)
    assert sum(groups, []) == [f.name for f in files]
    assert 1 <= len(groups) <= max(1, count)
    rows = [sum(sizes[int(name)] for name in group) for group in groups]
    assert max(rows) <= sum(sizes) / max(1, count) + max(sizes, default=0) + 1


def test_a_partition_is_read_as_it_was_written(tmp_path):
    schema = pa.schema([("a", pa.int64()), ("b", pa.float32())])
    partitions = [[np.arange(n), np.arange(n, dtype=np.float32) / 2] for n in (3, 0, 5)]
    name = shuffle.write_partitions(str(tmp_path), "x.arrow", schema, iter(partitions))
    for number in (2, 0, 1):
        for found, wanted in zip(shuffle.read_partition(str(tmp_path), name, number), partitions[number], strict=True):
            assert found.dtype == wanted.dtype and found.tolist() == wanted.tolist()


# ---- the whole selection, over a small corpus of scores ----


def fake_scores(root, name, rows, files, p, groups=None):
    """SCORES of rows (key, digest, classes, log_odds, logits), cut into files of the given sizes in key order; `groups`
    gives the groups of some keys."""
    assert sum(files) == len(rows)
    rows = [(key, digest, (groups or {}).get(key, 0), *lists, []) for key, digest, *lists in rows]

    def build(draft):
        written, start = [], 0
        for i, size in enumerate(files):
            columns = [list(c) for c in zip(*rows[start : start + size], strict=True)] or [[]] * len(SCORES)
            table = check(pa.table(columns, schema=SCORES), SCORES, "fake")
            pieces = [table[j : j + 7] for j in range(0, size, 7)]
            written.append(write_table(draft.uri, f"scores-{i:05d}.parquet", *pieces, table[:0]))
            start += size
        rejects = write_table(draft.uri, "rejects-00000.parquet", pa.table({"key": [1]}))
        return Built([*written, rejects], {"p": p} | ({} if groups is None else {"groups": len(groups)}))

    return root.make("scores", {"name": name}, build)


def random_rows(n, classes, p, seed, alphabet=6):
    """Few distinct scores, so that there are many ties; a tenth of the samples are copies of earlier ones."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        key = (i // 50) << 32 | (i % 50) * 2
        mine = rng.permutation(classes)[:p].tolist()
        odds = sorted((rng.integers(-alphabet, alphabet, p) / 2).tolist(), reverse=True)
        logits = (rng.integers(-alphabet, alphabet, p) / 2 * rng.choice([-1.0, 1.0])).tolist()  # with -0.0 among them
        digest = rng.bytes(16)
        if i and rng.random() < 0.1:
            other = rows[rng.integers(len(rows))]
            digest = other[1]
            if rng.random() < 0.5:
                mine, odds, logits = other[2:]
        rows.append((key, digest, mine, odds, logits))
    return rows


def duplicates_of(rows):
    first, found = {}, []
    for key, digest, *_ in sorted(rows):
        if first.setdefault(digest, key) != key:
            found.append((key, first[digest]))
    return sorted(found)


def picks_of(rows, config, groups=None):
    drop = {key for key, _ in duplicates_of(rows)}
    column = 3 if config.rank == "softmax" else 4
    return best(
        [(label, score, row[0], (groups or {}).get(row[0], 0)) for row in rows if row[0] not in drop
         for label, score in zip(row[2][: config.p], row[column][: config.p], strict=True)],
        config.k,
    )  # fmt: skip


def read(artifact: Artifact, prefix, schema):
    return as_rows([column.to_numpy() for column in artifact.table(prefix, schema).columns])


def everything(artifact: Artifact):
    return {f.name: artifact.read(f.name) for f in artifact.files()}


def names(count):
    return tuple(f"class {i}" for i in range(count))


@pytest.mark.parametrize("p", [1, 2, 3, 5])
@pytest.mark.parametrize("k", [1, 9, 1000])
def test_select_equals_sorting_everything(ray_local, tmp_path, p, k):
    root, rows = Root.open(str(tmp_path)), random_rows(400, 5, 5, seed=p)
    scores = fake_scores(root, "s", rows, [150, 0, 49, 201], 5)
    duplicates = find_duplicates(root, scores)
    assert sorted(read(duplicates, "duplicates-", DUPLICATES)) == duplicates_of(rows)
    for rank in ("softmax", "logits"):
        config = Select(k=k, p=p, rank=rank)
        picks = select(root, scores, duplicates, config, names(5))
        wanted = picks_of(rows, config)
        assert read(picks, "picks-", PICKS) == wanted
        info = dict(picks.info)
        assert info.pop("seconds") >= 0
        per_class = [sum(row[0] == c for row in wanted) for c in range(5)]
        samples = len({row[3] for row in wanted})
        expected = {"picks": len(wanted), "samples": samples, "per_class": per_class, "k": k, "p": p, "rank": rank}
        assert info == {**expected, "repeat_videos": False}


def test_bytes_do_not_depend_on_the_number_of_tasks(ray_local, tmp_path, monkeypatch):
    # 150 classes are three slices; for 9,000 candidates the first run has 1 map task, the others up to 4.
    rows = random_rows(3000, 150, 4, seed=0)
    config = Select(k=20, p=3)
    results = []
    for group_candidates, bucket_rows, files in [
        (10**6, 4 * 10**6, [3000]),
        (1, 4 * 10**6, [1000, 1, 999, 0, 1000]),
        (4500, 4 * 10**6, [300] * 10),
        (1, 300, [30] * 100),
    ]:
        monkeypatch.setattr(selection, "GROUP_CANDIDATES", group_candidates)
        monkeypatch.setattr("raylabel.selection.duplicates.BUCKET_ROWS", bucket_rows)
        root = Root.open(str(tmp_path / f"{len(results)}"))
        scores = fake_scores(root, "s", rows, files, 4)
        duplicates = find_duplicates(root, scores)
        assert sorted(read(duplicates, "duplicates-", DUPLICATES)) == duplicates_of(rows)
        assert len(duplicates.files()) == (1 if bucket_rows > 3000 else 16)
        for file in duplicates.files():
            keys = duplicates.table(file.name, DUPLICATES)["key"].to_pylist()
            assert keys == sorted(keys)
        picks = select(root, scores, duplicates, config, names(150))
        assert not list(tmp_path.glob("*/*/scratch"))
        results.append(everything(picks))
        assert read(picks, "picks-", PICKS) == picks_of(rows, config)
    assert sorted(results[0]) == [f"picks-{i:05d}.parquet" for i in range(3)]
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("sizes", [1, 40, 900])
def test_a_class_lists_only_the_best_segment_of_a_video(ray_local, tmp_path, monkeypatch, sizes):
    rows = random_rows(1500, 70, 4, seed=3)  # two slices of classes
    rng = np.random.default_rng(sizes)
    # Videos of about `sizes` segments each, anywhere in the corpus; a quarter of the samples have no group.
    groups = {row[0]: int(rng.integers(1, 1500 // sizes + 1)) * 2**40 for row in rows if rng.random() < 0.75}
    root, results = Root.open(str(tmp_path)), []
    config = Select(k=8, p=3)
    for group_candidates, files in [(10**6, [1500]), (1500, [300] * 5), (1, [100, 1, 499, 0, 900])]:
        monkeypatch.setattr(selection, "GROUP_CANDIDATES", group_candidates)
        scores = fake_scores(root, f"{files}", rows, files, 4, groups)
        picks = select(root, scores, find_duplicates(root, scores), config, names(70))
        assert read(picks, "picks-", PICKS) == picks_of(rows, config, groups)
        results.append(everything(picks))
    assert all(result == results[0] for result in results)
    again = Select(k=8, p=3, repeat_videos=True)
    picks = select(root, scores, find_duplicates(root, scores), again, names(70))
    assert read(picks, "picks-", PICKS) == picks_of(rows, config)
    assert everything(picks) != results[0] or sizes == 1


def test_a_copy_is_dropped_before_the_best_segment_is_chosen(ray_local, tmp_path):
    same = b"s" * 16
    rows = [
        (1, same, [0], [1.0], [1.0]),
        (2, b"b" * 16, [0], [2.0], [2.0]),
        (3, same, [0], [9.0], [9.0]),  # the best of its video, but a copy of 1, so it is dropped
        (4, b"d" * 16, [0], [0.0], [0.0]),
    ]
    root = Root.open(str(tmp_path))
    scores = fake_scores(root, "s", rows, [4], 1, {2: 7, 3: 7, 4: 8})
    picks = select(root, scores, find_duplicates(root, scores), Select(k=5, p=1), names(1))
    assert read(picks, "picks-", PICKS) == [(0, 1, 2.0, 2), (0, 2, 1.0, 1), (0, 3, 0.0, 4)]


def test_groups_are_read_only_if_there_are_any(tmp_path):
    iter_batches = pq.ParquetFile.iter_batches
    rows = random_rows(60, 3, 2, seed=4)
    scores = fake_scores(Root.open(str(tmp_path)), "s", rows, [60], 2, {row[0]: 5 for row in rows})
    some = ["scores-00000.parquet"]
    task = SelectionTask(
        scores=Scored(folder=scores.uri, kept=2, classes=3, grouped=False),
        copies=[],
        removed=[],
        config=Select(k=9, p=2),
        lengths=np.full(3, 9),
        scratch=str(tmp_path),
        key_bits=0,
        out="",
    )
    for grouped, columns in ((False, 3), (True, 4)):
        with mock.patch.object(pq.ParquetFile, "iter_batches", autospec=True, side_effect=iter_batches) as opened:
            mine = replace(task, scores=replace(task.scores, grouped=grouped))
            (name,) = _write_candidates(mine, some, f"{grouped}")
        assert ("group" in opened.call_args.kwargs["columns"]) == grouped
        found = shuffle.read_partition(str(tmp_path), name, 0)
        assert len(found) == columns and len(found[0]) == (3 if grouped else 27)


@settings(max_examples=30)
@given(st.data())
def test_tasks_with_little_memory_write_the_same_picks(data):
    """Map tasks write candidates whenever they hold KEPT of them, and keys are counted in several tasks."""
    classes, k, bits = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 5)), data.draw(st.integers(0, 3))
    grouped = data.draw(st.booleans())
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        rows = random_rows(80, classes, p := min(3, classes), seed=data.draw(st.integers(0, 9)))
        groups = {row[0]: row[0] % 7 for row in rows}
        scores = fake_scores(Root.open(folder), "s", rows, [20] * 4, p, groups)
        task = SelectionTask(
            scores=Scored(folder=scores.uri, kept=p, classes=classes, grouped=grouped),
            copies=[],
            removed=[],
            config=Select(k=k, p=p),
            lengths=np.full(classes, k),
            scratch=f"{folder}/scratch",
            key_bits=bits,
            out=f"{folder}/out",
        )
        found = []
        for kept in (10_000, data.draw(st.integers(0, 30))):
            patch.setattr(selection, "KEPT", kept)
            patch.setattr(topk, "STAGE_ROWS", 0)
            names = _write_candidates(task, [file.name for file in scores.files("scores-")], f"{kept}")
            picked = [selection._write_picks(task, names, number) for number in range(len(task.slices))]
            keys = [_count_keys(task.scratch, [name for *_, name in picked], bucket) for bucket in range(1 << bits)]
            found.append(([file for file, *_ in picked], [counts for _, counts, _ in picked], sum(keys)))
        assert len(names) > 1 or kept >= min(classes * k, 15)
        assert found[0] == found[1]
        picks = pa.concat_tables(pq.read_table(f"{task.out}/{file.name}") for file in found[0][0])
        assert found[0][2] == len(set(picks["key"].to_pylist()))


def test_the_copy_with_the_smallest_key_is_kept_whatever_the_scores(ray_local, tmp_path):
    same, other = b"s" * 16, b"o" * 16
    rows = [
        (3, same, [0, 1], [1.0, 0.0], [1.0, 0.0]),
        (5, other, [1, 0], [2.0, -1.0], [2.0, -1.0]),
        (7, same, [0, 1], [9.0, 8.0], [9.0, 8.0]),  # a copy that scores higher is still a copy
        (9, same, [0, 1], [1.0, 0.0], [1.0, 0.0]),
    ]
    root = Root.open(str(tmp_path))
    scores = fake_scores(root, "s", rows, [2, 2], 2)
    duplicates = find_duplicates(root, scores)
    assert read(duplicates, "duplicates-", DUPLICATES) == [(7, 3), (9, 3)]
    assert duplicates.info["duplicates"] == 2
    picks = select(root, scores, duplicates, Select(k=5, p=2), names(2))
    assert read(picks, "picks-", PICKS) == [(0, 1, 1.0, 3), (0, 2, -1.0, 5), (1, 1, 2.0, 5), (1, 2, 0.0, 3)]


def test_copies_are_found_whatever_the_order_of_files(ray_local, tmp_path, monkeypatch):
    monkeypatch.setattr(selection, "GROUP_CANDIDATES", 400)  # the ranges of keys of the map tasks overlap
    rows = random_rows(600, 4, 2, seed=5)
    rows = [row for start in (400, 0, 200, 500, 100, 300) for row in rows[start : start + 100]]
    root = Root.open(str(tmp_path))
    scores = fake_scores(root, "s", rows, [100] * 6, 2)
    picks = select(root, scores, find_duplicates(root, scores), Select(k=50, p=2), names(4))
    assert read(picks, "picks-", PICKS) == picks_of(rows, Select(k=50, p=2))


@pytest.mark.parametrize("second", [[b"\x80"], [b"\x00", b"\x80", b"\xff"]])
def test_digests_that_share_a_half_are_not_copies(ray_local, tmp_path, second):
    digests = [a * 8 + b * 8 for a in (b"\x00", b"\x7f", b"\x80", b"\xff") for b in second]
    root = Root.open(str(tmp_path))
    rows = [(key, digest, [0], [0.5], [0.5]) for key, digest in enumerate([*digests, digests[3]])]
    duplicates = find_duplicates(root, fake_scores(root, "s", rows, [len(rows)], 1))
    assert read(duplicates, "duplicates-", DUPLICATES) == [(len(digests), 3)]


def test_digests_are_partitioned_by_their_first_bits(tmp_path, monkeypatch):
    monkeypatch.setattr("raylabel.selection.duplicates.BATCH_ROWS", 3)  # batches begin within a row group
    rows = random_rows(100, 3, 2, seed=1)
    scores = fake_scores(Root.open(str(tmp_path)), "s", rows, [60, 40], 2)
    name = _write_hashes(scores, [f.name for f in scores.files("scores-")], 2, str(tmp_path), "all")
    for bucket in range(4):
        high, low, key = (column.tolist() for column in shuffle.read_partition(str(tmp_path), name, bucket))
        found = [(k, h.to_bytes(8) + w.to_bytes(8)) for h, w, k in zip(high, low, key, strict=True)]
        assert sorted(found) == sorted((row[0], row[1]) for row in rows if row[1][0] >> 6 == bucket)


def test_samples_with_the_same_digest_give_one_pick(ray_local, tmp_path, monkeypatch):
    monkeypatch.setattr("raylabel.selection.duplicates.BUCKET_ROWS", 10)
    rows = [(key, b"\xff" * 16, [0], [0.5], [0.5]) for key in range(100)]
    root = Root.open(str(tmp_path))
    scores = fake_scores(root, "s", rows, [100], 1)
    duplicates = find_duplicates(root, scores)
    assert read(duplicates, "duplicates-", DUPLICATES) == [(key, 0) for key in range(1, 100)]
    assert read(select(root, scores, duplicates, Select(p=1), names(1)), "picks-", PICKS) == [(0, 1, 0.5, 0)]


def test_a_key_that_occurs_twice_is_an_error(ray_local, tmp_path):
    row = (4, b"x" * 16, [0], [0.5], [0.5])
    root = Root.open(str(tmp_path))
    with pytest.raises(InputError, match="^key 4 occurs twice in the scores"):
        find_duplicates(root, fake_scores(root, "s", [row, row], [1, 1], 1))


def test_classes_without_candidates_are_named(ray_local, tmp_path):
    root = Root.open(str(tmp_path))
    rows = [(key, bytes([key]) * 16, [1, 0], [2.0, 1.0], [2.0, 1.0]) for key in range(4)]
    scores = fake_scores(root, "s", rows, [4], 2)
    duplicates = find_duplicates(root, scores)
    with pytest.raises(InputError) as error:
        select(root, scores, duplicates, Select(p=1), ("dog", "cat"))
    wanted = "class 'dog' has no candidates among 4 scored samples with P=1: raise --select.p, add unlabeled samples of"
    assert str(error.value) == f"{wanted} it, or continue without it by --select.allow-empty"
    assert type(error.value) is InputError
    with pytest.raises(InputError, match=r"^classes 'class 2', .*'class 6' and 3 more have no candidates among 4 "):
        select(root, scores, duplicates, Select(p=2), names(10))
    assert not root.named("picks")
    assert select(root, scores, duplicates, Select(p=2), ("dog", "cat")).info["picks"] == 8  # the same call with P = 2


@pytest.mark.parametrize("files", [[], [0, 0]])
def test_scores_without_samples_are_an_error(ray_local, tmp_path, files):
    root = Root.open(str(tmp_path))
    scores = fake_scores(root, "s", [], files, 1)
    duplicates = find_duplicates(root, scores)
    assert duplicates.info["duplicates"] == 0
    with pytest.raises(InputError, match="class 'dog' has no candidates among 0 scored samples"):
        select(root, scores, duplicates, Select(p=1), ("dog",))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((2, b"x" * 16, [0], [1.0, 0.0], [1.0, 0.0]), "does not have the 2 entries"),
        ((2, b"x" * 16, [0, 1], [1.0], [1.0, 0.0]), "does not have the 2 entries"),
        ((2, b"x" * 16, [0, 2], [1.0, 0.0], [1.0, 0.0]), r"a class index is outside 0\.\.1"),
        ((2, b"x" * 16, [0, -1], [1.0, 0.0], [1.0, 0.0]), r"a class index is outside 0\.\.1"),
        ((2, b"x" * 16, [0, 1], [1.0, float("nan")], [1.0, 0.0]), "'log_odds' holds NaN"),
    ],
)
def test_scores_that_cannot_be_ranked_are_an_error(ray_local, tmp_path, row, message):
    root = Root.open(str(tmp_path))
    good = (1, b"g" * 16, [0, 1], [1.0, 0.0], [1.0, 0.0])
    scores = fake_scores(root, "s", [good, row], [2], 2)
    with pytest.raises(InputError, match=f"scores-00000.parquet: .*{message}"):
        select(root, scores, find_duplicates(root, scores), Select(p=2), names(2))


def test_a_file_with_other_columns_is_an_error(ray_local, tmp_path):
    root = Root.open(str(tmp_path))

    def build(draft):
        return Built([write_table(draft.uri, "scores-00000.parquet", pa.table({"key": [1]}))], {"p": 1})

    with pytest.raises(InputError, match="scores-00000.parquet: columns are"):
        find_duplicates(root, root.make("scores", {}, build))


def test_select_names_the_bad_field():
    with pytest.raises(InputError, match="^select.k is 0"):
        Select(k=0)
    with pytest.raises(InputError, match="^select.p is -1"):
        Select(p=-1)
    with pytest.raises(InputError, match="^select.rank is 'loud'"):
        Select(rank="loud")  # pyright: ignore[reportArgumentType]
    Select(p=10).check_against(10, 10)
    with pytest.raises(InputError, match="^select.p is 10 but there are 9 classes: lower --select.p to 9$"):
        Select(p=10).check_against(9, 10)
    with pytest.raises(InputError, match="^select.p is 10 but the scores hold the 8 best .* lower --select.p to 8,"):
        Select(p=10).check_against(100, 8)


def test_selecting_again_does_nothing_and_another_k_is_another_artifact(ray_local, tmp_path):
    root, rows = Root.open(str(tmp_path)), random_rows(100, 3, 3, seed=9)
    scores = fake_scores(root, "s", rows, [100], 3)
    duplicates = find_duplicates(root, scores)
    first = select(root, scores, duplicates, Select(k=5, p=2), names(3))
    with mock.patch.object(tasks, "_remote", side_effect=AssertionError("ran again")):
        assert find_duplicates(root, scores) == duplicates
        assert select(root, scores, duplicates, Select(k=5, p=2), names(3)) == first
    assert select(root, scores, duplicates, Select(k=6, p=2), names(3)).digest != first.digest
