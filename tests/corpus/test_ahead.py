"""What is read ahead from an object store is what is read from the local disk, in few requests and within a limit."""

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloud
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cloud import SlowFiles
from corpora import FORMS, Indexed, rows_of
from hypothesis import given, settings
from hypothesis import strategies as st

from raylabel.corpus import Corpus, Sample, Shards, Unit, Units, ahead, ranges, read_unit
from raylabel.corpus.ahead import UnitReader
from raylabel.corpus.fingerprint import EDGE
from raylabel.errors import InputError
from raylabel.store.fetch import Block, Fetcher, Queue


class Moved(Shards):
    """SHARDS of a local folder whose files are in the bucket `pictures`."""

    def row(self, number: int) -> dict[str, Any]:
        shard = super().row(number)
        return shard | {"uri": "s3://pictures" + shard["uri"]}


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[SlowFiles]:
    """A store of which the bucket `pictures` is the root of this machine's files."""
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "pictures").symlink_to("/")
    store = SlowFiles(str(tmp_path / "store"), str(tmp_path / "log"), speed=1000)
    cloud.install(store)
    yield store
    cloud.uninstall()


def local(corpus: Corpus, shards: Shards, units: list[Unit]) -> list[Sample]:
    return [sample for unit in units for sample in read_unit(corpus, shards.row(unit.shard), unit)]


def moved(samples: list[Sample]) -> list[Sample]:
    return [replace(sample, uri="s3://pictures" + sample.uri) for sample in samples]


def read(corpus: Corpus, shards: Shards, units: list[Unit], fetcher: Fetcher) -> list[Sample]:
    found = []
    for run, samples in UnitReader(corpus, Moved(shards.artifact), units, fetcher):
        some = list(samples)
        assert len(some) == sum(unit.rows for unit in run)
        found += some
    assert not fetcher.held and not fetcher.queues
    return found


@pytest.mark.parametrize("form", FORMS)
def test_units_that_are_read_ahead_have_the_same_samples(
    form: str, tmp_path: Path, indexed: Indexed, slow: SlowFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "BLOCK", 700)
    monkeypatch.setattr(ranges, "GAP", 100)
    monkeypatch.setattr(ahead, "AHEAD", 3)
    corpus = FORMS[form](tmp_path / "data", rows_of(50))
    shards = indexed(corpus)
    whole = list(Units(shards.rows, 8))
    shard = max(range(len(shards)), key=lambda number: shards.rows[number])
    rows = int(shards.rows[shard])
    cases = [
        whole,
        whole[1::2],
        [Unit(shard, 3, 5), Unit(shard, 8, 2)],
        [Unit(shard, rows - 1, 1)],
        [Unit(shard, 0, 3, (0, 4, rows - 1)), Unit(shard, 1, 1, (1,))],
    ]
    for limit in (1, 3000, 1 << 20):
        fetcher = Fetcher(4, limit)
        for units in cases:
            assert read(corpus, shards, units, fetcher) == moved(local(corpus, shards, units))
        part = replace(corpus, share=0.5)
        some = indexed(part)
        assert read(part, some, list(Units(some.rows, 8)), fetcher) == moved(
            local(part, some, list(Units(some.rows, 8)))
        )
        fetcher.close()


