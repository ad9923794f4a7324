"""A corpus gives the same picks as loose files, as tars and as parquet; with real photographs and real clips."""

import csv
import io
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import random_model
from scoring import score

from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus, index_corpus
from raylabel.labels.teacher import Label, TrainedNetwork
from raylabel.media.view import Clip, View
from raylabel.schema import PICKS, SCORES
from raylabel.selection.config import Select
from raylabel.selection.duplicates import find_duplicates
from raylabel.selection.select import select
from raylabel.store.artifact import Root

CLASSES = tuple("0123456789")


@dataclass(frozen=True)
class Media:
    """Encoded samples of one kind, the last of which are copies of the first, and the model that scores them."""

    kind: Literal["image", "video"]
    media: list[bytes]
    copies: int
    extension: str
    view: View
    arch: str
    """Of the network that scores them; empty: a projection does."""
    batch: int
    k: int


def photographs(shared: Path) -> Media:
    media = pq.read_table(shared / "sign-digits" / "unlabeled.parquet", columns=["image"])["image"].to_pylist()
    return Media("image", [*media, *media[:30]], 30, "jpg", View(size=32, resize=32), "", 64, 40)


def clips(shared: Path) -> Media:
    with open(shared / "actions" / "manifest.csv", newline="") as file:
        files = [row["file"] for row in csv.DictReader(file) if row["split"] == "unlabeled"]
    media = [(shared / "actions" / file).read_bytes() for file in files]
    view = View(size=48, resize=56, clip=Clip(frames=4, stride=6, count=2))
    return Media("video", [*media, *media[:5]], 5, "mp4", view, "r2plus1d8x1", 8, 6)


def as_files(folder: Path, some: Media) -> Corpus:
    for number, data in enumerate(some.media):
        (folder / f"{number:05d}.{some.extension}").write_bytes(data)
    return Corpus(uri=(str(folder),), kind=some.kind)


def as_tars(folder: Path, some: Media) -> Corpus:
    media, size = some.media, -(-len(some.media) // 5)
    for begin in range(0, len(media), size):
        with tarfile.open(folder / f"{begin:05d}.tar", "w") as tar:
            for number in range(begin, min(begin + size, len(media))):
                member = tarfile.TarInfo(f"{number:05d}.{some.extension}")
                member.size = len(media[number])
                tar.addfile(member, io.BytesIO(media[number]))
    return Corpus(uri=(str(folder / "*.tar"),), kind=some.kind)


def as_parquet(folder: Path, some: Media) -> Corpus:
    table = pa.table({some.kind: pa.array(some.media, pa.binary())})
    pq.write_table(table, folder / "a.parquet", row_group_size=len(some.media) // 8)
    return Corpus(uri=(str(folder / "a.parquet"),), kind=some.kind)


@pytest.fixture(scope="module", params=[photographs, pytest.param(clips, marks=pytest.mark.slow)])
def lists(request, ray_local, shared, tmp_path_factory) -> dict[str, list[tuple[int, int, bytes]]]:
    some: Media = request.param(shared)
    found = {}
    for form in (as_files, as_tars, as_parquet):
        folder = tmp_path_factory.mktemp(form.__name__)
        root = Root.open(str(tmp_path_factory.mktemp("root")))
        corpus, config, resources = form(folder, some), Label(batch=some.batch), Resources(teachers=1)
        shards = index_corpus(root, "unlabeled", corpus)
        if some.arch:
            model = random_model(root, some.arch)
            source = TrainedNetwork(network=model, view=some.view, config=config, resources=resources)
            scores = source.label(root, corpus, shards)
        else:
            scores = score(root, corpus, shards, config, resources, some.view.size)
        duplicates = find_duplicates(root, scores)
        assert duplicates.info["duplicates"] >= some.copies and not scores.info["rejected"]
        picks = select(root, scores, duplicates, Select(k=some.k, p=10), CLASSES).table("picks", PICKS)
        rows = scores.table("scores-", SCORES, ["key", "digest"])
        digest = dict(zip(rows["key"].to_pylist(), rows["digest"].to_pylist(), strict=True))
        columns = (picks[name].to_pylist() for name in ("label", "rank", "key"))
        found[form.__name__] = [(c, rank, digest[key]) for c, rank, key in zip(*columns, strict=True)]
        assert len(found[form.__name__]) == 10 * some.k
    return found


@pytest.mark.long
@pytest.mark.slow
def test_the_three_forms_give_the_same_picks(lists):
    assert lists["as_files"] == lists["as_tars"] == lists["as_parquet"]


@pytest.mark.long
def test_no_class_lists_the_same_bytes_twice(lists):
    pairs = [(label, digest) for label, _, digest in lists["as_parquet"]]
    assert len(set(pairs)) == len(pairs)
