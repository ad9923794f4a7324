"""Each byte of a tar is read once, units begin where SHARDS say, and an unchanged tar is not read again."""

import io
import random
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cloud import SlowFiles, install, uninstall
from hypothesis import given, settings
from hypothesis import strategies as st

from raylabel.corpus import (
    Corpus,
    Sample,
    Shards,
    Unit,
    Units,
    forward,
    index_corpus,
    read_rows,
    read_unit,
    tar_index,
    units,
)
from raylabel.corpus.fingerprint import EDGE, Known, measure_packed
from raylabel.corpus.forward import ForwardReader
from raylabel.corpus.tar_check import TarMeasure
from raylabel.corpus.tar_read import spans
from raylabel.errors import InputError
from raylabel.schema import SHARDS
from raylabel.store.artifact import MANIFEST, Artifact, Root


@pytest.fixture
def counted(tmp_path: Path) -> Iterator[SlowFiles]:
    """s3://b, which counts requests and does not wait."""
    store = SlowFiles(str(tmp_path), str(tmp_path / "log"), latency=0, rate=1e12)
    (tmp_path / "b").mkdir()
    (tmp_path / "log").write_text("")
    install(store)
    yield store
    uninstall()


def write(path: Path, samples: int, size: int, seed: int = 0, extra: bool = False, hidden: bool = False) -> list[bytes]:
    """A tar of samples of about that size, with a label before each picture; returns the pictures. `hidden`: also some
    hidden members; `extra`: these and some long names."""
    rng = random.Random(seed)
    media = [rng.randbytes(rng.randint(1, 2 * size)) for _ in range(samples)]
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT if extra else tarfile.USTAR_FORMAT) as tar:
        for number, data in enumerate(media):
            if (extra or hidden) and number % 7 == 3:
                add(tar, f".hidden{number}", b"x" * 900)
            add(tar, f"{'long' * 30 if extra and number % 11 == 5 else ''}{number:05}.cls", b"3")
            add(tar, f"{'long' * 30 if extra and number % 11 == 5 else ''}{number:05}.jpg", data)
    return media


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def measure(uri: str, known: Known | None = None, **fields: Any) -> tuple[Corpus, dict[str, Any], TarMeasure]:
    corpus = Corpus(uri=(uri,), **fields)
    rows, size, fingerprint, found = measure_packed(corpus, uri, "webdataset", known)
    assert found is not None
    starts = [{"row": row, "byte": byte} for row, byte in found.starts]
    columns = [0, uri, "webdataset", rows, size, fingerprint, [], starts]
    return corpus, dict(zip(SHARDS.names, columns, strict=True)), found


def in_units(corpus: Corpus, shard: dict[str, Any], size: int) -> list[Sample]:
    found = []
    for first in range(0, shard["rows"], size):
        found += read_unit(corpus, shard, Unit(0, first, min(size, shard["rows"] - first)))
    return found


@settings(max_examples=60)
@given(st.data())
def test_a_window_reads_each_byte_at_most_once(data: st.DataObject) -> None:
    draw = data.draw
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "b").mkdir()
        content = random.Random(draw(st.integers(0, 9))).randbytes(draw(st.integers(0, 5000)))
        (Path(folder) / "b" / "x").write_bytes(content)
        for name, value in (("BLOCK", 256), ("FIRST", 16), ("JUMP", 64), ("LOCAL_BLOCK", 128), ("LOCAL_FIRST", 8)):
            patch.setattr(forward, name, value)
        store = SlowFiles(folder, f"{folder}/log", latency=0, rate=1e12)
        Path(store.log).write_text("")
        install(store)
        try:
            uri = "s3://b/x" if draw(st.booleans()) else f"{folder}/b/x"
            with ForwardReader(uri, streams=draw(st.integers(1, 4))) as file:
                if draw(st.booleans()):
                    edge = draw(st.integers(1, 300))
                    assert file.edges(edge) == (content[:edge], content[-edge:])
                at, released = draw(st.integers(0, 50)), 0
                if draw(st.booleans()):
                    file.start(at, draw(st.integers(0, 6000)))
                for _ in range(draw(st.integers(0, 30))):
                    count, back = draw(st.integers(0, 700)), draw(st.integers(0, 40))
                    assert file.read(at, count) == content[at : at + count]
                    at = max(0, at + draw(st.sampled_from([0, count, count + 30, 500])))
                    at = released = max(released, at - back)  # what was released is not read again
                    file.release(released)
            if uri.startswith("s3"):
                assert store.requests().of("", "GET").bytes <= len(content)
        finally:
            uninstall()


