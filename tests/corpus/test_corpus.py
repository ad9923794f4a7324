"""A corpus gives the same rows in every form, each once and in order, and reports the rows that it cannot read."""

import os
import random
import shutil
import tarfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import (
    FORMS,
    Indexed,
    add,
    read_all,
    rows_of,
    tar_bytes,
    values,
    write_files,
    write_parquet,
    write_tar,
)
from hypothesis import given
from hypothesis import strategies as st

from raylabel.corpus import (
    Corpus,
    Sample,
    Unit,
    Units,
    class_names,
    encode_labels,
    read_groups,
    read_keys,
    read_labels,
    read_rows,
    read_unit,
    verify,
)
from raylabel.corpus.fingerprint import EDGE
from raylabel.errors import InputError
from raylabel.schema import SHARDS, check


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_rows_that_were_written(form: str, tmp_path: Path, indexed: Indexed) -> None:
    rows = rows_of(50)
    corpus = FORMS[form](tmp_path / "data", rows)
    shards = indexed(corpus)
    check(shards.artifact.table("shards", SHARDS), SHARDS, "shards")
    assert values(shards, "rows") == ([17, 17, 16] if form in ("parquet", "webdataset") else [50])
    whole = read_all(corpus, shards)
    assert [(s.media, s.label) for s in whole] == rows
    starts = np.cumsum([0, *values(shards, "rows")])
    assert [s.key for s in whole] == [i << 32 | row for i, n in enumerate(np.diff(starts)) for row in range(n)]
    assert all(s.error is None for s in whole)
    for size in (1, 4, 16, 17):  # a unit's rows are a slice of all rows, independent of row groups and headers
        assert read_all(corpus, shards, size) == whole
    labels = read_labels(corpus, shards)
    assert labels.to_pydict() == {"key": [s.key for s in whole], "label": [s.label for s in whole]}
    keys = [whole[i].key for i in (49, 3, 4, 20, 4)]
    assert read_keys(corpus, shards, keys) == {
        s.key: Sample(s.key, s.uri, s.media, None, None) for s in (whole[i] for i in (3, 4, 20, 49))
    }
    for key in (7 << 32, int(shards.rows[0])):
        with pytest.raises(InputError, match=f"no sample has key {key}"):
            read_keys(corpus, shards, [key])
    if form in ("files", "list"):
        assert Path(whole[8].uri).read_bytes() == rows[8][0]
    verify(shards)


@pytest.mark.parametrize("form", FORMS)
def test_read_rows_gives_the_same_samples_as_a_full_read(form: str, tmp_path: Path, indexed: Indexed) -> None:
    corpus = FORMS[form](tmp_path / "data", rows_of(50))
    shards = indexed(corpus)
    whole = read_all(corpus, shards)
    for shard in map(shards.row, range(len(shards))):
        samples = [s for s in whole if s.key >> 32 == shard["shard"]]
        for seed in range(20):
            rows = sorted(random.Random(seed).sample(range(len(samples)), 1 + seed % len(samples)))
            assert list(read_rows(corpus, shard, rows, labels=True)) == [samples[row] for row in rows]
        if form in ("parquet", "webdataset"):
            with pytest.raises(InputError, match="changed since it was indexed"):
                list(read_rows(corpus, shard, [0, len(samples)]))


def bytes_read() -> int:
    """Bytes that this process has read so far, in all read calls."""
    with open("/proc/self/io") as file:
        return int(file.readline().split()[1])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="needs /proc/self/io, which counts the bytes read")
def test_reading_few_rows_reads_few_bytes(tmp_path: Path, indexed: Indexed) -> None:
    rows = [(os.urandom(20_000), "a") for _ in range(1000)]

    def cost(corpus: Corpus, *wanted: int) -> int:
        shard = indexed(corpus).row(0)
        before = bytes_read()
        assert [s.media for s in read_rows(corpus, shard, wanted)] == [rows[row][0] for row in wanted]
        fingerprint = 0 if shard["paths"] else 2 * EDGE  # read to check that the shard has not changed
        return bytes_read() - before - fingerprint

    parquet = write_parquet(tmp_path / "p", rows, files=1, row_group_size=10)  # 100 row groups of 200 KB
    assert cost(parquet, 500) < 300_000
    assert cost(parquet, 0, 999) < 600_000  # the row groups between them are skipped
    whole = tmp_path / "whole.parquet"  # one row group of 20 MB, in pages of 16 rows
    pq.write_table(pa.table({"image": [media for media, _ in rows]}), whole, 1000, write_batch_size=16)
    assert cost(Corpus(uri=(str(whole),)), 0) < 6_000_000  # nothing is read after the last requested row
    tar = write_tar(tmp_path / "t", rows, files=1)  # 3 members per sample; a header is read with 16 KB around it
    assert cost(tar, 0) < 100_000
    files = write_files(tmp_path / "f", rows)
    assert cost(files, 3, 200) < 50_000


