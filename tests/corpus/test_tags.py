"""The texts of tags in every form of a corpus, and what has none."""

import csv
import itertools
import json
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import tar_bytes
from forms import LABELED, index_here

from raylabel.corpus import Corpus, Shards
from raylabel.corpus import tags as module
from raylabel.corpus.share import used
from raylabel.corpus.tags import TagTexts, list_fingerprint, read_listed_tags, read_tags, tag_lists
from raylabel.errors import InputError
from raylabel.store.files import filesystem

if TYPE_CHECKING:
    from cloud import Cloud

Tag = str | list[str] | None


def as_parquet(folder: Path, tags: list[Tag], kind: pa.DataType | None = None) -> Corpus:
    kind = kind or (pa.list_(pa.string()) if any(isinstance(tag, list) for tag in tags) else pa.string())
    table = pa.table({"tags": pa.array(tags, kind), "image": [b"x"] * len(tags)})
    pq.write_table(table, folder / "a.parquet", row_group_size=7)
    return Corpus(uri=(str(folder / "a.parquet"),))


def as_json(folder: Path, tags: list[Tag]) -> Corpus:
    texts = [None if tag is None else json.dumps({"meta": {"tags": tag}}) for tag in tags]
    return as_parquet(folder, list(texts))


def as_tar(folder: Path, tags: list[Tag]) -> Corpus:
    members = []
    for i, tag in enumerate(tags):
        members.append((f"{i:03}.jpg", b"x"))
        if isinstance(tag, str):
            members.append((f"{i:03}.tags", tag.encode()))
        elif tag is not None:
            members.append((f"{i:03}.json", json.dumps({"tags": tag}).encode()))
    (folder / "a.tar").write_bytes(tar_bytes(*members))
    return Corpus(uri=(str(folder / "a.tar"),))


def as_csv(folder: Path, tags: list[Tag]) -> Corpus:
    with open(folder / "a.csv", "w", newline="", encoding="utf-8") as file:
        rows = ((tag, f"{i:03}.jpg") for i, tag in enumerate(tags))
        csv.writer(file).writerows([("tags", "path"), *rows])
    return Corpus(uri=(str(folder / "a.csv"),))


def read(corpus: Corpus, shards: Shards, column: str = "tags") -> Iterator[TagTexts]:
    if lists := tag_lists(shards):
        for numbers in lists.values():
            for found in read_listed_tags(corpus, shards, numbers, column):
                yield from found
    else:
        yield from read_tags(corpus, shards, range(len(shards)), column)


def texts_of(corpus: Corpus, shards: Shards, column: str = "tags") -> dict[int, Tag]:
    """Row → its string or list of tags, of a corpus of one shard."""
    rows: dict[int, Tag] = {}
    for found in read(corpus, shards, column):
        for key, text in zip(found.key.tolist(), found.texts.to_pylist(), strict=True):
            value = rows.setdefault(key, [] if found.single else text)
            if isinstance(value, list):
                value.append(text)
    return rows


STRINGS: list[Tag] = ["#a b", None, "", "c,d", " é\ufeff", *[f"t{i}" for i in range(20)]]
LISTS: list[Tag] = [["a", "b c"], None, [], ["d"], *[[f"t{i}", "x"] for i in range(20)]]
FORMS: dict[str, tuple[Callable[[Path, list[Tag]], Corpus], str, list[Tag]]] = {
    "parquet, strings": (as_parquet, "tags", STRINGS),
    "parquet, lists": (as_parquet, "tags", LISTS),
    "parquet, JSON": (as_json, "tags:meta.tags", LISTS + STRINGS),
    "tar, strings": (as_tar, "TAGS", STRINGS),
    "tar, JSON": (as_tar, "json:tags", LISTS),
    "csv": (as_csv, "tags", STRINGS),
}


def tagged(tags: Iterable[Tag]) -> dict[int, Tag]:
    return {row: tag for row, tag in enumerate(tags) if tag}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_gives_its_tags(form: str, tmp_path: Path) -> None:
    write, column, tags = FORMS[form]
    corpus = write(tmp_path, tags)
    found = texts_of(corpus, index_here(corpus, tmp_path / "root"), column)
    assert {row: tag for row, tag in found.items() if tag} == tagged(tags)


@pytest.mark.parametrize("form", [form for form in FORMS if form != "csv"])  # a list: labels/test_tag_table.py
def test_a_share_has_the_tags_of_its_rows(form: str, tmp_path: Path) -> None:
    write, column, tags = FORMS[form]
    corpus = replace(write(tmp_path, tags), share=0.5)
    shards = index_here(corpus, tmp_path / "root")
    mine = used(0.5, shards.row(0), len(tags))
    assert 0 < mine.sum() < len(tags)
    found = texts_of(corpus, shards, column)
    assert {row: tag for row, tag in found.items() if tag} == tagged(itertools.compress(tags, mine))