@pytest.mark.parametrize("extra", [False, True])
def test_indexing_and_scoring_read_each_byte_once(counted: SlowFiles, tmp_path: Path, extra: bool) -> None:
    media = write(tmp_path / "b" / "x.tar", 2500, 15_000, extra=extra)
    size = (tmp_path / "b" / "x.tar").stat().st_size

    def requests(before: int) -> tuple[int, float]:
        some = counted.requests()[before:]
        return len(some), sum(request.bytes for request in some) / size

    corpus, shard, found = measure("s3://b/x.tar")
    assert requests(0)[1] <= 1 and [start["row"] for start in shard["starts"]] == [0, 1024, 2048, 2500]
    before = len(counted.requests())
    known = Known(shard["rows"], shard["bytes"], shard["fingerprint"], found)
    again = measure("s3://b/x.tar", known)
    assert again[1] == shard and requests(before) == (3, 2 * EDGE / size)  # it is opened
    before = len(counted.requests())
    assert [sample.media for sample in in_units(corpus, shard, 1024)] == media
    # Three units: each is opened, read in blocks of 8 MB, and the fingerprint is checked.
    assert requests(before)[1] <= 1.05 and requests(before)[0] <= 3 * (3 + 2) + 1
    before = len(counted.requests())
    assert [sample.media for sample in in_units(corpus, shard, 2500)] == media
    assert requests(before)[1] <= 1.05
    before = len(counted.requests())
    (sample,) = read_rows(corpus, shard, [2050])
    assert sample.media == media[2050] and requests(before)[1] < 0.02  # from the start of its unit


@pytest.mark.long
@pytest.mark.parametrize("share", [1.0, 0.3, 0.01])
@pytest.mark.parametrize("kind", ["image", "video"])
def test_reading_from_the_starts_equals_reading_from_the_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, share: float
) -> None:
    monkeypatch.setattr(units, "UNIT", 64)
    monkeypatch.setattr(units, "VIDEO", 8)
    write(tmp_path / "x.tar", 700, 300, extra=True)
    fields: Any = {"kind": kind, "share": share, "extensions": ("jpg",) if kind == "video" else ()}
    corpus, shard, found = measure(str(tmp_path / "x.tar"), **fields)
    whole = list(read_rows(corpus, shard | {"starts": []}, range(shard["rows"])))
    assert len(found.starts) - 1 == len(Units(pa_rows(shard), 64 if kind == "image" else 8))
    for size in (8, 64, 100):
        assert in_units(corpus, shard, size) == whole
    for seed in range(10):
        rows = sorted(random.Random(seed).sample(range(len(whole)), min(len(whole), 1 + 5 * seed)))
        assert list(read_rows(corpus, shard, rows)) == [whole[row] for row in rows]


def pa_rows(shard: dict[str, Any]) -> Any:
    import numpy as np

    return np.array([shard["rows"]])


def test_ranges_of_adjacent_units_are_read_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "UNIT", 10)
    write(tmp_path / "x.tar", 45, 300)
    corpus, shard, _ = measure(str(tmp_path / "x.tar"))

    def ranges(*rows: int) -> list[tuple[int, int | None, list[int]]]:
        return [(span.row, span.end_row, list(some)) for span, some in spans(corpus, shard, rows)]

    assert ranges(3, 19, 20, 44) == [(0, 30, [3, 19, 20]), (40, 45, [44])]
    assert ranges(9) == [(0, 10, [9])]
    assert ranges(9, 20) == [(0, 10, [9]), (20, 30, [20])]
    with pytest.raises(InputError, match="its number of rows is no longer 45"):
        ranges(9, 45)


