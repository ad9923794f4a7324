"""The precision of picks: parquet files joined by id, loose files by location; errors for tables that do not join."""

import csv
import tarfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raylabel import datasets
from raylabel.corpus import Corpus, Shards, index_corpus
from raylabel.errors import InputError
from raylabel.evaluate.classify import wilson
from raylabel.evaluate.precision import Truth, pick_precision
from raylabel.evaluate.results import Subject
from raylabel.schema import PICKS, make_key
from raylabel.store.artifact import Artifact, Built, Root, write_table

OF = Subject(model="teacher", seed=0, dataset="u", split="unlabeled")


def pick(root: Root, name: str, pairs: list[tuple[int, int]]) -> Artifact:
    """PICKS of (label, key)."""
    ranks, seen = [], Counter[int]()
    for c, _ in pairs:
        seen[c] += 1
        ranks.append(seen[c])
    rows = [{"label": c, "rank": r, "score": 0.0, "key": key} for (c, key), r in zip(pairs, ranks, strict=True)]
    table = pa.Table.from_pylist(rows, schema=PICKS)
    return root.make(name, {}, lambda d: Built([write_table(d.uri, "picks-0.parquet", table)], {"picks": len(pairs)}))


def precision(picks: Artifact, shards: Artifact, truth: Truth | None) -> tuple[float, int] | None:
    """(value, n) of the row."""
    rows = pick_precision(OF, picks, shards, 1.0, truth)
    assert all(
        (row.model, row.metric, row.low, row.high) == ("teacher", "pick_precision", None, None) for row in rows[:1]
    )
    assert [row.metric for row in rows[1:]] == ["border_precision"] * (
        0 < len(rows) and rows[0].n < picks.info["picks"]
    )
    return (rows[0].value, rows[0].n) if rows else None


def test_the_last_picks_of_each_list_bound_the_precision_of_all(ray_local, tmp_path):
    """Lists of 5, 3 and 2 picks. People looked at the last two of each; what they left out is wrong."""
    ids = [str(row) for row in range(10)]
    pq.write_table(pa.table({"image": [b"x"] * 10, "id": ids}), tmp_path / "u.parquet")
    root = Root.open(str(tmp_path / "root"))
    shards = index_corpus(root, "unlabeled", Corpus(uri=(str(tmp_path / "u.parquet"),)))
    lists = [0] * 5 + [1] * 3 + [2] * 2
    picks = pick(root, "picks", list(zip(lists, range(10), strict=True)))

    def border(said: dict[str, int]) -> tuple[float, int] | None:
        pq.write_table(pa.table({"id": list(said), "label": list(said.values())}), tmp_path / "truth.parquet")
        rows = pick_precision(OF, picks, shards, 1.0, Truth(uri=str(tmp_path / "truth.parquet")))
        if len(rows) == 1:
            return None
        assert (rows[1].low, rows[1].high) == wilson(round(rows[1].value * rows[1].n), rows[1].n)
        return rows[1].value, rows[1].n

    assert border({"3": 0, "4": 0, "6": 1, "7": 1, "8": 2, "9": 2}) == (1.0, 6)
    assert border({"3": 0, "4": 1, "6": 1, "8": 2}) == (3 / 6, 6)  # 7 and 9 show no class
    assert border({"4": 0, "7": 1, "9": 0}) == (2 / 3, 3)
    assert border({"3": 0, "7": 1}) == (2 / 6, 6)  # all of the last class are wrong
    assert border({"0": 0}) == (1 / 10, 10)
    assert border({one: lists[int(one)] for one in ids}) is None  # all are known


