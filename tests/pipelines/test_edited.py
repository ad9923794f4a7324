"""Loose files that are edited in place at equal size: an edit is noticed, a copied or touched corpus is not."""

import os
import time
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from raylabel.corpus import Corpus, Shards, Units, index_corpus, read_rows
from raylabel.corpus.sample import media_digest, sample_digest
from raylabel.corpus.share import of_files
from raylabel.errors import InputError
from raylabel.pipelines import edited
from raylabel.pipelines.edited import check_edited
from raylabel.schema import DIGESTS, SCORES, make_key
from raylabel.store.artifact import Artifact, Built, Root, write_table
from raylabel.store.files import filesystem

pytestmark = pytest.mark.usefixtures("ray_local")
UNIT, PART = 8, 2
OLD = time.time() - 10**6


def write_folder(folder: Path, files: int) -> list[Path]:
    """Files of three bytes that were written long ago."""
    paths = [folder / f"{number % 3}" / f"{number:04d}.jpg" for number in range(files)]
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(number.to_bytes(3, "big"))
        os.utime(path, (OLD, OLD))
    return sorted(paths)


def scores_of(root: Root, corpus: Corpus, artifact: Artifact, rejected: int = -1) -> Artifact:
    """SCORES of all files except one, with their digests; the scores themselves are zero."""
    shards = Shards(artifact)
    units = Units(shards.rows, UNIT)

    def build(draft):
        files = []
        for part in range(0, len(units), PART):
            rows = []
            for unit in [units[i] for i in range(part, min(part + PART, len(units)))]:
                some = range(unit.first, unit.first + unit.rows)
                for sample in read_rows(corpus, shards.row(unit.shard), some):
                    digest = sample_digest(media_digest(sample.media or b""), sample.segment)
                    lists = {"classes": [0], "log_odds": [0.0], "logits": [0.0], "clips": []}
                    if sample.key != rejected:
                        rows.append({"key": sample.key, "digest": digest, "group": 0, **lists})
            table = pa.Table.from_pylist(rows, SCORES)
            files.append(write_table(draft.uri, f"scores-{part // PART:06d}.parquet", table))
        return Built(files, {"shards": artifact.uri.rpartition("/")[2], "rejected": int(rejected >= 0)})

    identity = {"shards": artifact.info["content"], "unit": [UNIT, PART]}
    return root.make("scores", identity, build)


def edit(path: Path) -> bytes:
    before = path.read_bytes()
    path.write_bytes(bytes(255 - byte for byte in before))
    return before


def index(root: Root, corpus: Corpus) -> Artifact:
    return index_corpus(root, "unlabeled", corpus, partial(check_edited, root, corpus))


def as_list(folder: Path, paths: list[Path]) -> str:
    lines = [f"{os.path.relpath(path, folder.parent)},cat" for path in paths]
    (folder.parent / "list.csv").write_text("\n".join(["path,label", *lines]))
    return str(folder.parent / "list.csv")


@pytest.mark.parametrize("listed", [False, True], ids=["folder", "list"])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_an_edited_file_is_noticed_and_a_touched_corpus_is_not(tmp_path, listed, share):
    folder, root = tmp_path / "data", Root.open(str(tmp_path / "root"))
    paths = write_folder(folder, 100)
    corpus = Corpus(uri=(as_list(folder, paths) if listed else str(folder),), share=share)
    lines = [os.path.relpath(path, folder.parent if listed else folder) for path in paths]
    used = of_files(share, corpus.uri[0] if listed else f"{folder}/", lines)
    shards = index(root, corpus)
    scores = scores_of(root, corpus, shards, rejected=3)
    assert index(root, corpus) == shards  # as it was
    for path in paths:
        path.touch()
    assert index(root, corpus) == shards and scores_of(root, corpus, shards) == scores  # only touched

    for number, path in enumerate(paths):
        row = int(used[:number].sum())
        if number % 20 == 7 or row == 3:
            before, now = edit(path), time.time() + number
            os.utime(path, (now, now))  # later than the others
            if used[number] and row != 3:
                with pytest.raises(InputError, match=f"^'{path}' was edited after {scores.uri} was made: .*restore it"):
                    index(root, corpus)
            else:  # not a sample of the share; or it was rejected, so there is nothing to compare it with
                index(root, corpus)
            path.write_bytes(before)  # the fix: restored
            os.utime(path, (now, now))
            assert index(root, corpus) == shards