def test_starts_of_another_tar_are_an_error_and_give_no_wrong_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "UNIT", 10)
    media = write(tmp_path / "x.tar", 45, 300)
    corpus, shard, measured = measure(str(tmp_path / "x.tar"))
    offsets = dict(measured.starts)
    errors = []
    for wrong in ((9, offsets[10]), (11, offsets[10]), (10, offsets[20]), (10, 512), (10, offsets[10] + 512)):
        starts = [shard["starts"][0], {"row": wrong[0], "byte": wrong[1]}, *shard["starts"][2:]]
        for first in range(0, 40, 10):
            try:
                found = list(read_unit(corpus, shard | {"starts": starts}, Unit(0, first, 10)))
            except InputError as error:
                errors.append(str(error))
            else:
                assert [sample.media for sample in found] == media[first : first + 10]
    assert len(errors) == 7
    expected = ("does not have the samples", "another sample", "not a tar header")
    assert all(any(what in error for what in expected) for error in errors)


def mixed_tar(path: Path) -> None:
    """A tar with all that indexing counts: hidden members, masks, links, a sample without a picture."""
    with tarfile.open(path, "w") as tar:
        for number in range(30):
            for extension in ("cls", "jpg", "seg.png"):
                add(tar, f"{number:03}.{extension}", f"{number}{extension}".encode() * 50)
        add(tar, "README", b"x")
        add(tar, "100.json", b"{}")
        add(tar, ".hidden", b"x" * 700)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_known_tars_are_not_read_again(tmp_path: Path) -> None:
    folder, root = tmp_path / "d", Root.open(str(tmp_path / "root"))
    folder.mkdir()
    for number in range(4):
        mixed_tar(folder / f"{number}.tar")
        write(folder / f"1{number}.tar", 50, 2000, number)
    corpus = Corpus(uri=(str(folder),))
    first = index_corpus(root, "unlabeled", corpus)
    assert first.info["tars"] == {"read": 8, "indexed": 0, "known": 0}
    assert {kind["extension"]: kind["count"] for kind in first.info["passed_over"]} == {
        ".png": 120, "no extension": 4, "hidden": 4,
    }  # fmt: skip
    write(folder / "20.tar", 50, 2000, 9)
    grown = index_corpus(root, "unlabeled", corpus)
    assert grown.info["tars"] == {"read": 1, "indexed": 0, "known": 8}
    scratch = index_corpus(Root.open(str(tmp_path / "scratch")), "unlabeled", corpus)
    for name in ("passed_over", "content", "samples"):
        assert grown.info[name] == scratch.info[name]
    assert (grown.digest, contents(grown)) == (scratch.digest, contents(scratch))
    # Another division of members into samples: all are read.
    other = index_corpus(root, "unlabeled", Corpus(uri=(str(folder),), media="jpg"))
    assert other.info["tars"] == {"read": 9, "indexed": 0, "known": 0}
    # A tar that changed is an error, as before.
    write(folder / "20.tar", 50, 2000, 10)
    with pytest.raises(InputError, match="20.tar' changed since it was indexed"):
        index_corpus(root, "unlabeled", corpus)


def contents(artifact: Artifact) -> list[bytes]:
    return [Path(artifact.uri, file.name).read_bytes() for file in artifact.files()]


@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("dotted", [False, True])
def test_shards_of_an_earlier_version_are_found_and_its_tars_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dotted: bool
) -> None:
    folder, root = tmp_path / "d", Root.open(str(tmp_path / "root"))
    folder.mkdir()
    for number in range(3):
        with tarfile.open(folder / f"{number}.tar", "w") as tar:
            for row in range(20):
                add(tar, f"a.{row}.jpg" if dotted else f"{row}.jpg", b"%d" % row)
    corpus = Corpus(uri=(str(folder),))
    made = index_corpus(root, "unlabeled", corpus)
    as_before(made)
    from raylabel.corpus import index

    seen = []
    monkeypatch.setattr(index, "_check_unchanged", lambda before, found, now: seen.append(found.tars))
    assert index_corpus(root, "unlabeled", corpus).digest == made.digest
    assert seen == [{"read": 0, "indexed": 0, "known": 3}]
    shards = Shards(Artifact(made.uri, made.name, made.digest))
    assert "starts" not in shards.row(1)
    assert [sample.media for sample in read_rows(corpus, shards.row(1), range(20))] == [b"%d" % n for n in range(20)]
    # A new tar: all are read once, since the earlier version did not note what belongs to which tar.
    shutil.copy(folder / "0.tar", folder / "3.tar")
    assert index_corpus(root, "unlabeled", corpus).info["tars"] == {"read": 4, "indexed": 0, "known": 0}
    assert index_corpus(root, "unlabeled", corpus).info["samples"] == 80
    assert seen[-1] == {"read": 0, "indexed": 0, "known": 4}