@pytest.mark.parametrize("form", FORMS)
def test_the_fingerprint_depends_on_content_and_not_on_path_or_time(
    form: str, tmp_path: Path, indexed: Indexed
) -> None:
    corpus = FORMS[form](tmp_path / "a", rows_of(9))
    before = indexed(corpus)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for path in (tmp_path / "b").rglob("*"):
        os.utime(path, (1, time.time() - 9))
    moved = indexed(Corpus(uri=tuple(uri.replace(f"{tmp_path}/a", f"{tmp_path}/b") for uri in corpus.uri)))
    assert values(moved, "fingerprint") == values(before, "fingerprint")
    verify(before)

    changed = sorted(p for p in (tmp_path / "a").rglob("*") if p.is_file() and p.suffix != ".txt")[0]
    data = changed.read_bytes()
    changed.write_bytes(data + b"x")
    with pytest.raises(InputError, match=f"{tmp_path}/a.* changed since it was indexed"):
        verify(before)
    if form in ("parquet", "webdataset"):  # the fingerprint of loose files contains their sizes, not their bytes
        changed.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
        with pytest.raises(InputError, match="changed since it was indexed"):
            verify(before)
    changed.unlink()
    with pytest.raises(InputError, match=f"{tmp_path}/a.* (vanished|changed) since it was indexed"):
        verify(before)


def test_the_fingerprint_covers_both_ends_of_a_large_file(tmp_path: Path, indexed: Indexed) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": [os.urandom(300_000)]}), path)
    shards = indexed(Corpus(uri=(str(path),)))
    data = path.read_bytes()
    for at in (60_000, len(data) - 60_000):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(InputError, match="changed since it was indexed"):
            verify(shards)
    path.write_bytes(data)
    verify(shards)


@given(st.lists(st.integers(0, 5000), max_size=8), st.integers(1, 3000))
def test_units_cover_every_row_once_in_key_order(rows: list[int], size: int) -> None:
    expected = [Unit(i, first, min(size, n - first)) for i, n in enumerate(rows) for first in range(0, n, size)]
    units = Units(np.array(rows, np.int64), size)
    assert (list(units), len(units)) == (expected, len(expected))
    last = np.array([(unit.shard, unit.first + unit.rows - 1) for unit in expected], np.int64).reshape(-1, 2).T
    assert units.containing(*last).tolist() == list(range(len(expected)))
    for outside in (-1, len(expected)):
        with pytest.raises(IndexError):
            units[outside]
    for first, end in ((0, len(expected)), (1, 4), (len(expected), len(expected) + 9)):
        found = units.between(first, end)
        assert (list(found), len(found)) == (expected[first:end], len(expected[first:end]))
        assert list(found[1:]) == expected[first:end][1:]
        assert found.rows.sum() == sum(unit.rows for unit in expected[first:end])


