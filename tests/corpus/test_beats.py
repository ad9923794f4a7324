"""Indexing tells the watchdog about its work after each request, and the driver reads no tar."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from cloud import SlowFiles, install, uninstall
from corpora import tar_bytes

from raylabel.corpus import Corpus, Shards, fingerprint, forward, index_corpus, read_groups, read_labels, tar
from raylabel.corpus.fingerprint import REQUESTS, file_sizes, file_stats, measure_packed
from raylabel.errors import InputError
from raylabel.store.artifact import Root


@pytest.fixture
def events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Requests to s3://b and beats, in the order in which they end."""
    found: list[str] = []
    (tmp_path / "b").mkdir()
    monkeypatch.setattr(SlowFiles, "answer", lambda store, kind, key, count=0: found.append(kind))
    for module in (fingerprint, forward):
        monkeypatch.setattr(module, "heartbeat", lambda: found.append("beat"))
    install(SlowFiles(str(tmp_path), ""))
    yield found
    uninstall()


def longest(events: list[str]) -> int:
    """The largest number of requests without a beat between them."""
    return max(len(list(run)) for beat, run in itertools.groupby(events, key="beat".__eq__) if not beat)


def test_each_request_for_the_size_of_a_file_is_a_beat(tmp_path: Path, events: list[str]) -> None:
    count = 5000
    lines = [f"{number % count:05}.mp4" for number in range(2 * count)]  # each file has two segments
    for number in range(0, count, 2):
        (tmp_path / "b" / f"{number:05}.mp4").write_bytes(b"x" * (number % 7))
    sizes = file_sizes("s3://b/all.csv", lines)
    assert sizes == [-1 if number % count % 2 else number % count % 7 for number in range(2 * count)]
    assert (events.count("HEAD"), events.count("beat")) == (count, count)
    # The threads run in any order, but each has one request in flight.
    assert longest(events) <= 2 * REQUESTS
    assert [time > 0 for _, time in file_stats("s3://b/all.csv", lines[:2])] == [True, False]


def test_each_request_for_bytes_of_a_tar_is_a_beat(tmp_path: Path, events: list[str]) -> None:
    members = [(f"{number:03}.jpg", bytes(100_000)) for number in range(300)]
    (tmp_path / "b" / "x.tar").write_bytes(tar_bytes(*members))
    rows, *_ = measure_packed(Corpus(uri=("s3://b/x.tar",)), "s3://b/x.tar", "webdataset")
    assert rows == 300 and events.count("GET") > 8
    assert longest(events) <= 3  # a tar is opened, its index file is not there, the tail is read


@pytest.mark.usefixtures("ray_local")
def test_the_driver_reads_no_tar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        members = [(f"{row}.{e}", b"%d" % row) for row in range(9) for e in ("jpg", "cls", "who")]
        (tmp_path / f"{number}.tar").write_bytes(tar_bytes(*members))
    corpus = Corpus(uri=(str(tmp_path),), group="who")
    shards = Shards(index_corpus(Root.open(str(tmp_path / "root")), "labeled", corpus))

    def read(*_: object) -> None:
        raise AssertionError("the driver reads a tar")

    monkeypatch.setattr(tar.TarReader, "__init__", read)
    assert read_labels(corpus, shards)["label"].to_pylist() == 3 * list("012345678")
    assert read_groups(corpus, shards)["group"].to_pylist() == 3 * list("012345678")
    with pytest.raises(InputError, match="no labels: '.*0.tar#0' has none .member 'txt'"):
        read_labels(Corpus(uri=(str(tmp_path),), label="txt"), shards)
