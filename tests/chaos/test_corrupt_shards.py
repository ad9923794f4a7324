"""Shards that are damaged, truncated or changed since they were indexed, on a disk and in an object store."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from corpora import Indexed, Row, rows_of, write_tar
from corpora import write_parquet as write_rows
from faulty_store import Plan
from helpers import DIGITS_VIEW, contents, digit_images, random_model, write_parquet
from paths import PYTHONPATH

from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus, Sample, Shards, index_corpus, read_rows, units
from raylabel.errors import InputError
from raylabel.inference import scores as stage
from raylabel.labels.teacher import Label, TrainedNetwork
from raylabel.schema import MAX_BYTES, SCORES, split_key
from raylabel.store.artifact import Artifact, Root
from raylabel.store.files import filesystem

PACKED = {"parquet": write_rows, "webdataset": write_tar}


def read(corpus: Corpus, shards: Shards, number: int = 0) -> list[Sample]:
    shard = shards.row(number)
    return list(read_rows(corpus, shard, range(shard["rows"])))


def replaced(rows: list[Row]) -> list[Row]:
    """Rows of the same number and sizes with other bytes."""
    return [(bytes(byte ^ 255 for byte in media), label) for media, label in rows]


@pytest.mark.parametrize("how", ["in place", "by another file"])
@pytest.mark.parametrize("form", PACKED)
def test_reading_a_changed_shard_raises_before_its_last_row(
    form: str, how: str, tmp_path: Path, indexed: Indexed
) -> None:
    corpus = PACKED[form](tmp_path / "data", rows_of(50))
    PACKED[form](tmp_path / "other", replaced(rows_of(50)))
    shards = indexed(corpus)
    path = Path(shards.row(1)["uri"])
    other = tmp_path / "other" / path.name
    whole = path.read_bytes()
    before = read(corpus, shards, 1)

    def change() -> None:
        if how == "in place":
            path.write_bytes(other.read_bytes())
        else:
            os.replace(other, path)

    # The shard changes before it is opened.
    given: list[Sample] = []
    change()
    with pytest.raises(InputError, match=f"'{path}' changed since it was indexed: restore it"):
        given += read_rows(corpus, shards.row(1), range(17))
    assert len(given) < 17
    path.write_bytes(whole)
    assert read(corpus, shards, 1) == before

    # The shard changes while it is read.
    PACKED[form](tmp_path / "third", replaced(rows_of(50)))
    other = tmp_path / "third" / path.name
    reader = read_rows(corpus, shards.row(1), range(17))
    given = [next(reader)]
    change()
    if how == "in place":
        with pytest.raises(InputError, match="since it was indexed|cannot read"):
            given += reader
        assert len(given) < 17
    else:  # the open file is still the old one
        assert [*given, *reader] == before


@pytest.mark.parametrize("storage", ["disk", "store"])
def test_a_damaged_page_makes_the_rows_of_its_row_group_unreadable(
    storage: str, tmp_path: Path, bucket: str, indexed: Indexed
) -> None:
    rows = rows_of(2000)
    write_rows(tmp_path / "p", rows, files=1, row_group_size=500)
    path = tmp_path / "p" / "p9.parquet"
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(data)  # damaged before it is indexed
    if storage == "store":
        fs, _ = filesystem(bucket)
        pafs.copy_files(str(tmp_path), "pictures", destination_filesystem=fs)
    corpus = Corpus(uri=(f"{bucket}/p" if storage == "store" else str(tmp_path / "p"),))
    found = read(corpus, indexed(corpus))
    assert [s.media for s in found[:500] + found[1000:]] == [media for media, _ in rows[:500] + rows[1000:]]
    assert {(s.media, s.error) for s in found[500:1000]} == {(None, "unreadable")}


@pytest.mark.long
@pytest.mark.parametrize("form", [*PACKED, "files"])
def test_a_failing_store_is_an_error_and_not_a_reject(
    form: str, tmp_path: Path, bucket: str, faults: Plan, indexed: Indexed
) -> None:
    rows = [(os.urandom(100_000), "a") for _ in range(120)]
    if form == "files":
        (tmp_path / "d").mkdir()
        for number, (media, _) in enumerate(rows):
            (tmp_path / "d" / f"{number:03}.jpg").write_bytes(media)
    else:
        PACKED[form](tmp_path / "d", rows, files=1)
    fs, _ = filesystem(bucket)
    pafs.copy_files(str(tmp_path), "pictures", destination_filesystem=fs)
    corpus = Corpus(uri=(f"{bucket}/d",))
    shards = indexed(corpus)
    reader = read_rows(corpus, shards.row(0), range(120))
    found = [next(reader)]
    faults.broken = lambda method, path: "403 Access Denied" if "/pictures/d/" in path and method == "GET" else ""
    with pytest.raises(InputError, match=f"cannot read '{bucket}/d/.*the same command resumes"):
        found += reader
    assert len(found) < 120 and all(sample.error is None for sample in found)


def test_only_a_file_that_was_deleted_from_the_store_is_rejected(tmp_path: Path, bucket: str, indexed: Indexed) -> None:
    for number in range(9):
        (tmp_path / f"{number}.jpg").write_bytes(b"%d" % number)
    fs, _ = filesystem(bucket)
    pafs.copy_files(str(tmp_path), "pictures/d", destination_filesystem=fs)
    corpus = Corpus(uri=(f"{bucket}/d",))
    shards = indexed(corpus)
    fs.delete_file("pictures/d/4.jpg")
    found = read(corpus, shards)
    assert [s.error for s in found] == [None] * 4 + ["missing"] + [None] * 4
    assert found[4].uri == f"{bucket}/d/4.jpg"


def test_the_error_names_a_truncated_tar_and_the_byte(tmp_path: Path, indexed: Indexed) -> None:
    write_tar(tmp_path / "d", [(b"x" * 3000, "a")] * 20, files=1)
    path = tmp_path / "d" / "t9.tar"
    with tarfile.open(path) as tar:
        member = tar.getmembers()[31]
    os.truncate(path, member.offset_data + 100)
    with pytest.raises(
        InputError, match=f"cannot read tar '{path}' from byte {member.offset} on.*complete, uncompressed"
    ):
        indexed(Corpus(uri=(str(tmp_path / "d"),)))


@pytest.mark.parametrize("cut", [4, 8, 300])
def test_the_error_names_a_truncated_parquet_file(cut: int, tmp_path: Path, indexed: Indexed) -> None:
    corpus = write_rows(tmp_path / "d", rows_of(50))
    path = tmp_path / "d" / "p10.parquet"
    shards = indexed(corpus)
    os.truncate(path, path.stat().st_size - cut)
    with pytest.raises(InputError, match=f"'{path}' changed since it was indexed: restore it"):
        read(corpus, shards, 1)
    with pytest.raises(InputError, match=f"cannot read .*'{path}'.*fix it or remove it"):
        indexed(corpus)


def test_media_of_more_than_a_gigabyte_are_rejected_unread(tmp_path: Path, indexed: Indexed) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "t").mkdir()
    for name, size in (("a.jpg", 5), ("b.jpg", MAX_BYTES + 1), ("c.jpg", 5)):
        (tmp_path / "f" / name).touch()
        os.truncate(tmp_path / "f" / name, size)  # sparse files, which take no space
    with open(tmp_path / "t" / "x.tar", "wb") as file:
        for name, size in (("a.jpg", 5), ("b.jpg", MAX_BYTES + 1), ("c.jpg", 5)):
            info = tarfile.TarInfo(name)
            info.size = size
            file.write(info.tobuf())
            file.seek(-(-size // 512) * 512, 1)
        file.truncate(file.tell() + 1024)
    for corpus in (Corpus(uri=(str(tmp_path / "f"),)), Corpus(uri=(str(tmp_path / "t"),))):
        shards = indexed(corpus)
        before = peak()
        assert [(s.media, s.error) for s in read(corpus, shards)] == [
            (bytes(5), None),
            (None, "too_many_bytes"),
            (bytes(5), None),
        ]
        assert peak() - before < 100 << 20


def peak() -> int:
    """Peak memory of this process, bytes."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM"))


