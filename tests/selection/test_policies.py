"""Which samples a selection takes, under each policy, against plain Python."""

import math
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_select import fake_scores, names, random_rows, read

from raylabel.errors import InputError
from raylabel.schema import PICKS
from raylabel.selection import select as selection
from raylabel.selection.candidates import Scored, random_numbers
from raylabel.selection.config import Select
from raylabel.selection.duplicates import find_duplicates
from raylabel.selection.lengths import list_lengths, read_counts, share_out
from raylabel.selection.select import SelectionTask, select
from raylabel.store.artifact import Root


def brute_force(rows, config: Select, lengths: list[int]) -> list[tuple[int, int, float, int]]:
    """PICKS of rows (key, digest, classes, log_odds, logits)."""
    lists: dict[int, list[tuple[float, int]]] = {}
    for key, _, classes, odds, logits in rows:
        for label, value in list(zip(classes, logits if config.rank == "logits" else odds, strict=True))[: config.p]:
            if config.minimum is None or value >= config.minimum:
                if config.rank == "random":
                    value = float(random_numbers(np.array([key]), np.array([label]), config.seed)[0])
                lists.setdefault(label, []).append((-value, key))
    picks = []
    for label, found in sorted(lists.items()):
        found.sort()
        mine = found[: lengths[label]]
        if config.fill and mine:
            mine = [mine[i % len(mine)] for i in range(lengths[label])]
        picks += [(label, rank, -value + 0.0, key) for rank, (value, key) in enumerate(mine, 1)]
    return picks


@settings(max_examples=60)
@given(st.data())
def test_lists_are_those_of_brute_force(data):
    classes, k = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 5))
    rows = random_rows(80, classes, p := min(3, classes), seed=data.draw(st.integers(0, 9)))
    config = Select(
        k=k,
        p=p,
        rank=(rank := data.draw(st.sampled_from(["softmax", "logits", "random"]))),
        minimum=data.draw(st.none() | st.sampled_from([-3.0, -0.5, 0.0, 1.5, 9.0])),
        fill=data.draw(st.booleans()),
        seed=data.draw(st.integers(0, 3)) if rank == "random" else 0,
    )
    lengths = np.array(data.draw(st.lists(st.integers(0, 2 * k), min_size=classes, max_size=classes)))
    with tempfile.TemporaryDirectory() as folder:
        scores = fake_scores(Root.open(folder), "s", rows, [20] * 4, p)
        task = SelectionTask(
            scores=Scored(folder=scores.uri, kept=p, classes=classes, grouped=False),
            copies=[],
            removed=[],
            config=config,
            lengths=lengths,
            scratch=f"{folder}/scratch",
            key_bits=0,
            out=f"{folder}/out",
        )
        found = []
        for number, some in enumerate(np.array_split([file.name for file in scores.files("scores-")], 2)):
            found += selection._write_candidates(task, some.tolist(), f"{number}")
        files = [selection._write_picks(task, found, number)[0].name for number in range(len(task.slices))]
        table = pa.concat_tables([pq.read_table(f"{folder}/out/{name}") for name in files])
    assert [tuple(row.values()) for row in table.to_pylist()] == brute_force(rows, config, lengths.tolist())


@settings(max_examples=300)
@given(st.lists(st.integers(0, 50) | st.floats(0, 1e9), min_size=1, max_size=30), st.integers(0, 500))
def test_shares_are_in_proportion_and_sum_to_the_total(weights, more):
    if not any(weights):
        weights[0] = 1
    total = sum(w > 0 for w in weights) + more
    found = share_out(np.array(weights, float), total)
    assert found.sum() == total and all((n > 0) == (w > 0) for n, w in zip(found, weights, strict=True))
    whole = math.fsum(weights)
    assert all(abs(n - 1 - more * w / whole) < 1 + 1e-6 for n, w in zip(found, weights, strict=True) if w)


def test_lengths_of_the_lists():
    assert list_lengths(Select(k=7), names(3)).tolist() == [7, 7, 7]
    measured = np.array([10, 0, 60, 20])
    for counts in ("corpus", "tags"):
        assert list_lengths(Select(k=100, counts=counts), names(4), measured).tolist() == [45, 1, 265, 89]
    # 1/2, 1/3 ... of the largest: 12, 6, 4 and 3 shares of 25.
    assert list_lengths(Select(k=101, counts="zipf"), names(4), measured).tolist() == [65, 49, 193, 97]
    nothing = list_lengths(Select(k=5, counts="corpus"), names(2), np.zeros(2, int))
    assert nothing.tolist() == [5, 5]


def test_counts_of_a_file(tmp_path: Path):
    file = tmp_path / "counts.csv"
    file.write_text("class,count,note\ncat, 30,x\n dog ,0,\nowl,10.5,\n")
    assert read_counts(str(file), ("dog", "cat", "owl")).tolist() == [0, 30, 10.5]
    lengths = list_lengths(Select(k=27, counts=str(file)), ("dog", "cat", "owl"))
    assert lengths.tolist() == [0, 60, 21]


