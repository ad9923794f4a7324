"""SHARDS as an artifact: moving a corpus keeps its content, adding a file changes it, a changed shard is an error."""

import hashlib
import os
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from helpers import digit_images, write_parquet

from raylabel.corpus import Corpus, Shards, index, index_corpus, packed, survey
from raylabel.corpus.surveyed import MEASURES
from raylabel.errors import InputError
from raylabel.schema import SHARDS
from raylabel.store.artifact import Artifact, Root

pytestmark = pytest.mark.usefixtures("ray_local")


def write_folder(folder: Path, files: int) -> Path:
    """Loose images of 0 to 2 bytes in nested folders."""
    for number in range(files):
        path = folder / f"n{number % 7}" / ("deep" if number % 3 else "") / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * (number % 3))
    return folder


def ends_run(path: str) -> bool:
    return int.from_bytes(hashlib.blake2b(path.encode(), digest_size=8).digest(), "little") % 768 == 0


def rows_of_folder(folder: Path) -> list[dict[str, Any]]:
    """The expected rows of SHARDS for loose files: all paths are sorted, then cut into runs."""
    paths = sorted(os.path.relpath(path, folder) for path in folder.rglob("*.jpg"))
    rows = []
    while paths:
        ends = (at for at in range(256, 4096) if at >= len(paths) or ends_run(paths[at - 1]))
        end = next(ends, 4096)
        run, paths = paths[:end], paths[end:]
        sizes = [os.path.getsize(folder / path) for path in run]
        text = "".join(f"{size} {path}\n" for size, path in zip(sizes, run, strict=True))
        fingerprint = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        rows.append({"uri": f"{folder}/", "rows": len(run), "bytes": sum(sizes), "paths": run, "starts": []})
        rows[-1] |= {"format": "files", "fingerprint": fingerprint}
    return rows


def rows_of_parquet(folder: Path) -> list[dict[str, Any]]:
    """The expected rows of SHARDS for parquet files."""
    rows = []
    for path in sorted(folder.glob("*.parquet"), key=lambda path: int(re.sub("[^0-9]", "", path.name))):
        data = path.read_bytes()
        text = f"{len(data)}\n".encode() + data[: 1 << 16] + data[-1 << 16 :]
        fingerprint = hashlib.blake2b(text, digest_size=16).hexdigest()
        rows.append({"uri": str(path), "format": "parquet", "rows": pq.read_metadata(path).num_rows, "paths": []})
        rows[-1] |= {"bytes": len(data), "fingerprint": fingerprint, "starts": []}
    return rows