def as_before(artifact: Artifact) -> None:
    """Makes the artifact what an earlier version wrote: without the column `starts` and without TARS."""
    import json

    import pyarrow.parquet as pq

    manifest = json.loads(Path(artifact.uri, MANIFEST).read_text())
    for file in artifact.files():
        path = Path(artifact.uri, file.name)
        if file.name.startswith("tars-"):
            path.unlink()
        else:
            pq.write_table(pq.read_table(path).drop_columns(["starts"]), path)
    manifest["files"] = [file for file in manifest["files"] if not file["name"].startswith("tars-")]
    manifest["info"].pop("tars", None)
    manifest["info"].pop("cut", None)
    Path(artifact.uri, MANIFEST).write_text(json.dumps(manifest))


def write_index(path: Path, version: str = "v1.2") -> Path:
    """The index file that wds2idx of DALI writes, by GNU tar as it does: see tools/wds2idx.py there."""

    def listing(*options: str) -> list[str]:
        return subprocess.run(["tar", *options, "--file", path], capture_output=True, text=True).stdout.splitlines()

    blocks, types = listing("--list", "--block-num"), listing("--verbose", "--list")
    samples: list[tuple[str, list[str]]] = []
    for line, following, verbose in zip(blocks, blocks[1:], types, strict=False):
        name = line.partition(": ")[2]
        if verbose[0] != "-":
            continue
        size = int(verbose.split()[2])
        offset = int(following.partition("block ")[2].partition(":")[0]) * 512 - size
        stem, extension = split(name)
        if stem and not stem.endswith("/"):
            if not samples or samples[-1][0] != stem:
                samples.append((stem, []))
            samples[-1][1].extend([extension, str(offset - offset % 512), str(size), name])
    lines = [f"{version} {len(samples)}", *(" ".join(fields) for _, fields in samples)]
    index = path.with_suffix(".idx")
    index.write_text("".join(f"{line}\n" for line in lines))
    return index


def split(name: str) -> tuple[str, str]:
    dot = name.find(".", name.rfind("/") + 1)
    return name[:dot], name[dot + 1 :]


def test_an_index_file_is_used_instead_of_the_headers(counted: SlowFiles, tmp_path: Path) -> None:
    path = tmp_path / "b" / "x.tar"
    media = write(path, 2500, 5000)
    _, expected, read = measure("s3://b/x.tar")
    before = len(counted.requests())
    write_index(path)
    corpus, shard, found = measure("s3://b/x.tar")
    some = counted.requests()[before:]
    assert shard == expected and (found.read, found.indexed, found.unused) == (0, 1, 0)
    assert (found.runs, found.without, found.passed) == (read.runs, read.without, read.passed)
    assert sum(request.bytes for request in some) < 0.05 * path.stat().st_size
    assert len(some) <= 10  # it and the tar are opened, its bytes, two edges, three units
    assert [sample.media for sample in in_units(corpus, shard, 1024)] == media
    write(path, 2500, 5000, seed=1)  # the index file is of the earlier tar
    before = len(counted.requests())
    assert measure("s3://b/x.tar")[2].unused == 1
    some = counted.requests()[before:]
    assert len(some) < 20 and sum(request.bytes for request in some) < 1.05 * path.stat().st_size