@pytest.mark.parametrize("form", ["parquet", "webdataset"])
def test_few_requests_read_each_byte_once(form: str, tmp_path: Path, indexed: Indexed, slow: SlowFiles) -> None:
    rows = [(os.urandom(9000), "a") for _ in range(2000)]
    options: dict[str, Any] = {"row_group_size": 50} if form == "parquet" else {}
    corpus = FORMS[form](tmp_path / "data", rows, files=2, **options)  # pyright: ignore[reportCallIssue]
    shards = indexed(corpus)
    fetcher = Fetcher(8)
    units = list(Units(shards.rows, 100))
    Path(slow.log).write_bytes(b"")
    assert len(read(corpus, shards, units, fetcher)) == 2000
    gets = slow.requests().of("", "GET")
    size = sum(path.stat().st_size for path in (tmp_path / "data").iterdir())
    # Of each of two files: the footer, and both edges to check that it has not changed.
    assert gets.bytes <= size + 2 * 3 * EDGE + 10_000
    assert len(gets) <= 2 * (-(-size // 2 // ranges.BLOCK) + 4)
    assert len(slow.requests().of("", "HEAD")) == 2
    if form == "parquet":  # a range inside a file: little more than its bytes
        Path(slow.log).write_bytes(b"")
        read(corpus, shards, units[5:10], fetcher)
        assert slow.requests().of("", "GET").bytes <= size / 4 + 3 * EDGE + (1 << 20)
    fetcher.close()


def test_the_next_shards_are_requested_before_the_current_one_is_read(
    tmp_path: Path, indexed: Indexed, slow: SlowFiles
) -> None:
    corpus = FORMS["parquet"](tmp_path / "data", rows_of(60), files=6)  # pyright: ignore[reportCallIssue]
    shards = indexed(corpus)
    Path(slow.log).write_bytes(b"")
    fetcher = Fetcher(8)
    first, second = (
        UnitReader(corpus, Moved(shards.artifact), [Unit(n, 0, 10) for n in some], fetcher)
        for some in (range(3), range(3, 6))
    )
    deadline = time.monotonic() + 60
    while len(slow.requests().of(".parquet", "GET")) < 6 * 4:  # footer, data and both edges of all six
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert [len(list(samples)) for reader in (first, second) for _, samples in reader] == [10] * 6
    assert len(slow.requests().of(".parquet", "GET")) == 6 * 4
    fetcher.close()


@pytest.mark.parametrize("form", ["parquet", "webdataset", "files"])
def test_a_failure_of_the_store_is_an_error_and_a_lost_object_is_told(
    form: str, tmp_path: Path, indexed: Indexed, slow: SlowFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = FORMS[form](tmp_path / "data", rows_of(50))
    shards = indexed(corpus)
    units = list(Units(shards.rows, 8))
    expected = moved(local(corpus, shards, units))
    fetcher = Fetcher(4)
    plain = cloud._SlowFile.read_at
    broken = True

    def read_at(file: Any, count: int, offset: int) -> bytes:
        media = not file.key.endswith(".parquet") or offset + count < file.size()  # footers can be read
        if broken and media:
            raise OSError("planned")
        return plain(file, count, offset)

    monkeypatch.setattr(cloud._SlowFile, "read_at", read_at)
    with pytest.raises(InputError, match=f"cannot read 's3://pictures{tmp_path}/data/.*planned.*resumes"):
        read(corpus, shards, units, fetcher)
    broken = False
    assert read(corpus, shards, units, fetcher) == expected
    lost = Path(expected[0].uri.removeprefix("s3://pictures").partition("#")[0])
    data = lost.read_bytes()
    lost.unlink()
    if form == "files":
        found = read(corpus, shards, units, fetcher)
        assert [s.error for s in found] == ["missing"] + [None] * 49
    else:
        with pytest.raises(InputError, match=f"'s3://pictures{lost}' vanished since it was indexed"):
            read(corpus, shards, units, fetcher)
        lost.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
        given: list[Sample] = []
        with pytest.raises(InputError, match=f"'s3://pictures{lost}' changed since it was indexed|cannot read tar"):
            for _, samples in UnitReader(corpus, Moved(shards.artifact), units, fetcher):
                given += samples
        assert len(given) < 17
    fetcher.close()


def test_a_broken_page_in_a_store_rejects_its_row_group(tmp_path: Path, indexed: Indexed, slow: SlowFiles) -> None:
    path = tmp_path / "data" / "a.parquet"
    path.parent.mkdir()
    pq.write_table(pa.table({"image": [os.urandom(100) for _ in range(60)]}), path, row_group_size=20)
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    start, size = ranges.column_range(column)
    data[start : start + size] = b"\xff" * size
    path.write_bytes(data)
    corpus = Corpus(uri=(str(path),))
    shards = indexed(corpus)
    fetcher = Fetcher(4)
    found = read(corpus, shards, [Unit(0, 0, 60)], fetcher)
    assert [s.error for s in found] == [None] * 20 + ["unreadable"] * 20 + [None] * 20
    fetcher.close()


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 30)), max_size=12), st.integers(1, 40), st.integers(0, 12))
def test_blocks_cover_the_ranges_and_count_their_needed_bytes(spans: Any, block: int, gap: int) -> None:
    at, found = 0, []
    for skipped, size in spans:
        found.append(ranges.Range(at + skipped, at + skipped + size))
        at += skipped + size
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranges, "BLOCK", block)
        patch.setattr(ranges, "GAP", gap)
        pieces = list(ranges._pieces(found))
    needed = {byte for one in found for byte in range(*one)}
    read = [byte for start, end, _ in pieces for byte in range(start, end)]
    assert read == sorted(set(read)) and needed <= set(read)
    assert all(end - start <= block for start, end, _ in pieces)
    assert [count for _, _, count in pieces] == [len(needed & set(range(s, e))) for s, e, _ in pieces]
    extra = sum(b.start - a.end for a, b in zip(found, found[1:], strict=False) if b.start - a.end <= gap)
    assert len(read) == len(needed) + extra


def test_requests_keep_to_the_limit_and_to_the_order_of_their_use() -> None:
    fetcher = Fetcher(4, limit=10)
    started: list[str] = []
    held: list[int] = []
    lock = threading.Lock()

    def block(name: str, size: int) -> Block:
        def fetch() -> str:
            with lock:
                started.append(name)
                held.append(fetcher.held)
            return name

        return Block(size, fetch)

    first, second = fetcher.queue(), fetcher.queue()
    later = [block(f"later {i}", 3) for i in range(4)]
    second.plan().fill(later)
    second.end()
    assert fetcher.held == 0  # the first queue may still plan something
    one, two = first.plan(), first.plan()
    blocks = [block(f"b{i}", 4) for i in range(4)]
    two.fill(blocks[2:])
    assert fetcher.held == 0  # what comes before it is not known
    one.fill(blocks[:2])
    first.end()
    assert fetcher.held == 8
    assert second.take(later[3]) == "later 3"  # needed now, so it does not wait
    second.release(later[3])
    for expected in blocks:
        assert first.take(expected) == f"b{blocks.index(expected)}"
        first.release(expected)
    for expected in later[:3]:
        assert second.take(expected).startswith("later")
        second.release(expected)
    assert [name for name in started if name[0] == "b"] == ["b0", "b1", "b2", "b3"]
    assert max(held) <= 10 + 3
    assert fetcher.held == 0
    abandoned: Queue = fetcher.queue()
    abandoned.plan().fill([block("x", 4), block("y", 4), block("z", 4)])
    abandoned.close()
    first.close()
    second.close()
    assert fetcher.held == 0 and not fetcher.queues
    fetcher.close()