def test_precision_joins_by_id_across_shards(ray_local, tmp_path):
    for number in range(2):
        ids = [f"{number}{row}" for row in range(4)]
        pq.write_table(pa.table({"image": [b"x"] * 4, "id": ids}), tmp_path / f"u-{number}.parquet")
    pq.write_table(pa.table({"id": ["13", "00", "01", "10"], "label": [3, 0, 1, 0]}), tmp_path / "truth.parquet")
    root = Root.open(str(tmp_path / "root"))
    shards = index_corpus(root, "unlabeled", Corpus(uri=(str(tmp_path / "u-*.parquet"),)))
    pairs = [(0, 0), (2, 1), (3, (1 << 32) + 3), (0, (1 << 32) + 2)]  # right, wrong, right, unknown
    picks = pick(root, "picks", pairs)
    uri = str(tmp_path / "truth.parquet")
    assert precision(picks, shards, Truth(uri=uri)) == (2 / 3, 3)
    assert precision(picks, shards, None) is None
    # Ids are compared as text; a label that is null is not known.
    numbers = pa.table({"id": [13, 11, 12], "label": pa.array([3, 1, None], pa.int8())})
    pq.write_table(numbers, tmp_path / "numbers.parquet")
    assert precision(picks, shards, Truth(uri=str(tmp_path / "numbers.parquet"))) == (1.0, 1)
    pq.write_table(pa.table({"id": ["00", "00"], "label": [0, 1]}), tmp_path / "twice.parquet")
    with pytest.raises(InputError, match="column 'id' names a sample twice"):
        precision(picks, shards, Truth(uri=str(tmp_path / "twice.parquet")))
    pq.write_table(pa.table({"id": ["x"], "label": [0]}), tmp_path / "other.parquet")
    with pytest.raises(InputError, match="none of the picks' ids"):
        precision(picks, shards, Truth(uri=str(tmp_path / "other.parquet")))
    with pytest.raises(InputError, match="no column 'name'"):
        precision(picks, shards, Truth(uri=uri, id="name"))
    with pytest.raises(InputError, match="cannot read"):
        precision(picks, shards, Truth(uri=uri + "x"))
    pq.write_table(pa.table({"id": ["00"], "label": ["zero"]}), tmp_path / "names.parquet")
    with pytest.raises(InputError, match="names.parquet': column 'label' does not contain class indices"):
        precision(picks, shards, Truth(uri=str(tmp_path / "names.parquet")))
    (tmp_path / "truth.csv").write_text("id,label\n00,0\n01,1\n10,\n")  # the truth of parquet files may be a CSV too
    assert precision(picks, shards, Truth(uri=str(tmp_path / "truth.csv"))) == (1 / 2, 2)


def write_csv(path: Path, *rows: tuple[object, ...]) -> str:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return str(path)


def keys_of(shards: Artifact) -> list[int]:
    return [make_key(shard, row) for shard, rows in enumerate(Shards(shards).rows) for row in range(rows)]


