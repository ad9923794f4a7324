"""In every form of a corpus all media that were found are samples, rejects, copies of samples, or passed over by name.

The oracle is the generator: what it wrote is compared with what is read. Tars have tests of their own, in
test_members.py.
"""

import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from corpora import Indexed, read_all, tar_bytes
from hypothesis import given, settings
from hypothesis import strategies as st

from raylabel.corpus import Corpus, Sample, index_corpus, passed_over, read_rows
from raylabel.corpus.config import EXTENSIONS
from raylabel.corpus.entries import NO_ROWS
from raylabel.corpus.fingerprint import file_sizes, measure_files, measure_packed
from raylabel.corpus.listing import Loose, Packed, find, walk
from raylabel.corpus.passed_over import KINDS, OTHER, PassedOver, extension_of, sentence
from raylabel.errors import InputError
from raylabel.store.artifact import Root, identity_of


def by_name(passed: PassedOver) -> list[str]:
    names = [example for kind in passed.table() for example in kind["examples"]]
    assert len(names) == passed.count
    return sorted(names)


@pytest.fixture(scope="module", autouse=True)
def all_examples() -> Iterator[None]:
    """All that is passed over is an example, so that it is known by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passed_over, "EXAMPLES", 1000)
        yield


def read_files(corpus: Corpus, uri: str, lines: list[str]) -> list[Sample]:
    size, fingerprint = measure_files(lines, file_sizes(uri, lines))
    shard = {"shard": 0, "uri": uri, "format": "files", "paths": lines, "rows": len(lines), "bytes": size}
    return list(read_rows(corpus, shard | {"fingerprint": fingerprint}, range(len(lines))))


names = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(["", "", "", ".", "_", "._"]),
        st.text("aZ.é猫 -", min_size=1, max_size=3),
        st.sampled_from([".jpg", ".JPG", ".jfif", ".jpe", ".avif", ".heic", ".ppm", ".PPM", "", "", ".txt", ".crc"]),
    ),
).filter(lambda name: name.strip("."))
folders = st.sampled_from(["", "d/", "d/_SUCCESS/", ".git/", "d/.cache/x/", "_temporary/0/", "é.jpg/"])
trees = st.lists(st.builds("".join, st.tuples(folders, names)), max_size=20, unique_by=str.lower)


@settings(max_examples=60)
@given(trees, st.sampled_from([(), ("ppm",), ("", "PPM")]))
def test_every_file_of_a_folder_is_a_sample_or_passed_over(tree: list[str], more: tuple[str, ...]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for path in ["always.jpg", *tree]:
            try:
                os.makedirs(os.path.dirname(f"{folder}/{path}"), exist_ok=True)
                Path(f"{folder}/{path}").write_bytes(path.encode())
            except (FileExistsError, NotADirectoryError, IsADirectoryError):
                pass  # another path has a file where this one needs a folder, or the reverse
        media, others = [], set()
        for inner, _, found in os.walk(folder):
            for name in found:
                path = os.path.relpath(f"{inner}/{name}", folder)
                parts = path.split("/")
                if hidden := [i for i, part in enumerate(parts) if part.startswith(".")]:
                    others.add(f"{folder}/" + "/".join(parts[: hidden[0] + 1]))  # a hidden folder counts as one
                elif is_read(name, more):
                    media.append(path)
                else:
                    others.add(f"{folder}/{path}")
        corpus, passed = Corpus(uri=(folder,), extensions=more), PassedOver()
        lines: list[str] = []
        for listed in find(corpus, folder, passed):
            assert isinstance(listed, Loose)
            lines += [path for path, *_ in listed.files]
        assert lines == sorted(media)
        assert by_name(passed) == sorted(others)
        samples = read_files(corpus, f"{folder}/", lines)
        assert [s.media for s in samples] == [path.encode() for path in lines]
        store, again = pafs.SubTreeFileSystem(folder, pafs.LocalFileSystem()), PassedOver()
        assert [path for path, *_ in walk(store, "", "image", corpus.more, again, f"{folder}/")] == lines
        assert by_name(again) == sorted(others)


def is_read(name: str, more: tuple[str, ...]) -> bool:
    stem, dot, extension = name.rpartition(".")
    known = EXTENSIONS["image"] | {e.lower() for e in more}
    return (extension.lower() in known) if dot else ("" in more or extension in EXTENSIONS["image"])


listed = st.lists(st.text("aZ.é猫-_", min_size=1, max_size=4).filter(lambda name: name.strip(".")), min_size=1)


@settings(max_examples=40)
@given(listed, st.data(), st.sampled_from(["txt", "csv"]))
def test_every_line_of_a_list_is_a_sample_or_a_reject(paths: list[str], data: st.DataObject, form: str) -> None:
    some = data.draw(st.lists(st.sampled_from(paths), max_size=2 * len(paths)))  # with repeats
    present = set(data.draw(st.lists(st.sampled_from(paths))))
    with tempfile.TemporaryDirectory() as folder:
        for path in present:
            Path(f"{folder}/{path}").write_bytes(path.encode())
        uri = f"{folder}/all of it.{form}"
        Path(uri).write_text("".join(f"{line}\n" for line in (["path"] if form == "csv" else []) + paths + some))
        corpus, passed = Corpus(uri=(uri,)), PassedOver()
        (found,) = find(corpus, uri, passed)
        assert isinstance(found, Loose) and not passed.count
        lines = [line for line, *_ in found.files]
        assert lines == paths + some
        samples = read_files(corpus, uri, lines)
        assert [(s.uri, s.media, s.error) for s in samples] == [
            (f"{folder}/{path}", path.encode() if path in present else None, None if path in present else "missing")
            for path in lines
        ]


@settings(max_examples=25)
@given(st.lists(st.sampled_from([b"a", b"b", b"", None]), min_size=1, max_size=12), st.integers(1, 5), trees)
def test_every_row_of_parquet_is_a_sample_or_a_reject(rows: list[Any], group: int, tree: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        expected, others = [f"{folder}/{name}" for name in ("A.PARQUET", "x.parquet", "é .b.parquet")], []
        for path in [*expected, *(f"{folder}/{left}/part-0.parquet" for left in NO_ROWS)]:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            pq.write_table(pa.table({"image": pa.array(rows, pa.binary())}), path, group)
        for path in {path for path in tree if "/" not in path and not is_read(path, ())}:
            Path(f"{folder}/{path}").write_bytes(b"")
            others.append(f"{folder}/{path}")
        corpus, passed = Corpus(uri=(folder,)), PassedOver()
        found = list(find(corpus, folder, passed))
        assert found == [Packed(path, "parquet") for path in expected]
        assert by_name(passed) == sorted([*others, *(f"{folder}/{left}/part-0.parquet" for left in NO_ROWS)])
        for path in expected:
            count, size, fingerprint, _ = measure_packed(corpus, path, "parquet")
            shard = {"shard": 0, "uri": path, "format": "parquet", "paths": [], "rows": count, "bytes": size}
            samples = list(read_rows(corpus, shard | {"fingerprint": fingerprint}, range(count)))
            errors = {None: "missing", b"": "empty"}
            assert [(s.uri, s.media, s.error) for s in samples] == [
                (f"{path}#{row}", value or None, errors.get(value)) for row, value in enumerate(rows)
            ]


def test_the_counts_are_small_whatever_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passed_over, "EXAMPLES", 3)
    whole, halves = PassedOver(), [PassedOver(), PassedOver()]
    for number in range(10_000):
        name = f"d.e/\udcff\x1b{number}.x{number % 1000}"
        whole.add(name)
        halves[number % 2].add(name)
    merged = PassedOver(halves[0].table())
    merged.merge(halves[1].table())
    for passed in (whole, merged):
        assert passed.count == 10_000
        assert len(passed.table()) in (KINDS, KINDS + 1)
        assert passed.table()[0]["extension"] == OTHER
        assert all(len(kind["examples"]) == 3 for kind in passed.table())
        assert str(passed.table()).encode()  # no lone surrogates
    assert [extension_of(path) for path in ("a.d/b", "a.JPG", "x.", ".a", "b.not an extension")] == [
        "no extension", ".jpg", "no extension", "no extension", OTHER,
    ]  # fmt: skip
    kinds = PassedOver([{"extension": ".heic", "count": 1200, "examples": ["d/a.heic", "d/b.heic"]}]).table()
    assert sentence(kinds) == "1,200 files are not samples: 1,200 .heic (d/a.heic)"


def test_an_unknown_extension_is_named_where_nothing_else_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.ppm").write_bytes(b"P6")
    with pytest.raises(InputError, match=r"contains no image.*: 1 file is not a sample: 1 .ppm \(.*/a.ppm\)"):
        list(find(Corpus(uri=(str(tmp_path),)), str(tmp_path)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"extensions": (".ppm",)}, "unlabeled.extensions contains '.ppm': give extensions without a dot"),
        ({"extensions": ("Tar",)}, "unlabeled.extensions contains 'Tar', which is the extension of a corpus"),
        ({"extensions": ("ppm",), "format": "parquet"}, "unlabeled.extensions does not apply to parquet"),
        ({"extensions": ("ppm",), "uri": ("a.txt", "b.csv")}, "unlabeled.extensions does not apply to lists"),
    ],
)
def test_extensions_that_cannot_be_read_are_an_error(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(Corpus(uri=("d",)), **fields).check("unlabeled")
    Corpus(uri=("d",), extensions=("", "ppm")).check("unlabeled")


def test_extensions_change_an_identity_only_if_they_are_given() -> None:
    assert "extensions" not in identity_of(Corpus(uri=("d",)))
    assert identity_of(Corpus(uri=("d",), extensions=("ppm",)))["extensions"] == ["ppm"]


def test_what_is_passed_over_is_shown_and_stored_with_shards(
    tmp_path: Path, indexed: Indexed, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.jpg", "b.jfif", "noext", "_SUCCESS", "c.ppm", "_temporary/0/d.jpg", "_delta_log/0.json", ".e.jpg"):
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / name).write_bytes(name.encode())
    where = f"{tmp_path}/d"
    # A folder that is named twice counts once.
    corpus = Corpus(uri=(where, f"{where}/"))
    shards = indexed(corpus)
    assert [s.media for s in read_all(corpus, shards)] == [b"_temporary/0/d.jpg", b"a.jpg", b"b.jfif"]
    expected = [
        {"extension": "no extension", "count": 2, "examples": [f"{where}/_SUCCESS", f"{where}/noext"]},
        {"extension": ".json", "count": 1, "examples": [f"{where}/_delta_log/0.json"]},
        {"extension": ".ppm", "count": 1, "examples": [f"{where}/c.ppm"]},
        {"extension": "hidden", "count": 1, "examples": [f"{where}/.e.jpg"]},
    ]
    assert shards.artifact.info["passed_over"] == expected
    shown = capsys.readouterr().out
    assert f"index corpus: {sentence(expected)}; corpus.extensions" in shown
    more = Corpus(uri=(where,), extensions=("ppm", ""))
    assert [s.media for s in read_all(more, indexed(more))] == [
        b"_SUCCESS", b"_temporary/0/d.jpg", b"a.jpg", b"b.jfif", b"c.ppm", b"noext",
    ]  # fmt: skip


def test_tars_are_counted_by_index_corpus(tmp_path: Path, indexed: Indexed) -> None:
    (tmp_path / "d").mkdir()
    for number in range(3):
        members = [f"v.{number}{i}.{e}" for i in range(4) for e in ("jpg", "cls")] + [f"n{number}.json", "README"]
        (tmp_path / "d" / f"{number}.tar").write_bytes(tar_bytes(*((name, name.encode()) for name in members)))
    (tmp_path / "d" / "index.json").write_text("{}")
    corpus = Corpus(uri=(str(tmp_path / "d"),))
    shards = indexed(corpus)
    assert [(s.media, s.label) for s in read_all(corpus, shards, 2) if s.media] == [
        (f"v.{n}{i}.jpg".encode(), f"v.{n}{i}.cls") for n in range(3) for i in range(4)
    ]
    assert [s.uri.partition("#")[2] for s in read_all(corpus, shards) if s.error == "missing"] == ["n0", "n1", "n2"]
    kinds = shards.artifact.info["passed_over"]
    assert [(kind["extension"], kind["count"]) for kind in kinds] == [("no extension", 3), (".json", 1)]
    # An earlier version had one row for all v.* of a tar, in an artifact of the identity without `rows`.
    assert "rows" in shards.artifact.identity
    plain = tmp_path / "plain.tar"
    plain.write_bytes(tar_bytes(("a.jpg", b"a"), ("b.jpg", b"b")))
    assert list(indexed(Corpus(uri=(str(plain),))).artifact.identity) == ["corpus", "places"]
    with pytest.raises(InputError, match=r"no member of .* has the extension 'jpeg': '.*plain.tar#a' has 'jpg'; set"):
        indexed(Corpus(uri=(str(plain),), media="jpeg"))


CASES = {
    "wds_dots/a.tar": 12,
    "wds_dots/b.tar": 12,
    "wds_interleaved/a.tar": "'000.jpg' and '000.cls' .*do not follow each other",
    "wds_interleaved/b.tar": "'jpg/000.jpg' and 'cls/000.cls' .*two folders",
    "wds_interleaved/c.tar": "'000.jpg' and '000.json' .*do not follow each other",
    "loose_extensions/a.tar": 3,
    "loose_extensions/b.tar": 300,
}


@pytest.mark.parametrize("case", CASES)
def test_tars_of_public_reports(case: str, shared: Path) -> None:
    uri, expected = str(shared / "cases" / case), CASES[case]
    corpus = Corpus(uri=(uri,))
    if isinstance(expected, str):
        with pytest.raises(InputError, match=expected):
            measure_packed(corpus, uri, "webdataset")
        return
    rows, size, fingerprint, found = measure_packed(corpus, uri, "webdataset")
    assert found and (rows, found.without, found.passed) == (expected, 0, [])
    shard = {"shard": 0, "uri": uri, "format": "webdataset", "paths": [], "rows": rows, "bytes": size}
    samples = list(read_rows(corpus, shard | {"fingerprint": fingerprint}, range(rows), True))
    assert all(sample.media for sample in samples)
    assert all(sample.label for sample in samples) == (case == "wds_dots/a.tar")


def test_a_folder_of_public_reports(shared: Path) -> None:
    folder = str(shared / "cases" / "loose_extensions" / "u")
    passed = PassedOver()
    (found,) = find(Corpus(uri=(folder,)), folder, passed)
    assert isinstance(found, Loose)
    assert {path.rpartition(".")[2] for path, *_ in found.files} == {"jpg", "jfif", "jpe", "heic"}
    assert by_name(passed) == sorted(
        f"{folder}/{name}" for name in os.listdir(folder) if name.endswith(".ppm") or "." not in name
    )


def test_shards_of_an_earlier_version_are_used(tmp_path: Path, ray_local: None) -> None:
    """What was passed over is not part of the identity."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.jpg").write_bytes(b"a")
    root, corpus = Root.open(str(tmp_path / "root")), Corpus(uri=(str(tmp_path / "d"),))
    first = index_corpus(root, "corpus", corpus)
    (tmp_path / "d" / "README").write_text("")
    assert index_corpus(root, "corpus", corpus) == first
