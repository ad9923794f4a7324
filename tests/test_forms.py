"""One corpus in three forms gives one list: real photographs as files, as tars and as parquet."""

import io
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from helpers import random_model, write_parquet

from raylabel.artifact import Root
from raylabel.corpus import Corpus, index_corpus
from raylabel.duplicates import find_duplicates
from raylabel.labels.teacher import Label, label
from raylabel.media.views import View
from raylabel.resources import Resources
from raylabel.schema import PICKS, SCORES
from raylabel.selection import Select, select

CLASSES = tuple("0123456789")


def as_files(folder: Path, media: list[bytes]) -> Corpus:
    for number, data in enumerate(media):
        (folder / f"{number:05d}.jpg").write_bytes(data)
    return Corpus(uri=(str(folder),))


def as_tars(folder: Path, media: list[bytes]) -> Corpus:
    for begin in range(0, len(media), 300):
        with tarfile.open(folder / f"{begin:05d}.tar", "w") as tar:
            for number in range(begin, min(begin + 300, len(media))):
                member = tarfile.TarInfo(f"{number:05d}.jpg")
                member.size = len(media[number])
                tar.addfile(member, io.BytesIO(media[number]))
    return Corpus(uri=(str(folder / "*.tar"),))


def as_parquet(folder: Path, media: list[bytes]) -> Corpus:
    return Corpus(uri=(str(write_parquet(folder / "a.parquet", media, row_group_size=177)),))


@pytest.fixture(scope="module")
def lists(ray_local, shared, tmp_path_factory) -> dict[str, list[tuple[int, int, bytes]]]:
    media = pq.read_table(shared / "sign-digits" / "unlabeled.parquet", columns=["image"])["image"].to_pylist()
    media = [*media, *media[:30]]  # byte-identical copies, counted once
    found = {}
    for form in (as_files, as_tars, as_parquet):
        folder = tmp_path_factory.mktemp(form.__name__)
        root = Root.open(str(tmp_path_factory.mktemp("root")))
        corpus = form(folder, media)
        shards = index_corpus(root, "unlabeled", corpus)
        view = View(size=32, resize=32)
        scores = label(root, random_model(root), shards, corpus, view, Label(batch=64), Resources(teachers=3))
        duplicates = find_duplicates(root, scores)
        assert duplicates.info["duplicates"] >= 30
        picks = select(root, scores, duplicates, Select(k=40, p=10), CLASSES).table("picks", PICKS)
        rows = scores.table("scores-", SCORES, ["key", "digest"])
        digest = dict(zip(rows["key"].to_pylist(), rows["digest"].to_pylist(), strict=True))
        columns = (picks[name].to_pylist() for name in ("label", "rank", "key"))
        found[form.__name__] = [(c, rank, digest[key]) for c, rank, key in zip(*columns, strict=True)]
    return found


def test_the_three_forms_give_the_same_picks(lists):
    assert len(lists["as_parquet"]) == 400
    assert lists["as_files"] == lists["as_tars"] == lists["as_parquet"]


def test_no_list_holds_the_same_bytes_twice(lists):
    pairs = [(label, digest) for label, _, digest in lists["as_parquet"]]
    assert len(set(pairs)) == len(pairs)