@pytest.mark.parametrize(
    "text, message",
    [
        ("cat,30\n", "needs a header with the columns `class` and `count`, and rows"),
        ("class,count\n", "needs a header with the columns `class` and `count`, and rows"),
        ("class,count\ncat,1\ndog,-1\n", "row 3: the count of 'dog' is '-1', not a number"),
        ("class,count\ncat,1\ndog\n", "row 3: the count of 'dog' is 'None', not a number"),
        ("class,count\ncat,nan\ndog,1\n", "row 2: the count of 'cat' is 'nan', not a number"),
        ("class,count\ncat,1\ndog,2\ncat,3\n", "row 4: class 'cat' is there twice"),
        ("class,count\ncat,1\ndog,2\nowl,3\n", "has 'owl', which is no class of the labeled set"),
        ("class,count\ncat,1\n", "lacks 'dog': give each class a count, maybe 0"),
        ("class,count\ncat,0\ndog,0\n", "all counts of .* are 0"),
        (b"class,count\ncat,1\ndog,\xff\n", "is not a CSV file in UTF-8"),
    ],
)
def test_a_wrong_file_of_counts_is_an_error(tmp_path: Path, text, message):
    file = tmp_path / "counts.csv"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(InputError, match=f"^select.counts: .*{message}"):
        read_counts(str(file), ("cat", "dog"))


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"rank": "best"}, "select.rank is 'best': choose 'softmax', 'logits' or 'random'"),
        ({"minimum": math.nan}, "select.minimum is nan: give a number"),
        ({"counts": "views"}, "select.counts is 'views': choose 'corpus', 'zipf', 'tags', or give a .csv file"),
        ({"rank": "random", "seed": -1}, r"select.seed is -1: give an integer of 0 or more, below 2\^63"),
        ({"seed": 1}, "select.seed is 1, but select.rank is 'softmax': unset one of them"),
    ],
)
def test_a_wrong_field_is_an_error(fields, message):
    with pytest.raises(InputError, match=f"^{message}$"):
        Select(**fields)


def test_random_numbers_are_uniform_and_differ_by_sample_class_and_seed():
    from scipy import stats

    key, label = np.arange(200_000) % 50_000 << 32 | np.arange(200_000) // 50_000, np.arange(200_000) % 10
    found = random_numbers(key, label, 0)
    assert found.dtype == np.float32 and stats.kstest(-found, "uniform").pvalue > 0.01
    assert np.array_equal(found, random_numbers(key, label, 0))
    for other in (
        random_numbers(key, label, 1),
        random_numbers(key, (label + 1) % 10, 0),
        random_numbers(key + 1, label, 0),
    ):
        assert abs(np.corrcoef(found, other)[0, 1]) < 0.01
    # The best of many differ, since float32 is fine near 0.
    best = np.sort(random_numbers(np.arange(2_000_000), np.zeros(2_000_000, int), 0))[-1000:]
    assert len(np.unique(best)) == 1000


def test_each_policy_of_a_whole_selection(ray_local, tmp_path, monkeypatch):
    """With copies, and files that several tasks read."""
    monkeypatch.setattr(selection, "GROUP_CANDIDATES", 100)
    root, rows = Root.open(str(tmp_path)), random_rows(300, 6, 3, seed=1)
    scores = fake_scores(root, "s", rows, [100, 100, 100], 3)
    duplicates = find_duplicates(root, scores)
    seen: set[bytes] = set()
    first = [row for row in rows if row[1] not in seen and not seen.add(row[1])]
    measured = np.bincount([row[2][0] for row in first], minlength=6)
    file = tmp_path / "counts.csv"
    file.write_text("class,count\n" + "".join(f"{name},{i}\n" for i, name in enumerate(names(6))))
    for config in (
        Select(k=9, p=2, counts="corpus"),
        Select(k=9, p=2, counts="zipf", rank="random"),
        Select(k=9, p=2, counts=str(file)),
        Select(k=90, p=3, fill=True, minimum=0.0),
    ):
        picks = select(root, scores, duplicates, config, names(6))
        lengths = list_lengths(config, names(6), measured)
        expected = brute_force(first, config, lengths.tolist())
        assert read(picks, "picks-", PICKS) == expected
        assert picks.info["per_class"] == [Counter(row[0] for row in expected)[c] for c in range(6)]
        assert picks.info["samples"] == len({row[3] for row in expected}) and picks.info["picks"] == len(expected)
        assert picks.info.get("lengths", [90] * 6) == lengths.tolist()


def test_where_a_file_of_counts_is_does_not_matter_and_what_it_has_does(ray_local, tmp_path):
    root, rows = Root.open(str(tmp_path)), random_rows(60, 3, 2, seed=1)
    scores = fake_scores(root, "s", rows, [60], 2)
    duplicates = find_duplicates(root, scores)
    found = []
    for name, counts in (("a", (1, 2, 3)), ("b", (2, 4, 6)), ("c", (3, 2, 1))):
        file = tmp_path / f"{name}.csv"
        file.write_text("class,count\n" + "".join(f"{n},{c}\n" for n, c in zip(names(3), counts, strict=True)))
        found.append(select(root, scores, duplicates, Select(k=5, p=2, counts=str(file)), names(3)).digest)
    assert found[0] == found[1] != found[2]


def test_classes_without_candidates_may_be_allowed(ray_local, tmp_path):
    root = Root.open(str(tmp_path))
    rows = [(key, bytes([key]) * 16, [1, 0], [2.0 * key, 1.0], [2.0, 1.0]) for key in range(4)]
    scores = fake_scores(root, "s", rows, [4], 2)
    duplicates = find_duplicates(root, scores)
    with pytest.raises(InputError, match="^class 'dog' has no candidates among 4 .* and a score of at least 1.5: "):
        select(root, scores, duplicates, Select(p=2, minimum=1.5), ("dog", "cat"))
    found = select(root, scores, duplicates, Select(p=2, minimum=1.5, allow_empty=True), ("dog", "cat"))
    assert found.info["per_class"] == [0, 3]
    file = tmp_path / "counts.csv"
    file.write_text("class,count\ndog,0\ncat,1\n")
    assert select(root, scores, duplicates, Select(p=1, counts=str(file)), ("dog", "cat")).info["per_class"] == [0, 4]
