"""Parts of SCORES that are made from earlier ones, compared with parts made from all rows; without Ray."""

import os
import pickle
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cloud
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raylabel.corpus import Shards, Unit, Units
from raylabel.errors import InputError
from raylabel.inference import pool
from raylabel.inference import scores as stage
from raylabel.inference.parts import Part
from raylabel.inference.reuse import Earlier, Reader, read_part, rejected_units
from raylabel.inference.scorer import RANKED
from raylabel.schema import REJECTS, SCORES, SHARDS, THUMBNAIL_SIDE, make_key, split_key
from raylabel.store.artifact import Artifact, Built, Draft, Root, write_table

P = 3
PIXELS = THUMBNAIL_SIDE * THUMBNAIL_SIDE * 3
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None  # hundreds of small files, which a disk would sync


def make_shards(root: Root, names: Sequence[str], rows: dict[str, int]) -> Shards:
    """SHARDS of files whose fingerprints are their names."""
    columns = [range(len(names)), names, ["parquet"] * len(names), [rows[n] for n in names], [1] * len(names), names]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, SHARDS, strict=False)]
    arrays += [pa.array([[]] * len(names), field.type) for field in list(SHARDS)[len(columns) :]]
    table = pa.Table.from_arrays(arrays, schema=SHARDS)

    def build(draft: Draft) -> Built:
        return Built([write_table(draft.uri, "shards-00000.parquet", table)], {"content": ",".join(names)})

    return Shards(root.make("shards-unlabeled", {"corpus": {}, "names": list(names)}, build))


def make_rows(shard: int, name: str, rows: Sequence[int]) -> pa.Table:
    """What an actor returns of some rows of a shard, which depends on the name of the shard and on the rows alone."""
    rng = [np.random.default_rng([sum(name.encode()), row]) for row in rows]
    rejected = [one.random() < 0.2 for one in rng]

    def lists(dtype: type) -> list[list]:
        return [
            [] if bad else one.integers(0, 99, P).astype(dtype).tolist() for one, bad in zip(rng, rejected, strict=True)
        ]

    columns = {
        "key": [make_key(shard, row) for row in rows],
        "digest": [one.bytes(16) for one in rng],
        "group": [int(one.integers(0, 3)) for one in rng],
        "classes": lists(int),
        "log_odds": lists(float),
        "logits": lists(float),
        "clips": [[] for _ in rng],
        "uri": [f"{name}#{row}" if bad else "" for row, bad in zip(rows, rejected, strict=True)],
        "stage": ["decode" if bad else "" for bad in rejected],
        "reason": ["corrupt" if bad else "" for bad in rejected],
        "detail": ["" for _ in rng],
        "name": [f"{name}-{row}.png" for row in rows],
        "thumbnail": [
            [] if bad else one.integers(0, 256, PIXELS).tolist() for one, bad in zip(rng, rejected, strict=True)
        ],
    }
    return pa.Table.from_pydict(columns, schema=RANKED.rows)


def rows_of(units: Sequence[Unit], names: Sequence[str]) -> pa.Table:
    tables = [make_rows(u.shard, names[u.shard], u.only or range(u.first, u.first + u.rows)) for u in units]
    return pa.concat_tables([RANKED.rows.empty_table(), *tables])