def test_urls_are_not_fetched(tmp_path: Path, indexed: Indexed) -> None:
    for uri in ("http://127.0.0.1:9/a.parquet", "https://host/a.tar"):
        with pytest.raises(InputError, match="raylabel reads nothing from the web: download it"):
            indexed(Corpus(uri=(uri,)))
    for uri in ("ftp://host/a", "file:///etc", "hf://datasets/x", "fsspec+http://host/a", "mock://x"):
        with pytest.raises(InputError, match="cannot open '.*give a local path or an s3://"):
            indexed(Corpus(uri=(uri,)))
    pq.write_table(pa.table({"image": ["http://127.0.0.1:9/a.jpg"]}), tmp_path / "a.parquet")
    with pytest.raises(
        InputError, match="column 'image' of .* is string: expected encoded bytes .*URLs are not fetched"
    ):
        indexed(Corpus(uri=(str(tmp_path / "a.parquet"),)))
    (tmp_path / "l.txt").write_text("http://127.0.0.1:9/a.jpg\n")
    with pytest.raises(InputError, match="line 1 of .*URLs are not fetched"):
        indexed(Corpus(uri=(str(tmp_path / "l.txt"),)))


KILLED_BEFORE_THE_LAST_CHECK = """
import logging, os, signal, sys
import ray
from raylabel.store.artifact import Root
from raylabel.corpus import Corpus
from raylabel.inference import scores
from test_corrupt_shards import score
setattr(scores, "verify_packed", lambda shards: os.kill(os.getpid(), signal.SIGKILL))
ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
score(Root(sys.argv[1]), Corpus(uri=(sys.argv[2],)), Root(sys.argv[1]).named("shards-unlabeled")[0])
"""