ONE: list[Tag] = [None, "b c", None, "d", "e"] * 3
TWO: list[Tag] = [None, ["a", "b"], ["c", "d"], ["e", "f"]] * 3
KINDS: list[tuple[pa.DataType, list[Tag]]] = [
    (pa.large_string(), ONE),
    (pa.string_view(), ONE),
    (pa.dictionary(pa.int32(), pa.string()), ONE),
    (pa.null(), [None] * 9),
    (pa.large_list(pa.large_string()), TWO),
    (pa.list_(pa.string_view()), TWO),
    (pa.list_(pa.dictionary(pa.int32(), pa.string())), TWO),
    (pa.list_(pa.string(), 2), TWO),
    (pa.list_view(pa.string()), TWO),
    (pa.list_(pa.null()), [None, [], None]),
]


@pytest.mark.parametrize("kind, tags", KINDS, ids=[str(kind) for kind, _ in KINDS])
def test_a_column_may_have_any_type_of_strings(kind: pa.DataType, tags: list[Tag], tmp_path: Path) -> None:
    corpus = as_parquet(tmp_path, tags, kind)
    assert texts_of(corpus, index_here(corpus, tmp_path / "root")) == tagged(tags)


def test_nulls_in_a_list_are_no_tags(tmp_path: Path) -> None:
    corpus = as_parquet(tmp_path, [["a", None], [None]])  # pyright: ignore[reportArgumentType]
    assert texts_of(corpus, index_here(corpus, tmp_path / "root")) == {0: ["a"]}


def unreadable(corpus: Corpus, root: Path, column: str) -> tuple[dict[int, Tag], list[tuple[int, str]]]:
    shards = index_here(corpus, root)
    counts = [(found.unreadable, found.example) for found in read(corpus, shards, column) if found.unreadable]
    return texts_of(corpus, shards, column), counts


@pytest.mark.parametrize("kind", [pa.string(), pa.list_(pa.string())], ids=str)
def test_a_text_of_a_parquet_file_that_is_not_utf8_is_counted(kind: pa.DataType, tmp_path: Path) -> None:
    data = [b"a", b"b\xff", b"c", None, b"\xc3"]
    rows = [one and [b"x", one] for one in data] if pa.types.is_list(kind) else data
    binary = pa.array(rows, pa.list_(pa.binary()) if pa.types.is_list(kind) else pa.binary())
    schema = pa.schema([("image", pa.binary()), ("tags", kind)])
    # Arrow writes what it is given: a cast from binary would check it.
    column = _as_strings(binary)
    pq.write_table(pa.Table.from_arrays([pa.array([b"x"] * 5), column], schema=schema), tmp_path / "a.parquet")
    corpus = Corpus(uri=(str(tmp_path / "a.parquet"),))
    texts, counts = unreadable(corpus, tmp_path / "root", "tags")
    assert texts == ({0: ["x", "a"], 2: ["x", "c"]} if pa.types.is_list(kind) else {0: "a", 2: "c"})
    assert counts == [(2, f"'{tmp_path}/a.parquet#1' is not UTF-8 text")]


def _as_strings(binary: pa.Array) -> pa.Array:
    if isinstance(binary, pa.ListArray):
        return pa.ListArray.from_arrays(binary.offsets, _as_strings(binary.values), mask=binary.is_null())
    return pa.Array.from_buffers(pa.string(), len(binary), binary.buffers())


def test_json_that_has_no_texts_is_counted_and_a_missing_field_is_no_tag(tmp_path: Path) -> None:
    texts = ['{"t": ["a", null, "b"]}', "{}", "[", '{"t": [1]}', '{"t": 2019}', '{"t": "\\ud800"}', '{"t": null}', " "]
    texts += ['{"t": {"a": 1}}', "[" * 100_000, '{"t": [["a"]]}', '{"t": true}', '{"t": "c d"}']
    expected = {0: ["a", "b"], len(texts) - 1: "c d"}
    corpus = as_parquet(tmp_path, [*texts])
    found, counts = unreadable(corpus, tmp_path / "root", "tags:t")
    assert found == expected
    assert sum(count for count, _ in counts) == 8
    assert counts[0][1] == f"'{tmp_path}/a.parquet#2' is not a JSON object: give one with the field 't'"
    members = [
        (f"{i:02}.{e}", data) for i, one in enumerate(texts) for e, data in (("jpg", b"x"), ("json", one.encode()))
    ]
    members += [
        ("90.jpg", b"x"),
        ("91.jpg", b"x"),
        ("91.json", b"\xff"),
        ("92.jpg", b"x"),
        ("92.json", b'{"t": "' + b"x" * 1_048_577 + b'"}'),
    ]
    (tmp_path / "a.tar").write_bytes(tar_bytes(*members))
    found, counts = unreadable(Corpus(uri=(str(tmp_path / "a.tar"),)), tmp_path / "root", "json:t")
    assert found == expected
    assert counts == [(10, f"'{tmp_path}/a.tar#02.json' is not a JSON object: give one with the field 't'")]


def test_a_column_of_a_list_may_be_json(tmp_path: Path) -> None:
    corpus = as_csv(tmp_path, ['{"t": ["a", "b"]}', "", '{"t": "c"}', "x"])
    found, counts = unreadable(corpus, tmp_path / "root", "tags:t")
    assert found == {0: ["a", "b"], 2: "c"}
    assert counts == [(1, f"'{tmp_path}/a.csv: 003.jpg' is not a JSON object: give one with the field 't'")]