def commit(
    folder: str, parts: Sequence[Part], names: Sequence[str], beside: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    """Commits parts as tasks do; a part's new units are scored. `beside`: also these tables."""
    records = []
    for run in pool._together((part, []) for part in parts):
        some = [part for part, _ in run]
        tables = [rows_of(part.units, names) for part in some]
        cuts = [[(0, len(table))] for table in tables]
        records += pool._commit._function(folder, RANKED, beside, some, cuts, *tables)  # pyright: ignore
    return records


def make_scores(root: Root, shards: Shards, names: Sequence[str], unit: int, beside: tuple[str, ...] = ()) -> Artifact:
    """SCORES of all shards, without any reuse."""
    units = Units(shards.rows, unit)

    def build(draft: Draft) -> Built:
        parts = [stage._part(units, None, n) for n in range(-(-len(units) // stage.PART))]
        records = commit(draft.uri, parts, names, beside)
        return Built([], {"rejected": 0, "records": records})

    return root.make("scores", {"shards": shards.artifact.info["content"]}, build)


@settings(max_examples=15)
@given(
    rows=st.lists(st.integers(1, 25), min_size=1, max_size=8),
    old=st.sets(st.integers(0, 7), min_size=1),
    now=st.sets(st.integers(0, 7), min_size=1),
    backwards=st.booleans(),
    unit=st.integers(3, 12),
    part=st.integers(1, 5),
    beside=st.sampled_from([(), ("names",), ("thumbnails",), ("names", "thumbnails")]),
)
def test_reused_parts_have_the_bytes_of_scored_ones(
    rows: list[int], old: set[int], now: set[int], backwards: bool, unit: int, part: int, beside: tuple[str, ...]
) -> None:
    """Shards are added, removed and renumbered; `backwards` also reverses their order."""
    sizes = {f"file{i}": rows[i % len(rows)] for i in range(8)}
    before, after = ([f"file{i}" for i in sorted(some)] for some in (old, now))
    after = after[::-1] if backwards else after
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "PART", part)
        root = Root.open(folder)
        was, is_now = make_shards(root, before, sizes), make_shards(root, after, sizes)
        earlier = Earlier(make_scores(root, was, before, unit, beside), was, is_now, unit, part)
        units = Units(is_now.rows, unit)
        parts = [stage._part(units, earlier, number) for number in range(-(-len(units) // part))]
        assert sum(len(one.pieces) for one in parts) == sum(after[u.shard] in before for u in units)

        found = commit(f"{folder}/grown", parts, after, beside)
        wanted = make_scores(Root(f"{folder}/whole"), is_now, after, unit, beside).info["records"]
        for one in found:
            reused = sum(piece.rows for piece in parts[one["part"]].pieces)
            assert one.pop("earlier") == reused and wanted[one["part"]].pop("earlier") == 0
        assert [one | {"reasons": dict(one["reasons"])} for one in found] == wanted
        keys = [make_key(shard, row) for shard, name in enumerate(after) for row in range(sizes[name])]
        if "names" in beside:
            some = [read_part(f"{folder}/grown", "names", one["part"]).to_pylist() for one in found]
            expected = [f"{after[shard]}-{row}.png" for shard, row in map(split_key, keys)]
            assert [(row["key"], row["name"]) for part in some for row in part] == list(
                zip(keys, expected, strict=True)
            )


def test_names_and_thumbnails_are_kept_when_rejects_are_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "PART", 4)
    root, names = Root.open(str(tmp_path)), ["a", "b"]
    shards = make_shards(root, names, {"a": 30, "b": 30})
    scores = make_scores(root, shards, names, 4, ("names", "thumbnails"))
    units = rejected_units(scores.uri, 1)
    assert sum(unit.rows for unit in units) > 1
    (record,) = commit(f"{tmp_path}/out", [Part(1, units, retried=scores.uri)], names, ("names", "thumbnails"))
    assert [file["name"] for file in record["files"]][-2:] == ["names-000001.parquet", "thumbnails-000001.parquet"]
    # In this test the retried samples cannot be read again: none has a thumbnail.
    found, before = (read_part(folder, "thumbnails", 1) for folder in (f"{tmp_path}/out", scores.uri))
    assert found == before and found.num_rows == 14 - sum(unit.rows for unit in units)
    found, before = (read_part(folder, "names", 1) for folder in (f"{tmp_path}/out", scores.uri))
    assert found == before and found.num_rows == record["rows"] == 14
    assert found.column("name").to_pylist()[0] == "a-16.png"


@pytest.fixture
def slow(tmp_path: Path):
    """A store in virtual time that counts requests."""
    store = cloud.SlowFiles(str(tmp_path / "store"), str(tmp_path / "log"), latency=0, rate=1e12)
    cloud.install(store)
    yield store
    cloud.uninstall()


@pytest.mark.long
@pytest.mark.parametrize("new", [["zzz"], ["aaa"], [f"file{i:03d}x" for i in range(0, 640, 50)]])
def test_each_file_of_earlier_scores_is_read_once(
    slow: cloud.SlowFiles, monkeypatch: pytest.MonkeyPatch, new: list[str]
) -> None:
    """A shard that is added at the end leaves all parts as they are. At the beginning it shifts the units of all, so
    that of 16 parts the first and the last are read by two tasks, as if some are added everywhere."""
    monkeypatch.setattr(stage, "PART", 8)
    names = [f"file{i:03d}" for i in range(640)]
    sizes = dict.fromkeys([*names, *new], 2)
    root = Root("s3://bucket/root")
    was = make_shards(root, names, sizes)
    scores = make_scores(root, was, names, 2)
    is_now = make_shards(root, after := sorted([*names, *new]), sizes)
    earlier = Earlier(scores, was, is_now, 2, 8)
    units = Units(is_now.rows, 2)
    before = len(slow.requests())
    commit(f"{root.uri}/grown", [stage._part(units, earlier, n) for n in range(-(-len(units) // 8))], after)
    made = cloud.Requests(slow.requests()[before:]).of(scores.uri.removeprefix("s3://"), "GET")
    reads = [len(made.of(f"scores-{n:06d}", "GET")) for n in range(80)]
    assert min(reads) == 1 and max(reads) <= 2
    assert np.mean(reads) <= (1 if new == ["zzz"] else 1.25)
    assert len(made.of("rejects-", "GET")) <= sum(reads)


def test_a_file_of_earlier_scores_that_is_lost_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "PART", 4)
    root, names = Root.open(str(tmp_path)), ["a", "b"]
    shards = make_shards(root, names, {"a": 30, "b": 30})
    scores = make_scores(root, shards, names, 4)
    parts = [stage._part(Units(shards.rows, 4), Earlier(scores, shards, shards, 4, 4), n) for n in range(4)]
    Path(scores.uri, "rejects-000001.parquet").unlink()
    with pytest.raises(AssertionError, match=f"delete {scores.uri} and run again"):
        list(commit(f"{tmp_path}/out", parts, names))
    Path(scores.uri, "scores-000000.parquet").unlink()
    with pytest.raises(InputError, match="scores-000000.parquet"):
        list(commit(f"{tmp_path}/out", parts, names))


def test_pieces_are_a_plain_tuple_in_another_process(tmp_path: Path) -> None:
    root, names = Root.open(str(tmp_path)), ["a"]
    shards = make_shards(root, names, {"a": 9})
    earlier = Earlier(make_scores(root, shards, names, 4), shards, shards, 4, stage.PART)
    part = stage._part(Units(shards.rows, 4), earlier, 0)
    again = pickle.loads(pickle.dumps(part))
    assert type(again.pieces) is tuple and again.pieces == tuple(part.pieces) and len(again.pieces) == 3
    assert [piece.rows for piece, _ in Reader().read(again.pieces)] == [4, 4, 1]
    assert [s.num_rows + r.num_rows for _, (s, r) in Reader().read(again.pieces)] == [4, 4, 1]
    assert SCORES.names[0] == REJECTS.names[0] == "key"