def score(root: Root, corpus: Corpus, shards: Artifact) -> Artifact:
    units.UNIT, stage.PART = 64, 2
    return TrainedNetwork(
        network=random_model(root), view=DIGITS_VIEW, config=Label(batch=32), resources=Resources(teachers=2)
    ).label(root, corpus, shards)


@pytest.mark.slow
def test_scores_of_a_shard_that_changed_are_not_committed_even_if_the_driver_is_killed(
    ray_local: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in ((units, "UNIT"), (stage, "PART")):
        monkeypatch.setattr(module, name, getattr(module, name))  # `score` sets them
    media, _ = digit_images()
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(4):
        write_parquet(folder / f"{number}.parquet", media[number * 200 : number * 200 + 200])
    corpus = Corpus(uri=(str(folder),))
    clean, root = (Root.open(str(tmp_path / name)) for name in ("clean", "root"))
    expected = score(clean, corpus, index_corpus(clean, "unlabeled", corpus))

    shards = index_corpus(root, "unlabeled", corpus)
    whole = (folder / "2.parquet").read_bytes()
    write_parquet(folder / "2.parquet", media[1000:1200])  # changes after the shard was indexed
    command = [sys.executable, "-c", KILLED_BEFORE_THE_LAST_CHECK, root.uri, str(folder)]
    driver = subprocess.run(command, env={**os.environ, "PYTHONPATH": PYTHONPATH}, timeout=100, capture_output=True)
    assert driver.returncode != 0
    committed = list(Path(root.uri).glob("scores-*/scores-*.parquet"))
    keys = [key for file in committed for key in pq.read_table(file, columns=["key"])["key"].to_pylist()]
    assert 2 not in {split_key(key)[0] for key in keys}

    (folder / "2.parquet").write_bytes(whole)
    found = score(root, corpus, shards)
    assert contents(found) == contents(expected)
    assert found.table("scores-", SCORES).num_rows == 800
