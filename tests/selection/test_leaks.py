"""Leaks compared with counting by hand: by name, by group, and byte for byte, whatever the number of tasks."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import ray
from hypothesis import given, settings
from hypothesis import strategies as st

from raylabel.errors import InputError
from raylabel.schema import DIGESTS, SCORES
from raylabel.selection import compare, pairs
from raylabel.selection.leaks import Leaks, find_leaks
from raylabel.selection.pairs import find_pairs
from raylabel.selection.references import Reference
from raylabel.store.artifact import Artifact, Built, Root, write_table


def groups_of(names: list[str | None], keys: list[int] | None = None) -> pa.Table:
    key = list(range(len(names))) if keys is None else keys
    return pa.table({"key": pa.array(key, pa.int64()), "group": pa.array(names, pa.string())})


def scores_of(root: Root, name: str, rows: list[tuple[int, bytes, int]], files: int = 1) -> Artifact:
    """SCORES of rows (key, digest, group)."""

    def build(draft):
        written = []
        for i, some in enumerate(np.array_split(np.arange(len(rows)), files)):
            mine = [rows[j] for j in some]
            values = [[0.0]] * len(mine)
            columns = [
                *([row[j] for row in mine] for j in range(3)),
                [[0]] * len(mine),
                values,
                values,
                [[]] * len(mine),
            ]
            table = pa.table([pa.array(c, f.type) for c, f in zip(columns, SCORES, strict=True)], schema=SCORES)
            written.append(write_table(draft.uri, f"scores-{i:06d}.parquet", table))
        return Built(written, {"p": 1, "groups": sum(row[2] != 0 for row in rows)})

    return root.make("scores", {"name": name}, build)


def digests_of(rows: list[tuple[int, bytes]]) -> pa.Table:
    return pa.Table.from_pylist([{"key": key, "digest": digest} for key, digest in rows], DIGESTS)


name = st.sampled_from([None, "a", "b", "c", "v_g01"])


@settings(max_examples=100)
@given(st.lists(name, max_size=12), st.lists(name, min_size=1, max_size=12))
def test_the_labeled_set_is_compared_by_name(labeled, test):
    leaks = find_leaks("report", groups_of(labeled), groups_of(test)).leaks
    both = (set(labeled) & set(test)) - {None}
    order = [x for i, x in enumerate(test) if x in both and x not in test[:i]]
    assert leaks == Leaks(
        known=sum(x is not None for x in test),
        videos=len(both),
        labeled=sum(x in both for x in labeled),
        unlabeled=0,
        labeled_copies=0,
        copies=0,
        test=sum(x in both for x in test),
        n=len(test),
        examples=order[:5],
    )
    if both:
        with pytest.raises(InputError, match=f"^{leaks.test} of {len(test)} test samples leak: .* set --leaks remove$"):
            find_leaks("error", groups_of(labeled), groups_of(test))
    else:
        assert find_leaks("error", groups_of(labeled), groups_of(test)).leaks == leaks


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4))
def test_the_corpus_is_compared_by_group_and_by_bytes(ray_local, tmp_path, monkeypatch, seed):
    rng, root = np.random.default_rng(seed), Root.open(str(tmp_path))
    # Groups with names, groups without a name (identified by bytes), and samples without a group.
    hashes = {f"n{i}": int(h) for i, h in enumerate(rng.integers(-(2**63), 2**63 - 1, 40))}
    unnamed = [int(h) for h in rng.integers(-(2**63), 2**63 - 1, 40)]

    def draw(n: int, some: slice) -> tuple[list[str | None], list[tuple[int, bytes, int]]]:
        names, rows = [], []
        for i in range(n):
            kind = rng.integers(3)
            names.append(str(rng.choice(list(hashes)[some])) if kind == 0 else None)
            group = hashes[names[-1]] if names[-1] else int(rng.choice(unnamed[some])) if kind == 1 else 0
            digest = bytes(8) + int(rng.integers(0, 2**62)).to_bytes(8, "big")
            rows.append((i % 7 << 32 | i, digest, group))
        order = sorted(range(n), key=lambda i: rows[i][0])
        return [names[i] for i in order], [rows[i] for i in order]

    labeled, _ = draw(60, slice(0, 15))
    test, tests = draw(80, slice(10, 30))
    _, corpus = draw(3000, slice(20, 40))
    corpus = [(k, tests[rng.integers(80)][1], g) if rng.random() < 0.005 else (k, d, g) for k, d, g in corpus]
    unread = set(rng.choice(80, 8, replace=False).tolist())
    read = [row for i, row in enumerate(tests) if i not in unread]

    ours = {row[2] for row in corpus} - {0}
    bytes_of = {row[1] for row in corpus}
    by_name = (set(labeled) & set(test)) - {None}
    leaking_names = by_name | {test[tests.index(row)] for row in read if row[2] in ours} - {None}
    leaking_hashes = {row[2] for i, row in enumerate(tests) if i not in unread and not test[i] and row[2] in ours}
    video = [
        test[i] in leaking_names if test[i] else i not in unread and row[2] in leaking_hashes
        for i, row in enumerate(tests)
    ]
    labeled_digests = [tests[i][1] if rng.random() < 0.1 else bytes([1] * 15 + [i]) for i in range(60)]
    copy = [i not in unread and row[1] in bytes_of | set(labeled_digests) for i, row in enumerate(tests)]
    digests = digests_of(list(enumerate(labeled_digests)))
    theirs = {row[2] for row in read} - {0}
    first: dict[object, str] = {}
    for i, row in enumerate(tests):
        if video[i]:
            shard, number = row[0] >> 32, row[0] & 0xFFFFFFFF
            first.setdefault(test[i] or row[2], test[i] or f"row {number} of shard {shard} of the test set")
    wanted = Leaks(
        known=sum(bool(test[i]) or (i not in unread and row[2] != 0) for i, row in enumerate(tests)),
        videos=len(leaking_names) + len(leaking_hashes),
        labeled=sum(x in by_name for x in labeled),
        unlabeled=sum(row[2] in theirs for row in corpus),
        labeled_copies=sum(digest in {row[1] for row in read} for digest in labeled_digests),
        copies=sum(row[1] in {row[1] for row in read} for row in corpus),
        test=sum(v or c for v, c in zip(video, copy, strict=True)),
        n=80,
        examples=list(first.values())[:5],
    )
    assert (
        wanted.labeled
        and wanted.unlabeled
        and wanted.copies
        and wanted.labeled_copies
        and len(first) == wanted.videos > 5
    )
    tables = groups_of(labeled), groups_of(test, [row[0] for row in tests])
    leaking = [row[0] for i, row in enumerate(tests) if video[i] or copy[i]]
    for number, (most, files, batch) in enumerate([(1 << 31, 1, 4096), (500_000, 9, 64), (1, 30, 7)]):
        monkeypatch.setattr(pairs, "TASK_PAIRS", most)
        monkeypatch.setattr(pairs, "ROWS", batch)
        scores = scores_of(root, f"corpus {number}", corpus, files)
        tested = scores_of(root, f"test {number}", read, min(files, 3))
        compared = find_pairs(root, scores, {"test": Reference(tested)})
        found = find_leaks("report", *tables, tested, digests, compared)
        assert found.leaks == wanted and found.keys.tolist() == leaking
        removed = sum(row[1] in {row[1] for row in read} or row[2] in theirs for row in corpus)
        assert find_leaks("remove", *tables, tested, digests, compared).leaks == replace(wanted, removed=removed)
        with pytest.raises(InputError, match=f"^{wanted.test} of 80 test samples leak: {wanted.videos} source "):
            find_leaks("error", *tables, tested, digests, compared)


@pytest.mark.parametrize("most", [1, 3])
def test_all_test_samples_with_the_same_bytes_leak(ray_local, tmp_path, monkeypatch, most):
    monkeypatch.setattr(compare, "MOST", most)
    monkeypatch.setattr(
        pairs, "run_tasks", lambda task, arguments, *_: [task(ray.get(a[0]), *a[1:]) for a in arguments]
    )
    root, same = Root.open(str(tmp_path)), b"x" * 16
    tested = scores_of(root, "test", [(i, same, 0) for i in range(5)] + [(5, b"y" * 16, 0)])
    compared = find_pairs(root, scores_of(root, "corpus", [(0, same, 0), (1, same, 0)]), {"test": Reference(tested)})
    assert compared.info["pairs"] == 2 * most and compared.info["removed"] == 2
    found = find_leaks("report", groups_of([]), groups_of([None] * 6), tested, None, compared)
    assert found.leaks.copies == 2 and found.keys.tolist() == [0, 1, 2, 3, 4]


def test_images_are_compared_only_byte_for_byte(ray_local, tmp_path):
    root = Root.open(str(tmp_path))
    corpus = [(i, bytes([i % 50]) * 16, 0) for i in range(100)]  # each digest twice
    tested = scores_of(root, "test", [(3, b"\x07" * 16, 0), (5, b"\xf0" * 16, 0), (1 << 32, b"\x07" * 16, 0)])
    names = groups_of([None] * 3, [3, 5, 1 << 32])
    pairs_found = find_pairs(root, scores_of(root, "corpus", corpus), {"test": Reference(tested)})
    assert find_leaks("report", groups_of([None] * 4), names, tested, None, pairs_found).leaks == Leaks(
        known=0, videos=0, labeled=0, unlabeled=0, labeled_copies=0, copies=2, test=2, n=3, examples=[]
    )
    with pytest.raises(
        InputError,
        match="^2 of 3 test samples leak: 2 samples of the corpus are byte-identical to test .*: remove",
    ):
        find_leaks("error", groups_of([None] * 4), names, tested, None, pairs_found)
    clean = find_pairs(root, scores_of(root, "clean", [(1, b"c" * 16, 0)]), {"test": Reference(tested)})
    assert find_leaks("error", groups_of([]), names, tested, None, clean).leaks.sentence == ""


def test_labeled_pictures_are_compared_with_the_test_set_before_the_corpus_is_labeled(tmp_path):
    root = Root.open(str(tmp_path))
    tested = scores_of(root, "test", [(i, bytes([i]) * 16, 0) for i in range(100)])
    names = groups_of([None] * 60), groups_of([None] * 100)
    # 40 planted samples, of which two are copies of one test sample; one test sample could not be read.
    planted = [0, 0, *range(1, 39)]
    digests = digests_of([(i, bytes([n]) * 16) for i, n in enumerate(planted)] + [(50, bytes([200]) * 16)])
    leaks = find_leaks("report", *names, tested, digests).leaks
    assert (leaks.labeled_copies, leaks.copies, leaks.test, leaks.n) == (40, 0, 39, 100)
    with pytest.raises(InputError, match="^39 of 100 test samples leak: 40 labeled samples are byte-identical to test"):
        find_leaks("error", *names, tested, digests)
    assert find_leaks("error", *names, tested, digests[-1:]).leaks.test == 0