def test_an_index_file_serves_a_tar_with_hidden_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "UNIT", 10)
    path = tmp_path / "x.tar"
    media = write(path, 45, 300, hidden=True)
    write_index(path)
    corpus, shard, found = measure(str(path))
    assert found.indexed == 1 and [row for row, _ in found.starts] == [0, 10, 20, 30, 40, 45]
    for size in (10, 45):
        assert [sample.media for sample in in_units(corpus, shard, size)] == media


NOT_USED = {
    "another version": "its version is 'v1.1', not v1.2",
    "another tar": "is not at byte .* of the tar|there is no header at byte",
    "the tar was extended": "'9999.jpg' follows its last member",
    "long names": "is not at byte .* of the tar",
    "some long names": "is not at byte .* of the tar|there is no header at byte",
    "a sample is missing": "'00021.cls' is not at byte .* of the tar",
    "many gaps": "before 44 of its members there is room for others",
    "blanks in names": "it is no list of members",
    "a line is missing": "it is no list of members",
    "no text": "it is empty or no text",
    "a shorter tar": "its last member ends after the tar|is not at byte",
}


@pytest.mark.parametrize("case", NOT_USED)
def test_an_index_file_that_does_not_fit_is_not_used(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "UNIT", 10)
    path = tmp_path / "x.tar"
    write(path, 45, 300, extra=case == "some long names")
    if case == "many gaps":
        monkeypatch.setattr(tar_index, "GAPS", 43)
        with tarfile.open(path, "w") as tar:
            for number in range(145):
                if number > 100:
                    add(tar, f".{number}", b"x" * 2000)
                add(tar, f"{number}.jpg", b"x")
    if case in ("blanks in names", "long names"):
        with tarfile.open(path, "w") as tar:
            for number in range(20):
                add(tar, f"{'a ' if case == 'blanks in names' else 'long' * 30}{number}.jpg", b"x")
    index = write_index(path, "v1.1" if case == "another version" else "v1.2")
    if case == "another tar":
        write(path, 45, 300, seed=1)
    elif case == "the tar was extended":
        with tarfile.open(path, "a") as tar:
            add(tar, "9999.jpg", b"x")
    elif case == "a line is missing":
        index.write_text("".join(index.read_text().splitlines(keepends=True)[:-1]))
    elif case == "a sample is missing":
        lines = index.read_text().splitlines(keepends=True)
        index.write_text("".join(["v1.2 44\n", *lines[1:21], *lines[22:]]))
    elif case == "no text":
        index.write_bytes(b"\xff\xfe")
    elif case == "a shorter tar":
        write(path, 20, 300)
    _, shard, found = measure(str(path))
    index.unlink()
    assert (found.read, found.indexed, found.unused) == (1, 0, 1)
    assert found.why.startswith(f"'{path}': ") and re.search(NOT_USED[case], found.why)
    assert shard == measure(str(path))[1]


@pytest.mark.slow
@settings(max_examples=40)
@given(st.data())
def test_a_damaged_index_file_gives_no_other_rows(data: st.DataObject) -> None:
    """Whatever it contains, units begin where the tar says, or the headers are read."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(units, "UNIT", 4)
        path = Path(folder, "x.tar")
        media = write(path, 20, 200)
        index = write_index(path)
        lines = index.read_text().splitlines()
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(0, len(lines) - 1))
            fields = lines[at].split(" ")
            field = data.draw(st.integers(0, len(fields) - 1))
            fields[field] = data.draw(st.sampled_from(["512", "0", "x", "00003.jpg", "v1.2", "19", "jpg", "-1", "300"]))
            lines[at] = " ".join(fields)
        if data.draw(st.booleans()):
            del lines[data.draw(st.integers(1, len(lines) - 1))]
            lines[0] = f"v1.2 {len(lines) - 1}"
        index.write_text("\n".join(lines) + "\n")
        corpus, shard, found = measure(str(path))
        wrong = 0
        for first in range(0, shard["rows"], 4):
            unit = Unit(0, first, min(4, shard["rows"] - first))
            try:
                some = [sample.media for sample in read_unit(corpus, shard, unit)]
            except InputError as error:
                assert "does not have the samples that it had" in str(error)
                wrong += 1
            else:
                assert some == media[first : first + unit.rows]
        assert not wrong or found.indexed