@pytest.mark.parametrize(
    "kind", [pa.int64(), pa.binary(), pa.list_(pa.int8()), pa.struct([("t", pa.string())])], ids=str
)
def test_a_column_of_another_type_is_an_error(kind: pa.DataType, tmp_path: Path) -> None:
    corpus = as_parquet(tmp_path, [None], kind)
    with pytest.raises(InputError, match="no tags: column 'tags' of '.*a.parquet' is .*: set tags.column to another"):
        texts_of(corpus, index_here(corpus, tmp_path / "root"))


@pytest.mark.parametrize(
    "write, error",
    [
        (as_parquet, "no tags: no column 'hashtags' in '.*a.parquet', it has tags, image; set tags.column to one"),
        (as_csv, "the CSV list '.*a.csv' has no column 'hashtags': its header is tags, path; set tags.column"),
        (LABELED["txt"], "'.*a.txt' has no tags, since it is a .*txt list: give .* a column that tags.column names"),
        (LABELED["folder"], "'.*all/' has no tags, since it is loose files in a folder: give"),
    ],
)
def test_what_has_no_such_column_is_an_error(write: Callable, error: str, tmp_path: Path) -> None:
    corpus = write(tmp_path, ["a", "b"])
    shards = index_here(corpus, tmp_path / "root")
    with pytest.raises(InputError, match=error):
        texts_of(corpus, shards, "hashtags")


@pytest.mark.parametrize("write", [as_parquet, as_tar, as_csv])
def test_a_shard_that_changed_since_it_was_indexed_is_an_error(write: Callable, tmp_path: Path) -> None:
    corpus = write(tmp_path, ["a", "b"])
    shards = index_here(corpus, tmp_path / "root")
    others = [["a"], ["a", "b", "c"], *([["a", "c"]] if write is not as_csv else [])]  # see list_fingerprint
    for tags in others:
        write(tmp_path, tags)
        with pytest.raises(InputError, match="changed since it was indexed"):
            texts_of(corpus, shards)
    (path,) = corpus.uri
    Path(path).unlink()
    with pytest.raises(InputError, match=f"cannot read .*{path}"):
        texts_of(corpus, shards)


def test_the_rows_of_each_list_are_read_once_and_compared(tmp_path: Path) -> None:
    uris = []
    for name in "ab":
        (tmp_path / name).mkdir()
        uris += as_csv(tmp_path / name, [f"{name}{i}" for i in range(10)]).uri
    corpus = Corpus(uri=tuple(uris))
    shards = index_here(corpus, tmp_path / "root", run=3)
    assert tag_lists(shards) == dict(zip(uris, [range(4), range(4, 8)], strict=True))
    found = [list(read_listed_tags(corpus, shards, numbers, "tags")) for numbers in tag_lists(shards).values()]
    assert [[[text for one in some for text in one.texts.to_pylist()] for some in of] for of in found] == [
        [[f"{name}{i}" for i in range(first, min(first + 3, 10))] for first in range(0, 10, 3)] for name in "ab"
    ]
    before = list_fingerprint(uris[0])
    text = Path(uris[0]).read_text()
    Path(uris[0]).write_text(text.replace("a7", "c7"))  # another tag and as many bytes
    assert list_fingerprint(uris[0]) != before
    Path(uris[0]).write_text(text.replace("007.jpg", "070.jpg"))
    with pytest.raises(InputError, match="changed since it was indexed"):
        list(read_listed_tags(corpus, shards, range(4), "tags"))


def test_a_large_parquet_file_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tags: list[Tag] = [f"t{i}" for i in range(50)]
    corpus = as_parquet(tmp_path, tags)
    shards = index_here(corpus, tmp_path / "root")
    monkeypatch.setattr(module, "WHOLE", 10)
    monkeypatch.setattr(module, "BATCH", 3)
    found = read_tags(corpus, shards, range(1), "tags")
    assert next(found).texts.to_pylist() == ["t0", "t1", "t2"]  # of a row group of 7
    assert texts_of(corpus, shards) == tagged(tags)


def test_of_an_object_store_only_the_column_is_read_with_few_requests(
    bucket: str, server: "Cloud", tmp_path: Path
) -> None:
    tags = [f"tag{i}" for i in range(2000)]
    media = [random.Random(i).randbytes(2000) for i in range(2000)]
    fs, path = filesystem(f"{bucket}/a.parquet")
    pq.write_table(pa.table({"image": media, "tags": tags}), path, row_group_size=500, filesystem=fs)
    corpus = Corpus(uri=(f"{bucket}/a.parquet",))
    shards = index_here(corpus, tmp_path / "root")
    shards.row(0)
    with server.counting() as found:
        assert texts_of(corpus, shards) == dict(enumerate(tags))
    # Its size, its footer, the column of each of four row groups, and the two ends that a fingerprint is of.
    assert len(found.of("a.parquet")) <= 1 + 2 + 4 + 2, found.of("a.parquet").kinds
    assert found.of("a.parquet").bytes < 4_000_000 / 10  # of the media