@pytest.mark.parametrize("form", ["folders", "txt", "csv", "segments", "dataset"])
def test_precision_joins_loose_files_by_location(ray_local, tmp_path: Path, monkeypatch, form: str):
    names = ["a/0.mp4", "a/1.mp4", "b/0.mp4", "b/2, or 3.mp4"]
    clips, lists, data = (tmp_path / name for name in ("data/clips", "lists", "data"))
    lists.mkdir()
    for name in names:
        (clips / name).parent.mkdir(parents=True, exist_ok=True)
        (clips / name).write_bytes(b"x")
    (lists / "l.txt").write_text("".join(f"../data/clips/{name}\tx\n" for name in names))
    whole = write_csv(lists / "whole.csv", ("path",), *((clips / name,) for name in names))
    rows = [(f"../data/clips/{name}", start, start + 1) for name in names for start in (0, 1)]
    segments = write_csv(lists / "segments.csv", ("path", "t0", "t1"), *rows)
    manifest = ("file", "split", "label", "group"), *((f"clips/{name}", "unlabeled", "", "") for name in names)
    write_csv(data / "manifest.csv", *manifest)
    (data / "classes.txt").write_text("x\n")
    corpus = {
        "folders": Corpus(uri=(f"{clips}/a", f"{clips}/b"), kind="video"),
        "txt": Corpus(uri=(f"{lists}/l.txt",), kind="video"),
        "csv": Corpus(uri=(whole,), kind="video"),
        "segments": Corpus(uri=(segments,), kind="video", start="t0", end="t1"),
        "dataset": datasets.actions(str(data), "unlabeled"),
    }[form]
    known = [("clips/a/0.mp4", 0), (clips / "a/1.mp4", 9), ("clips/b/0.mp4", ""), ("clips/b/2, or 3.mp4", 3)]
    write_csv(data / "truth.csv", ("file", "more", "label"), *((file, "-", label) for file, label in known))
    monkeypatch.chdir(data)
    root = Root.open(str(tmp_path / "root"))
    shards = index_corpus(root, "unlabeled", datasets.resolve(root, corpus))
    times, keys = 2 if form == "segments" else 1, keys_of(shards)
    assert len(keys) == 4 * times and len(Shards(shards)) == (2 if form == "folders" else 1)
    picks = pick(root, "picks", [(i // times, key) for i, key in enumerate(keys)])  # right, wrong, unknown, right
    assert precision(picks, shards, Truth(uri="truth.csv", id="file")) == (2 / 3, 3 * times)
    table = pa.table({"file": [str(file) for file, _ in known], "label": pa.array([0, 9, None, 3])})
    pq.write_table(table, data / "truth.parquet")
    assert precision(picks, shards, Truth(uri="truth.parquet", id="file")) == (2 / 3, 3 * times)
    alone = pick(root, "some", [(3, keys[-1])])
    assert precision(alone, shards, Truth(uri="truth.csv", id="file")) == (1.0, 1)


def test_a_truth_table_that_cannot_be_joined_is_an_error(ray_local, tmp_path: Path):
    (tmp_path / "clips").mkdir()
    for name in ("0.mp4", "1.mp4"):
        (tmp_path / "clips" / name).write_bytes(b"x")
    root = Root.open(str(tmp_path / "root"))
    shards = index_corpus(root, "unlabeled", Corpus(uri=(str(tmp_path / "clips"),), kind="video"))
    picks = pick(root, "picks", [(0, 0)])
    for rows, match in [
        ([], r"truth.csv': none of the picks' ids is in column 'id'"),
        # The path is not relative to the folder of the truth table.
        ([("0.mp4", 0)], r"truth.csv': none of the picks' ids is in column 'id'"),
        (
            [("clips/0.mp4", "cat")],
            r"truth.csv': column 'label' does not contain class indices: .*'cat'.*; give zero-based",
        ),
        ([("clips/0.mp4", 0), ("clips/./0.mp4", 1)], r"truth.csv': column 'id' names a sample twice"),
        ([("clips/0.mp4", 0, 0)], r"line 2 of '.*truth.csv' has 3 fields and the header has 2"),
    ]:
        uri = write_csv(tmp_path / "truth.csv", ("id", "label"), *rows)
        with pytest.raises(InputError, match=match):
            precision(picks, shards, Truth(uri=uri))
    uri = write_csv(tmp_path / "truth.csv", ("id", "label"))
    for truth, match in [
        (Truth(uri=uri, id="file"), "truth.csv' has no column 'file': its header is id, label"),
        (Truth(uri=uri, label="class"), "truth.csv' has no column 'class'"),
        (Truth(uri=f"{tmp_path}/none.csv"), "cannot read '.*none.csv'"),
    ]:
        with pytest.raises(InputError, match=match):
            precision(picks, shards, truth)
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        tar.add(tmp_path / "clips" / "0.mp4", "0.mp4")
    tars = index_corpus(root, "tars", Corpus(uri=(str(tmp_path / "t.tar"),), kind="video"))
    with pytest.raises(InputError, match="the samples of tars have no ids to join by"):
        precision(picks, tars, Truth(uri=uri))