@pytest.mark.long
@pytest.mark.parametrize("sizes", [(32, 4096, 16), (1, 2, 2)], ids=["default sizes", "small sizes"])
def test_shards_equal_those_of_a_plain_loop_for_every_size_of_files(tmp_path, monkeypatch, sizes):
    for module, name, value in zip((survey, packed, index), ("RUNS", "PACKED", "GROUPS"), sizes, strict=True):
        monkeypatch.setattr(module, name, value)
    root, media = Root.open(str(tmp_path / "root")), digit_images()[0]
    one, ten = write_folder(tmp_path / "d9", 4200), write_folder(tmp_path / "d10", 1500)
    (tmp_path / "p").mkdir()
    for number in range(11):
        write_parquet(tmp_path / "p" / f"part-{number}.parquet", media[: 5 + number])
    # Each folder is named twice and must be indexed once.
    loose = Corpus(uri=(str(tmp_path / "d*"), str(ten), f"{one}/"))
    assert len(rows_of_folder(one)) > 3
    for corpus, rows, files in [
        (loose, rows_of_folder(one) + rows_of_folder(ten), []),
        (Corpus(uri=(str(tmp_path / "p"),)), rows_of_parquet(tmp_path / "p"), [4, 4, 3]),
    ]:
        artifact = index_corpus(root, "corpus", corpus)
        files = files or [2] * (len(rows) // 2) + [1] * (len(rows) % 2)
        assert [file.rows for file in artifact.files()] == (files if sizes[0] == 1 else [sum(files)])
        expected = [{"shard": number, **row} for number, row in enumerate(rows)]
        table = pa.Table.from_pylist(expected, schema=SHARDS)
        assert artifact.table("shards", SHARDS) == table
        shards = Shards(artifact)
        assert (len(shards), shards.format) == (len(rows), rows[0]["format"])
        assert shards.samples == sum(row["rows"] for row in rows)
        assert shards.rows.dtype == np.int64 and shards.rows.tolist() == [row["rows"] for row in rows]
        assert [shards.row(number) for number in range(len(shards))] == table.to_pylist()
        assert shards.columns("fingerprint", "uri") == table.select(["fingerprint", "uri"])
        for outside in (-1, len(rows)):
            with pytest.raises(IndexError):
                shards.row(outside)


def test_pickled_shards_do_not_contain_cached_data(tmp_path):
    artifact = index_corpus(Root.open(str(tmp_path / "r")), "c", Corpus(uri=(str(write_folder(tmp_path / "d", 3000)),)))
    shards = Shards(artifact)
    assert shards.samples == 3000 and len(shards.row(1)["paths"]) == shards.rows[1]
    pickled = pickle.dumps(shards)
    assert pickled == pickle.dumps(Shards(Artifact(artifact.uri, artifact.name, artifact.digest)))
    assert pickle.loads(pickled) == shards and pickle.loads(pickled).samples == 3000


def test_a_row_needs_only_the_file_that_contains_it(tmp_path, monkeypatch):
    monkeypatch.setattr(survey, "RUNS", 1)
    monkeypatch.setattr(index, "GROUPS", 1)
    folder = write_folder(tmp_path / "d", 3000)
    artifact = index_corpus(Root.open(str(tmp_path / "root")), "corpus", Corpus(uri=(str(folder),)))
    os.remove(f"{artifact.uri}/shards-00000.parquet")
    assert Shards(artifact).row(1)["rows"] == rows_of_folder(folder)[1]["rows"]
    with pytest.raises(InputError, match="cannot read .*shards-00000.parquet"):
        Shards(artifact).row(0)


def test_content_does_not_depend_on_the_location(tmp_path):
    media, _ = digit_images()
    root = Root.open(str(tmp_path / "root"))
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    write_parquet(one / "a.parquet", media[:20])
    first = index_corpus(root, "unlabeled", Corpus(uri=(str(one),)))
    shutil.copytree(one, two)
    moved = index_corpus(root, "unlabeled", Corpus(uri=(str(two),)))
    assert first.info["content"] == moved.info["content"] and first.digest != moved.digest
    assert first.info["samples"] == 20
    write_parquet(two / "b.parquet", media[:3])  # the corpus grew: its content is another, without an error
    assert index_corpus(root, "unlabeled", Corpus(uri=(str(two),))).info["content"] != first.info["content"]


def test_an_unchanged_corpus_is_not_written_again(tmp_path, monkeypatch):
    media, _ = digit_images()
    root = Root.open(str(tmp_path / "root"))
    (tmp_path / "p").mkdir()
    write_parquet(tmp_path / "p" / "a.parquet", media[:20])
    corpora = [Corpus(uri=(str(folder),)) for folder in (tmp_path / "p", write_folder(tmp_path / "d", 50))]
    made = [index_corpus(root, "corpus", corpus) for corpus in corpora]

    def write(*_: object) -> None:
        raise AssertionError("written again")

    monkeypatch.setattr(index, "_write", write)
    assert [index_corpus(root, "corpus", corpus) for corpus in corpora] == made
    write_folder(tmp_path / "d", 51)
    with pytest.raises(AssertionError, match="written again"):
        index_corpus(root, "corpus", corpora[1])


def test_loose_files_may_be_added_changed_and_deleted(tmp_path):
    root, folder = Root.open(str(tmp_path / "root")), write_folder(tmp_path / "d", 3000)
    lists = tmp_path / "all.txt"
    lists.write_text("".join(f"d/{path.relative_to(folder)}\n" for path in sorted(folder.rglob("*.jpg"))))
    for corpus in (Corpus(uri=(str(folder),)), Corpus(uri=(str(lists),))):
        before = Shards(index_corpus(root, "corpus", corpus))
        last = folder / "z.jpg"
        last.write_bytes(b"xyz")
        lists.write_text(f"{lists.read_text()}d/z.jpg\n")
        after = Shards(index_corpus(root, "corpus", corpus))
        assert after.samples == before.samples + 1
        old, new = (shards.columns("fingerprint")["fingerprint"].to_pylist() for shards in (before, after))
        assert old[:-1] == new[: len(old) - 1] and old[-1] not in new  # only the run with the new file changes
        last.write_bytes(b"other")
        changed = Shards(index_corpus(root, "corpus", corpus))
        assert changed.artifact.info["content"] != after.artifact.info["content"]
        last.unlink()
        assert index_corpus(root, "corpus", corpus).info["content"] != changed.artifact.info["content"]


def test_a_shard_that_changed_since_it_was_indexed_is_an_error(tmp_path):
    media, _ = digit_images()
    root, corpus = Root.open(str(tmp_path / "root")), Corpus(uri=(str(tmp_path / "data"),))
    (tmp_path / "data").mkdir()
    path = write_parquet(tmp_path / "data" / "b.parquet", media[:20])
    shards = index_corpus(root, "unlabeled", corpus)
    write_parquet(tmp_path / "data" / "a.parquet", media[:9])
    grown = index_corpus(root, "unlabeled", corpus)  # the shards have other numbers now: not an error either
    assert grown.info["samples"] == 29
    write_parquet(path, media[1:21])
    for earlier in sorted((shards, grown), key=lambda artifact: artifact.digest):
        with pytest.raises(InputError, match=f"shard '{path}' changed since it was indexed.*delete {earlier.uri}"):
            index_corpus(root, "unlabeled", corpus)
        shutil.rmtree(earlier.uri)  # the fix that the message gives
    assert index_corpus(root, "unlabeled", corpus).info["samples"] == 29


def test_paths_that_differ_from_the_measured_ones_are_an_error(tmp_path):
    measures = pa.table([["d/"], [2], [2], ["aa"]], schema=MEASURES)
    paths = pa.table({"fingerprint": ["ab"], "paths": pa.array([["1.jpg", "2.jpg"]], pa.list_(pa.string()))})
    write: Any = index._write_file
    with pytest.raises(InputError, match="'d/' changed while it was indexed"):
        ray.get(write.remote(str(tmp_path), 0, 0, "files", measures, [1], 0, paths))
    assert not list(tmp_path.iterdir())


def test_mixed_forms_are_an_error_in_one_uri_and_across_two(tmp_path):
    media, _ = digit_images()
    root, (one, two) = Root.open(str(tmp_path / "root")), (tmp_path / "one", tmp_path / "two")
    for folder in (one, two):
        folder.mkdir()
    write_parquet(one / "a.parquet", media[:3])
    (two / "b.jpg").write_bytes(media[0])
    for uri in [(str(one), str(two)), (str(two), str(one)), (str(tmp_path / "???"),)]:
        with pytest.raises(InputError, match=r"mixes forms \(files, parquet\)"):
            index_corpus(root, "corpus", Corpus(uri=uri))
    (one / "0.jpg").write_bytes(media[0])
    with pytest.raises(InputError, match=r"mixes forms \(files, parquet\)"):
        index_corpus(root, "corpus", Corpus(uri=(str(one),)))


@pytest.mark.parametrize(
    "name, lines, how",
    [
        ("all.txt", ["img/a.jpg\tcat", "img/b.jpg\tdog"], "from 'img/a.jpg', relative to the folder of the list"),
        ("all.csv", ["path,label", "/no/such/a.jpg,cat", "b.jpg,dog"], "as it is written there"),
        ("long.txt", [f"{i}.jpg" for i in range(3000)], "from '0.jpg', relative to the folder of the list"),
    ],
)
def test_a_list_whose_files_are_all_missing_is_an_error_that_names_the_first(tmp_path, name, lines, how):
    root, path = Root.open(str(tmp_path / "root")), tmp_path / "lists" / name
    path.parent.mkdir()
    path.write_text("\n".join(lines))
    (path.parent / "other.jpg").write_bytes(b"x")
    with pytest.raises(InputError) as error:
        index_corpus(root, "labeled", Corpus(uri=(str(path),)))
    first = "/no/such/a.jpg" if "csv" in name else str(path.parent / lines[0].split("\t")[0])
    assert f"the files of '{path}' are missing" in str(error.value) and f"'{first}' ({how})" in str(error.value)
    # One file that exists is enough: the others are rejects.
    last = path.parent / lines[-1].split("\t")[0].split(",")[0]
    last.parent.mkdir(exist_ok=True)
    last.write_bytes(b"x")
    assert index_corpus(root, "labeled", Corpus(uri=(str(path),))).info["samples"] == len(lines) - ("csv" in name)