def test_parquet_types_nulls_and_natural_order(tmp_path: Path, indexed: Indexed) -> None:
    media = [b"a", None, b"", b"d"]
    struct = [{"bytes": m, "path": "x.png"} for m in media[:3]] + [None]
    columns = {
        "2": pa.array(media, pa.binary()),
        "10": pa.array(media, pa.large_binary()),
        "9": pa.array(struct, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
    }
    for name, column in columns.items():
        pq.write_table(pa.table({"pic": column, "y": pa.array([0, 1, 2, -3], pa.int8())}), tmp_path / f"{name}.parquet")
    corpus = Corpus(uri=(f"{tmp_path}/10.parquet", f"{tmp_path}/?.parquet", str(tmp_path)), media="pic", label="y")
    shards = indexed(corpus)
    assert [os.path.basename(uri) for uri in values(shards, "uri")] == ["2.parquet", "9.parquet", "10.parquet"]
    found = [(s.media, s.error, s.label) for s in read_all(corpus, shards)]
    plain = [(b"a", None, "0"), (None, "missing", "1"), (None, "empty", "2"), (b"d", None, "-3")]
    assert found == plain + [*plain[:3], (None, "missing", "-3")] + plain
    assert read_all(corpus, shards)[5].uri == f"{tmp_path}/9.parquet#1"


MEDIA_TYPES = {
    "binary_view": pa.binary_view(),
    "dictionary": pa.dictionary(pa.int32(), pa.binary()),
    "struct of views": pa.struct([("bytes", pa.binary_view()), ("path", pa.string_view())]),
}
NAME_TYPES = {
    "string_view": pa.string_view(),
    "large_string": pa.large_string(),
    "dictionary": pa.dictionary(pa.int8(), pa.string()),
}


@pytest.mark.parametrize("name", NAME_TYPES)
@pytest.mark.parametrize("media", MEDIA_TYPES)
def test_rows_do_not_depend_on_how_arrow_stores_them(media: str, name: str, tmp_path: Path, indexed: Indexed) -> None:
    some = [b"a", None, b"", b"d", b"a", b"f"]
    given = [{"bytes": one, "path": "x.png"} for one in some] if media.startswith("struct") else some
    column = pa.array(some).dictionary_encode() if media == "dictionary" else pa.array(given, MEDIA_TYPES[media])
    names = pa.array(["cat", "dog", None, "cat", "owl", "owl"]).cast(NAME_TYPES[name])
    table = pa.table({"image": column, "label": names, "from": names})
    # Arrow cannot write a struct of views in several row groups.
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=6 if media.startswith("struct") else 4)
    assert pq.read_schema(tmp_path / "a.parquet").field("label").type == NAME_TYPES[name]
    corpus = Corpus(uri=(str(tmp_path / "a.parquet"),), group="from")
    shards = indexed(corpus)
    expected = [(one or None, text) for one, text in zip(some, names.to_pylist(), strict=True)]
    for rows in (range(6), [0, 3, 5], [2], [1, 2, 3]):
        found = list(read_rows(corpus, shards.row(0), rows, labels=True))
        assert [(s.media, s.label) for s in found] == [expected[row] for row in rows]
        assert [s.group for s in found] == [names[row].as_py() for row in rows]
    assert read_groups(corpus, shards)["group"].to_pylist() == names.to_pylist()
    with pytest.raises(InputError, match="no labels: .*a.parquet#2' has none"):
        read_labels(corpus, shards)


def test_a_broken_page_rejects_its_row_group_and_a_shorter_file_is_an_error(tmp_path: Path, indexed: Indexed) -> None:
    rows = rows_of(600)
    corpus = write_parquet(tmp_path / "p", rows, files=1, row_group_size=200)
    path = tmp_path / "p" / "p9.parquet"
    shards = indexed(corpus)
    shard = shards.row(0)
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    whole = path.read_bytes()
    start = column.dictionary_page_offset or column.data_page_offset
    end = start + column.total_compressed_size
    path.write_bytes(whole[:start] + b"\xff" * (end - start) + whole[end:])
    found = list(read_unit(corpus, shard, Unit(0, 0, 600)))
    assert [s.key for s in found] == list(range(600))
    assert [s.media for s in found if s.error is None] == [media for media, _ in rows[:200] + rows[400:]]
    assert {(s.media, s.error) for s in found[200:400]} == {(None, "unreadable")}  # row groups are independent
    pq.write_table(pa.table({"image": [b"x"], "label": ["a"]}), path)
    with pytest.raises(InputError, match="p9.parquet' changed since it was indexed"):
        read_labels(corpus, shards)
    with pytest.raises(InputError, match="p9.parquet' changed since it was indexed"):
        list(read_unit(corpus, shard, Unit(0, 0, 600)))
    path.unlink()
    with pytest.raises(InputError, match="p9.parquet' vanished since it was indexed"):
        list(read_unit(corpus, shard, Unit(0, 0, 600)))


def test_a_unit_of_a_large_row_group_takes_little_memory(tmp_path: Path, indexed: Indexed) -> None:
    media = pa.array([os.urandom(50_000) for _ in range(1200)])
    pq.write_table(pa.table({"image": media}), tmp_path / "a.parquet", 1200, write_batch_size=16)  # 60 MB in one group
    corpus = Corpus(uri=(str(tmp_path),))
    shard = indexed(corpus).row(0)
    pool = pa.default_memory_pool()
    before = pool.bytes_allocated()
    assert max(pool.bytes_allocated() - before for _ in read_unit(corpus, shard, Unit(0, 600, 600))) < 20e6


