"""PICKS → SAMPLES: every sample once with its labels, whatever the number of tasks."""

from collections import defaultdict
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from raylabel.corpus import Shards
from raylabel.schema import PICKS, SAMPLES, SHARDS
from raylabel.store.artifact import Artifact, Built, Root, write_table
from raylabel.training import samples
from raylabel.training.samples import make_samples, read_samples

pairs_of_few = st.sets(
    st.tuples(st.integers(0, 5), st.sampled_from([s << 32 | row for s in (0, 3) for row in (0, 1, 8, 9)])), min_size=1
)


def picks_of(root: Root, pairs: list[tuple[int, int]], files: int = 1) -> Artifact:
    def build(draft) -> Built:
        rows = [{"label": label, "rank": 1, "score": 0.0, "key": key} for label, key in pairs]
        some = [rows[i::files] for i in range(files)]
        tables = [pa.Table.from_pylist(part, schema=PICKS) for part in some]
        return Built([write_table(draft.uri, f"picks-{i:05d}.parquet", table) for i, table in enumerate(tables)], {})

    return root.make("picks", {"pairs": sorted(map(list, pairs)), "files": files}, build)


def shards_of(root: Root, rows: list[int]) -> Shards:
    def build(draft) -> Built:
        of = {"uri": "", "format": "parquet", "bytes": 0, "fingerprint": "", "paths": [], "starts": []}
        table = pa.Table.from_pylist([{**of, "shard": i, "rows": n} for i, n in enumerate(rows)], schema=SHARDS)
        return Built([write_table(draft.uri, "shards-00000.parquet", table)], {"content": "c"})

    return Shards(root.make("shards-test", {}, build))


class _Direct:
    """Calls a task at once, in place of `ray.remote`."""

    def __init__(self, task):
        self.remote = task


def made(root: Root, pairs: list[tuple[int, int]], files: int, picked: int, cell: int, rows: int) -> Artifact:
    direct = {"_sort": _Direct(samples.sort_picks), "_merge": _Direct(samples.merge_picks)}
    sizes = {"PICKED": picked, "CELL": cell, "ROWS": rows, "_results": lambda found, _: found}
    with patch.multiple(samples, **direct, **sizes):
        return make_samples(root, "test", picks_of(root, pairs, files), shards_of(root, [10] * 4))


@settings(max_examples=60)
@given(pairs_of_few, st.integers(1, 3), st.integers(1, 40), st.integers(1, 20), st.integers(1, 5), st.data())
def test_samples_are_the_picks_sorted_by_key(tmp_path_factory, pairs, files, picked, cell, rows, data):
    root = Root.open(str(tmp_path_factory.mktemp("root")))
    expected = defaultdict(list)
    for label, key in sorted(pairs):
        expected[key].append(label)
    listed = data.draw(st.permutations(sorted(pairs)))
    found = made(root, listed, files, picked, cell, rows)
    whole = [{"key": key, "labels": expected[key]} for key in sorted(expected)]
    assert found.table("samples-", SAMPLES).to_pylist() == whole
    assert found.info["samples"] == len(expected) and found.info["picks"] == len(pairs)
    ends = data.draw(
        st.lists(st.tuples(st.integers(0, len(whole)), st.integers(0, len(whole))).map(sorted), max_size=4)
    )
    with patch.object(samples, "ROWS", rows):
        read = read_samples(found, [(begin, end) for begin, end in ends], ["key", "labels"])
    assert [table.to_pylist() for table in read] == [whole[begin:end] for begin, end in ends]
    assert not (Path(found.uri) / "scratch").exists()


@settings(max_examples=30)
@given(pairs_of_few, pairs_of_few)
def test_the_digest_of_the_set_depends_on_the_samples_alone(tmp_path_factory, one, two):
    root = Root.open(str(tmp_path_factory.mktemp("root")))
    first = made(root, sorted(one), 1, 1000, 7, 100).info["keys"]
    relabeled = {((label + 1) % 6, key) for label, key in one} | {(5 - label, key) for label, key in one}
    assert made(root, sorted(relabeled), 2, 3, 7, 2).info["keys"] == first
    same = {key for _, key in one} == {key for _, key in two}
    assert (made(root, sorted(two), 1, 1000, 7, 100).info["keys"] == first) == same


def test_runs_of_pairs_are_cut_by_their_number(tmp_path):
    root = Root.open(str(tmp_path))
    picks = picks_of(root, [(0, key) for key in range(10)])
    with patch.object(samples, "PICKED", 4):
        runs = samples.sort_picks(str(tmp_path / "runs"), 0, picks, ["picks-00000.parquet"], shards_of(root, [10]))
    assert sum(int(count.sum()) for _, count in runs) == 10
    assert pq.read_metadata(f"{picks.uri}/picks-00000.parquet").num_rows == 10
    assert sorted(np.concatenate([np.fromfile(run, samples.PAIR)["key"] for run, _ in runs]).tolist()) == [*range(10)]