def test_a_file_with_another_name_is_a_new_file_and_an_edit_is_noticed_when_a_corpus_grows(tmp_path):
    folder, root = tmp_path / "data", Root.open(str(tmp_path / "root"))
    corpus = Corpus(uri=(str(folder),))
    paths = write_folder(folder, 30)
    scores_of(root, corpus, index(root, corpus))
    edit(paths[20])
    more = tmp_path / "more"
    write_folder(more, 5)
    with pytest.raises(InputError, match=f"^'{paths[20]}' was edited"):  # its run would be reused
        both = Corpus(uri=(str(folder), str(more)))
        index_corpus(root, "unlabeled", both, partial(check_edited, root, both))
    paths[20].rename(paths[20].with_name("new.jpg"))
    index(root, corpus)
    assert index(root, Corpus(uri=(str(more),)))  # another corpus in the same root


@pytest.mark.long
def test_the_newest_files_are_read_and_no_others(tmp_path, monkeypatch):
    folder, root = tmp_path / "data", Root.open(str(tmp_path / "root"))
    folders = [folder / f"{i}" for i in range(6)]
    paths = [write_folder(one, 4) for one in folders]
    corpus = Corpus(uri=tuple(map(str, folders)))  # six runs
    scores_of(root, corpus, index(root, corpus))
    for age, some in enumerate(paths):
        for path in some:
            os.utime(path, (time.time() + age, time.time() + age))
    monkeypatch.setattr(edited, "CHECKED", {"image": 3})
    for number, some in enumerate(paths):
        stat = some[2].stat()
        before = edit(some[2])
        os.utime(some[2], (stat.st_atime + 0.5, stat.st_mtime + 0.5))
        if number < 3:
            index(root, corpus)  # three runs are newer
        else:
            with pytest.raises(InputError, match=f"'{some[2]}' was edited"):
                index(root, corpus)
        some[2].write_bytes(before)
        os.utime(some[2], (stat.st_atime, stat.st_mtime))


def test_an_edited_labeled_file_is_noticed_by_the_digests_of_its_examples(tmp_path):
    folder, root = tmp_path / "data", Root.open(str(tmp_path / "root"))
    paths, corpus = write_folder(folder, 10), Corpus(uri=(str(folder),))
    shards = index(root, corpus)
    rows = [{"key": make_key(0, row), "digest": media_digest(path.read_bytes())} for row, path in enumerate(paths)]

    def build(draft):
        return Built([write_table(draft.uri, "digests-000000.parquet", pa.Table.from_pylist(rows, DIGESTS))], {})

    examples = root.make("examples-labeled", {"shards": shards.info["content"]}, build)
    paths[4].touch()
    index(root, corpus)
    edit(paths[4])
    with pytest.raises(InputError, match=f"^'{paths[4]}' was edited after {examples.uri} was made"):
        index(root, corpus)


def test_an_edited_object_is_noticed(bucket, tmp_path):
    root, corpus = Root.open(f"{bucket}/root"), Corpus(uri=(f"{bucket}/data",))
    write_folder(tmp_path, 10)
    fs, _ = filesystem(bucket)
    pafs.copy_files(str(tmp_path), "pictures/data", destination_filesystem=fs)
    shards = index(root, corpus)
    scores_of(root, corpus, shards)
    time.sleep(1.1)  # S3 gives the time of a change in whole seconds
    with fs.open_output_stream("pictures/data/1/0001.jpg") as file:
        file.write((1).to_bytes(3, "big"))  # written again, with the same bytes
    assert index(root, corpus) == shards
    with fs.open_output_stream("pictures/data/1/0001.jpg") as file:
        file.write(b"xyz")
    with pytest.raises(InputError, match="^'s3://pictures/data/1/0001.jpg' was edited"):
        index(root, corpus)


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_the_newest_row_of_each_run_is_that_of_a_plain_loop(tmp_path, share):
    folder, rng = tmp_path / "data", np.random.default_rng(0)
    paths = write_folder(folder, 2500)
    for path in paths:
        os.utime(path, ns=(0, int(rng.integers(1, 10**6)) * 10**9))
    found: list[pa.Table] = []

    def keep(shards: Shards, newest: pa.Table) -> None:
        found.append(newest)

    artifact = index_corpus(Root.open(str(tmp_path / "r")), "c", Corpus(uri=(str(folder),), share=share), keep)
    expected = []
    for shard in [Shards(artifact).row(number) for number in range(3)]:
        used = of_files(share, shard["uri"], shard["paths"])
        some = [folder / path for path, mine in zip(shard["paths"], used, strict=True) if mine]
        times = [path.stat().st_mtime_ns for path in some]
        expected.append({"modified": max(times), "row": times.index(max(times))})
    assert found[0].to_pylist() == expected