def test_hostile_and_unusual_tar_members_are_skipped_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, indexed: Indexed
) -> None:
    (tmp_path / "cwd").mkdir()
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        add(tar, "d/", type=tarfile.DIRTYPE)
        add(tar, "d/a.jpg", b"A")
        add(tar, "d/._a.jpg", b"macOS")  # between two members of a sample: it must not split the sample
        add(tar, "d/link.jpg", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add(tar, "d/a.cls", b"7")
        add(tar, "d/hard.jpg", type=tarfile.LNKTYPE, linkname="d/a.jpg")
        add(tar, "d/null.jpg", type=tarfile.CHRTYPE, devmajor=1, devminor=3)
        add(tar, "d/pipe.jpg", type=tarfile.FIFOTYPE)
        add(tar, "/abs.jpg", b"B")
        add(tar, "../up.jpg", b"C")
        add(tar, "d/../../up.jpg", b"C")
        add(tar, "README", b"no dot")
        add(tar, "e/a.jpg", b"")
        add(tar, "e/b.cls", b"8")
        add(tar, "e/c.txt.jpg", b"the only picture of e/c")
    monkeypatch.chdir(tmp_path / "cwd")
    corpus = Corpus(uri=("../x.tar",))
    shards = indexed(corpus)
    found = [(s.uri.partition("#")[2], s.media, s.label, s.error) for s in read_all(corpus, shards, 1)]
    assert found == [
        ("d/a.jpg", b"A", "7", None),
        ("e/a.jpg", None, None, "empty"),
        ("e/b", None, "8", "missing"),
        ("e/c.txt.jpg", b"the only picture of e/c", None, None),
    ]
    assert values(shards, "uri") == [str(tmp_path / "x.tar")]
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["cwd", "x.tar"]
    named = Corpus(uri=("../x.tar",), media="txt.jpg", label="jpg")
    assert [s.media for s in read_all(named, shards)] == [None, None, None, b"the only picture of e/c"]
    with pytest.raises(InputError, match=r"x.tar#e/a' has none"):
        read_labels(corpus, shards)


def header(name: str, size: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A tar header with a size field that no writer produces."""
    info = tarfile.TarInfo(name)
    info.type = kind
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT)[:512])
    block[124:136] = size.rjust(12, b"\0") if len(size) < 12 else size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


HUGE, NEGATIVE = b"\x80" + (1 << 60).to_bytes(11, "big"), b"\xff" * 10 + b"\xf0\x00"
GOOD = tar_bytes(("a.jpg", b"x" * 600), ("b.jpg", b"y" * 600))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no tar at all" * 100,
        GOOD[:700],  # inside the first member
        GOOD[:2000],  # inside the second header
        GOOD[: 512 + 1024] + b"garbage" * 100,  # tarfile treats this as the end
        GOOD[:1536] + header("c.jpg", HUGE),
        GOOD[:1536] + header("c.jpg", HUGE, tarfile.GNUTYPE_LONGNAME),
        GOOD[:1536] + header("c.jpg", HUGE, tarfile.XHDTYPE),
        GOOD[:1536] + header("c.jpg", NEGATIVE),
        GOOD[:1536] + header("c.jpg", NEGATIVE, tarfile.XHDTYPE),
        GOOD[:1536] + header("c.jpg", NEGATIVE, tarfile.DIRTYPE),
        header("c", b"\0", tarfile.GNUTYPE_LONGNAME) * 3000,
    ],
)
def test_a_broken_tar_is_an_error_that_names_it(data: bytes, tmp_path: Path, indexed: Indexed) -> None:
    (tmp_path / "bad.tar").write_bytes(data)
    with pytest.raises(InputError, match=r"cannot read tar '.*bad.tar'"):
        indexed(Corpus(uri=(str(tmp_path),)))


def test_a_sparse_member_that_claims_a_terabyte_is_skipped(tmp_path: Path, indexed: Indexed) -> None:
    sparse = bytearray(header("bomb.jpg", b"0", tarfile.GNUTYPE_SPARSE))
    sparse[483:495] = b"\x80" + (1 << 40).to_bytes(11, "big")
    sparse[148:156] = b" " * 8
    sparse[148:156] = b"%06o\0 " % sum(sparse)
    (tmp_path / "x.tar").write_bytes(bytes(sparse) + GOOD)
    corpus = Corpus(uri=(str(tmp_path),))
    assert [s.media for s in read_all(corpus, indexed(corpus))] == [b"x" * 600, b"y" * 600]


def test_loose_files_that_cannot_be_read_are_samples_with_an_error(tmp_path: Path, indexed: Indexed) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").write_bytes(b"1")
    (tmp_path / "a" / "2.jpg").write_bytes(b"")
    (tmp_path / "a" / "3.jpg").symlink_to("nowhere")
    os.mkfifo(tmp_path / "a" / "4.jpg")
    (tmp_path / "a" / "._5.jpg").write_bytes(b"macOS")
    (tmp_path / "a" / "loop").symlink_to("..")
    (tmp_path / "b").symlink_to("a")
    corpus = Corpus(uri=(str(tmp_path),))
    shards = indexed(corpus)
    (tmp_path / "a" / "1.jpg").unlink()
    errors = ["missing", "empty", "missing", "unreadable"]
    found = read_all(corpus, shards)
    assert [(s.error, s.label) for s in found] == [(e, label) for label in "ab" for e in errors]
    assert values(shards, "paths") == [[f"{d}/{i}.jpg" for d in "ab" for i in range(1, 5)]]


def test_runs_of_4096_files_and_lists_without_labels(tmp_path: Path, indexed: Indexed) -> None:
    (tmp_path / "x.jpg").write_bytes(b"x")
    (tmp_path / "list.txt").write_text("x.jpg\n" * 4097 + "gone.jpg\n")
    corpus = Corpus(uri=(str(tmp_path / "list.txt"),))
    shards = indexed(corpus)
    assert (values(shards, "rows"), values(shards, "bytes")) == ([4096, 2], [4096, 1])
    assert [s.error for s in read_all(corpus, shards)] == [None] * 4097 + ["missing"]
    with pytest.raises(InputError, match=r"no labels: '.*x.jpg' has none"):
        read_labels(corpus, shards)


def test_a_name_that_is_not_utf8_is_an_error(tmp_path: Path, indexed: Indexed) -> None:
    with open(os.fsencode(tmp_path) + b"/\xff.jpg", "wb"):
        pass
    with pytest.raises(InputError, match="not UTF-8"):
        indexed(Corpus(uri=(str(tmp_path),)))


def test_errors_of_indexing_name_the_file_and_the_fix(tmp_path: Path, indexed: Indexed) -> None:
    def fails(match: str, *uri: str, **fields: str) -> None:
        with pytest.raises(InputError, match=match):
            indexed(Corpus(uri=uri or (str(tmp_path / "d"),), **fields))  # pyright: ignore[reportArgumentType]

    d = tmp_path / "d"
    d.mkdir()
    fails("nothing found at .*/d'")
    fails(f"nothing found at '{os.getcwd()}/none/such'", "none/such")
    fails(r"nothing found at '.*\*.tar'", f"{d}/*.tar")
    pq.write_table(pa.table({"pixels": [b"x"], "label": [1]}), d / "a.parquet")
    fails(r"no column 'image' in '.*a.parquet': it has pixels, label; set corpus.media")
    fails(r"column 'label' of '.*a.parquet' is int64: expected encoded bytes", media="label")
    fails("format 'webdataset'", format="webdataset")
    (d / "b.jpg").write_bytes(b"x")
    fails(r"mixes forms \(files, parquet\)")
    assert len(indexed(Corpus(uri=(str(d),), format="files"))) == 1
    fails("cannot read .*b.jpg' with corpus.format 'auto': give its folder", f"{d}/b.jpg")
    (d / "a.parquet").write_bytes(b"PAR1 but broken PAR1")
    fails(r"cannot read .*a.parquet'", format="parquet")
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), d / "a.parquet")
    fails("is empty", format="parquet")
    for line in ("/abs.jpg", "", "a\tb\tc", "https://x/y.jpg"):
        (d / "l.txt").write_text(f"b.jpg\n{line}\nb.jpg\n")
        fails("line 2 of .*l.txt'", f"{d}/l.txt")
    (d / "l.txt").write_bytes(b"\xff.jpg")
    fails("l.txt' as a UTF-8 text file", f"{d}/l.txt")
    bad = [{"uri": ()}, {"uri": "a"}, {"uri": ("",)}, {"uri": ("a",), "format": "zip"}, {"uri": ("a",), "media": ""}]
    for fields in bad:
        with pytest.raises(InputError, match="^unlabeled\\."):
            Corpus(**fields).check("unlabeled")  # pyright: ignore[reportArgumentType]


def labels_of(*texts: str) -> pa.Table:
    return pa.table({"key": pa.array([1 << 32 | i for i in range(len(texts))], pa.int64()), "label": list(texts)})


def test_class_names_and_encoded_labels(tmp_path: Path) -> None:
    corpus = Corpus(uri=("x",))
    assert class_names(corpus, labels_of("10", "9", "10", "-1")) == ("-1", "9", "10")
    assert class_names(corpus, labels_of("10", "9", "cat")) == ("10", "9", "cat")
    assert encode_labels(labels_of("b", "a", "b"), ("a", "b"), corpus).tolist() == [1, 0, 1]
    with pytest.raises(InputError, match="label '0' of row 1 of shard 1 of x is unknown"):
        encode_labels(labels_of("a", "0"), ("a", "b"), corpus)  # a number means nothing without a classes file

    (tmp_path / "classes.txt").write_text("cat\ndog\ncow\n\n")
    corpus = Corpus(uri=("x",), classes=str(tmp_path / "classes.txt"))
    assert class_names(corpus, labels_of("2", "dog")) == ("cat", "dog", "cow")
    encoded = encode_labels(labels_of("2", "dog", "0", "cow"), ("cat", "dog", "cow"), corpus)
    assert encoded.tolist() == [2, 1, 0, 2] and encoded.dtype == np.int32
    for text in ("3", "-1", "pig"):
        with pytest.raises(InputError, match=f"label '{text}' of row 1 of shard 1 of x is unknown"):
            class_names(corpus, labels_of("0", text))
    (tmp_path / "classes.txt").write_text("1\n2\n3\n")  # is '1' the first or the second?
    with pytest.raises(InputError, match="label '1' .* is the name of line 1 of .* as a number it is line 2: give"):
        class_names(corpus, labels_of("0", "1"))
    (tmp_path / "classes.txt").write_text("a\nb\na\n")
    with pytest.raises(InputError, match="line 3"):
        class_names(corpus, labels_of("1"))
    with pytest.raises(InputError, match="none.txt"):
        class_names(Corpus(uri=("x",), classes="none.txt"), labels_of("1"))


def test_a_classes_file_may_give_any_order_of_names_that_are_numbers(tmp_path: Path) -> None:
    corpus = Corpus(uri=("x",), classes=str(tmp_path / "classes.txt"))

    def encoded(names: str, *labels: str) -> list[int]:
        (tmp_path / "classes.txt").write_text("\n".join(names.split()))
        return encode_labels(labels_of(*labels), class_names(corpus, labels_of(*labels)), corpus).tolist()

    assert encoded("3 1 0 2", "0", "1", "2", "3") == [2, 1, 3, 0]
    assert encoded("3 1 0 2", "3", "2") == [0, 3]  # a test set may lack classes
    assert encoded("10 20 30", "0", "2", "1") == [0, 2, 1]  # no label is a name: line numbers, as with words
    assert encoded("cat 0 dog", "cat", "0", "dog") == [0, 1, 2]
    for names, labels in [("3 1 0 2", ("0", "4")), ("cat 0 dog", ("0", "1")), ("1 2 3", ("0", "1", "2"))]:
        with pytest.raises(InputError, match="is the name of line|is unknown"):
            encoded(names, *labels)


def test_missing_labels_are_errors(tmp_path: Path, indexed: Indexed) -> None:
    pq.write_table(pa.table({"image": [b"x", b"y"], "y": [1, None], "z": [0.5, 1.0]}), tmp_path / "a.parquet")
    shards = indexed(Corpus(uri=(str(tmp_path),)))
    for label, match in [
        (None, "no labels: no column 'label' in '.*a.parquet', it has image, y, z; set corpus.label"),
        ("y", r"no labels: '.*a.parquet#1' has none"),
        ("z", "no labels: the label column of '.*a.parquet' is double"),
    ]:
        with pytest.raises(InputError, match=match):
            read_labels(Corpus(uri=(str(tmp_path),), label=label), shards)


def test_the_sign_digits_corpus(shared: Path, indexed: Indexed) -> None:
    folder = shared / "sign-digits"
    corpus = Corpus(uri=(str(folder / "labeled-200.parquet"),), classes=str(folder / "classes.txt"))
    shards = indexed(corpus)
    labels = read_labels(corpus, shards)
    names = class_names(corpus, labels)
    table = pq.read_table(folder / "labeled-200.parquet")
    assert names == tuple((folder / "classes.txt").read_text().split("\n")[:10])
    assert encode_labels(labels, names, corpus).tolist() == table["label"].to_pylist()
    found = read_all(corpus, shards, 64)
    assert [s.media for s in found] == table["image"].to_pylist()
    assert all(s.media is not None and s.media.startswith(b"\xff\xd8") for s in found)
