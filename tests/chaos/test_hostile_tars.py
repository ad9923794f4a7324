"""Hostile tars: the samples are those that tarfile reads, memory and time are bounded, and nothing is written."""

import hashlib
import io
import tarfile
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raylabel.corpus import Corpus
from raylabel.corpus.members import MEMBERS, TarSample
from raylabel.corpus.tar import ATTRIBUTES, TarReader
from raylabel.errors import InputError

CORPUS = Corpus(uri=("x.tar",), media="jpg")
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)[:512]


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def pax(*records: tuple[str, bytes], kind: bytes = tarfile.XHDTYPE) -> bytes:
    """A PAX header with these attributes."""
    data = b""
    for key, value in records:
        rest = b" " + key.encode() + b"=" + value + b"\n"
        length = len(rest) + 1
        while len(f"{length}") + len(rest) != length:
            length += 1
        data += b"%d" % length + rest
    return attributes(data, kind)


def attributes(data: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    return header("././@PaxHeader", len(data), kind) + padded(data)


def member(name: str, data: bytes) -> bytes:
    return header(name, len(data)) + padded(data)


def read(data: bytes) -> list[tuple[str, dict[str, bytes]]]:
    """(name, members by extension) of the samples of a tar."""
    return [
        (sample.name, {extension: read for extension, (_, read) in zip(sample.members, members, strict=True)})
        for sample, members in read_members(data)
    ]


def read_members(data: bytes) -> list[tuple[TarSample, list[tuple[str, bytes]]]]:
    """The samples of a tar, each with (name, bytes) of its members."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.tar"
        path.write_bytes(data)
        with TarReader(str(path)) as tar:
            found = []
            for sample in tar.samples(CORPUS):
                found.append((sample, [(m.name, tar.read_member(m)) for m in sample.members.values()]))
                with TarReader(str(path)) as again:  # from the sample's offset
                    assert next(again.samples(CORPUS, sample.offset)).members == sample.members
        assert sorted(p.name for p in Path(folder).iterdir()) == ["x.tar"]
    return found


names = st.text(st.sampled_from("ab/. é\x1b\n") | st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)
entries = st.tuples(
    st.one_of(st.sampled_from(["d/a", "b", "../up", "/abs", "d/../b"]), names, names.map(lambda name: name * 40)),
    st.sampled_from(["jpg", "cls", "seg.png"]),
    st.sampled_from("000001256"),
    st.binary(max_size=1200),
)


@settings(max_examples=300)
@given(st.lists(entries, min_size=1, max_size=12), st.sampled_from(["gnu", "pax"]), st.binary(max_size=2000))
def test_the_members_are_those_that_tarfile_reads(made: list, form: str, comment: bytes):
    out, headers = io.BytesIO(), {"comment": comment.hex()} if form == "pax" else {}
    with tarfile.open(fileobj=out, mode="w", format=FORMATS[form], pax_headers=headers) as tar:
        for stem, extension, kind, data in made:
            info = tarfile.TarInfo(f"{stem}.{extension}")
            info.type = kind.encode()
            info.size = len(data) if kind == "0" else 0
            info.linkname = "d/a.jpg" if kind in "12" else ""
            tar.addfile(info, io.BytesIO(data))
    data = out.getvalue()
    expected: list[tuple[str, bytes]] = []
    with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8") as tar:
        for info in tar:
            base = info.name.rpartition("/")[2]
            safe = not info.name.startswith("/") and ".." not in info.name.split("/")
            if info.isreg() and safe and "." in base[1:] and not base.startswith("."):
                file = tar.extractfile(info)
                assert file is not None
                expected.append((info.name, file.read()))
    try:
        found = read_members(data)
    except InputError as error:  # how members are divided into samples is tested in tests/corpus/test_members.py
        assert "may belong to one sample or to two" in str(error)
    else:
        assert [member for _, members in found for member in members] == expected


GOOD = b"".join(
    (
        pax(("path", "é/a.jpg".encode()), ("mtime", b"1.5")) + member("short", b"x" * 600),
        pax(("comment", b"of all"), kind=tarfile.XGLTYPE) + member("é/a.cls", b"1"),
        header("././@LongLink", 300, tarfile.GNUTYPE_LONGNAME)
        + padded(b"d/" + b"n" * 294 + b".jpg")
        + member("n", b"y"),
        header("link.jpg", 0, tarfile.SYMTYPE),
        member("z.jpg", b"z" * 1000),
    )
)


@settings(max_examples=400)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=6), st.booleans())
def test_a_damaged_tar_gives_samples_or_an_input_error(changes: list[tuple[int, int]], fix_checksum: bool):
    data = bytearray(GOOD)
    for at, value in changes:
        data[at] = value
        if fix_checksum:  # of the header, so that it does not detect the damage
            start = at // 512 * 512
            block = data[start : start + 512]
            if GOOD[start + 257 : start + 262] == b"ustar":
                block[148:156] = b" " * 8
                data[start + 148 : start + 156] = b"%06o\0 " % sum(block)
    try:
        found = read(bytes(data))
    except InputError as error:
        assert "cannot read tar" in str(error)
    else:
        assert all(not name.startswith("/") and ".." not in name.split("/") for name, _ in found)


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_the_size_of_a_member_that_is_not_a_file_is_ignored(kind: bytes):
    data = header("a.jpg", 5000, kind) + member("b.jpg", b"b") + header("c.jpg", 2**32, kind) + member("d.jpg", b"d")
    assert read(data) == [("b", {"jpg": b"b"}), ("d", {"jpg": b"d"})]


def test_attributes_are_read():
    long = "d/" + "n" * 294
    assert [name for name, _ in read(GOOD)] == ["é/a", long, "z"]
    assert read(GOOD)[0][1] == {"jpg": b"x" * 600, "cls": b"1"}


GRACE = 3 << 20  # bytes of memory in addition to the limits

BOMBS = {
    # On these, tarfile of Python 3.11.7 takes e.g. time quadratic in the number of digits, and 18 times the map's size.
    "a name of 200 MB": (lambda: header("x", 200 << 20, tarfile.GNUTYPE_LONGNAME) + bytes(200 << 20), "attributes"),
    "attributes of 50 MB": (lambda: pax(("comment", b"1" * (50 << 20))) + member("a.jpg", b"x"), "attributes"),
    "1 MB of digits": (
        lambda: attributes(b"1" * (ATTRIBUTES - 4096)) + member("a.jpg", b"x"),
        "attributes|cannot read tar",
    ),
    "many small attributes": (lambda: pax(*[(f"k{i}", b"v" * 900) for i in range(1000)]) * 8, "attributes"),
    "a sample of endless members": (
        lambda: b"".join(member(f"a.{i}", b"") for i in range(MEMBERS + 1)), "more than 1,000 members"),
    "attributes without a member": (lambda: pax(("path", b"a.jpg")) + bytes(1024), "attributes without a member"),
    "a record longer than its header": (
        lambda: attributes(b"99999 a=b\n") + member("a.jpg", b"x"), "damaged attributes"),
    "a record of length 0": (
        lambda: attributes(b"0 abcde=b\n") + member("a.jpg", b"x"), "damaged attributes"),
    "a size that is not a number": (lambda: pax(("size", b"9" * 5000)) + member("a.jpg", b"x"), "cannot read tar"),
    "a negative size": (lambda: pax(("size", b"-1024")) + member("a.jpg", b"x"), "negative size"),
    "a size of 2^62": (lambda: pax(("size", b"%d" % 2**62)) + member("a.jpg", b"x"), "beyond the end"),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_tar_bomb_is_an_error_with_its_path_and_takes_little_memory(name: str, tmp_path: Path):
    make, message = BOMBS[name]
    path = tmp_path / "bomb.tar"
    path.write_bytes(make())
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=message) as caught, TarReader(str(path)) as tar:
            for _ in tar.samples(CORPUS):
                pass
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value)
    assert peak < 4 * ATTRIBUTES + GRACE


def sparse_map(entries: int) -> bytes:
    """A member in GNU's sparse format 1.0, whose map is before its data."""
    body = b"%d\n" % entries + b"1\n" * 2 * entries
    marks = ("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.name", b"a.jpg")
    return pax(*marks, ("GNU.sparse.realsize", b"%d" % 2**40)) + member("GNUSparseFile.0/a.jpg", body)


def old_sparse_map(blocks: int) -> bytes:
    """A member in GNU's old sparse format, whose map continues in blocks after its header."""
    block = bytearray(header("b.jpg", 0, tarfile.GNUTYPE_SPARSE))
    block[482] = 1
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    more = bytearray(512)
    more[504] = 1
    return bytes(block) + bytes(more) * blocks + bytes(512)


@pytest.mark.parametrize("bomb", [sparse_map(8_000_000), old_sparse_map(60_000), b"".join(
    pax((f"key{i}", b"c" * 500_000), kind=tarfile.XGLTYPE) + member(f"{i}.txt", b"") for i in range(40))],
    ids=["map before the data", "map after the header", "attributes of all members"])  # fmt: skip
def test_skipped_members_are_not_kept_in_memory(bomb: bytes, tmp_path: Path):
    path = tmp_path / "bomb.tar"
    path.write_bytes(bomb + member("good.jpg", b"good"))
    del bomb
    tracemalloc.start()
    try:
        with TarReader(str(path)) as tar:
            found = [s.name for s in tar.samples(CORPUS) if "jpg" in s.members]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == ["good"]
    assert peak < 4 * ATTRIBUTES + GRACE


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_that_tarfile_writes_is_read(form: str):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=FORMATS[form]) as tar:
        for i in range(300):
            info = tarfile.TarInfo(f"{'folder' * 9}/{'sub' * 9}/{i:05}.jpg")
            info.size = 7 * i
            tar.addfile(info, io.BytesIO(b"%07d" % i * i))
    found = read(out.getvalue())
    assert [hashlib.sha256(members["jpg"]).digest() for _, members in found] == [
        hashlib.sha256(b"%07d" % i * i).digest() for i in range(300)
    ]
