"""PICKS + corpus → EXAMPLES: they contain exactly the picks, and so does each epoch of the stream over them."""

import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path

import bombs
import numpy as np
import pyarrow as pa
import pytest
from helpers import contents, digit_images, example_rows, write_parquet
from paths import PYTHONPATH
from PIL import Image

from raylabel.corpus import Corpus, Shards, index_corpus
from raylabel.errors import InputError
from raylabel.media.image import decode_image
from raylabel.schema import PICKS, REJECTS
from raylabel.store.artifact import Artifact, Built, Root, write_table
from raylabel.training.examples import materialize, media_of
from raylabel.training.media import Materialize, WritingTask, encode_parser
from raylabel.training.stream import Stream

LANES = Materialize(lanes=4)


def picks_of(root: Root, pairs: list[tuple[int, int]]) -> Artifact:
    """PICKS of (label, key) pairs."""
    rank: Counter[int] = Counter()
    rows = []
    for label, key in sorted(pairs):
        rank[label] += 1
        rows.append({"label": label, "rank": rank[label], "score": 0.0, "key": key})
    table = pa.Table.from_pylist(rows, schema=PICKS)
    name = {"pairs": sorted(map(list, pairs))}
    return root.make("picks", name, lambda d: Built([write_table(d.uri, "picks-00000.parquet", table)], {}))


def make(tmp_path, media, pairs, config=LANES, limit=0.05):
    (tmp_path / "data").mkdir(exist_ok=True)
    for number in range(2):  # two shards: keys of the second begin at 1 << 32
        write_parquet(tmp_path / "data" / f"{number}.parquet", media[number])
    corpus = Corpus(uri=(str(tmp_path / "data"),))
    root = Root.open(str(tmp_path / "root"))
    shards = index_corpus(root, "unlabeled", corpus)
    return materialize(
        root, "picked", picks_of(root, pairs), WritingTask(shards=Shards(shards), corpus=corpus, config=config), limit
    )


@pytest.fixture(scope="module")
def media():
    some, _ = digit_images()
    return some[:150], some[150:250]


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(0)
    keys = [*range(0, 150, 2), *((1 << 32) + i for i in range(0, 100, 3))]
    return [(int(label), key) for key in keys for label in rng.choice(10, rng.integers(1, 4), replace=False)]


def test_examples_hold_exactly_the_picks(ray_local, tmp_path, media, pairs):
    made = make(tmp_path, media, pairs)
    rows = example_rows(made)
    assert Counter((label, row["key"]) for row in rows for label in row["labels"]) == Counter(pairs)
    assert len({row["key"] for row in rows}) == len(rows)  # the bytes of each sample are stored once
    assert all(row["media"] == media[row["key"] >> 32][row["key"] & 0xFFFFFFFF] for row in rows)
    assert made.info["items"] == len(pairs) and made.info["samples"] == len(rows) and made.info["rejected"] == 0
    # Each epoch of the stream contains exactly the picks.
    assert all(row["labels"] == sorted(row["labels"]) for row in rows)
    stream = Stream(made, seed=0)
    sizes = [lane.size for lane in stream.lanes]
    assert sum(sizes) == len(pairs) and len(sizes) == 4
    epoch = [(label, key) for g, key, _, label, _ in stream.items(0, 4 * max(sizes)) if g // 4 < sizes[g % 4]]
    assert Counter(epoch) == Counter(pairs)


def test_files_of_a_corpus_sorted_by_class_are_well_mixed(ray_local, tmp_path):
    some, labels = digit_images()
    order = np.argsort(labels, kind="stable")
    media = [some[i] for i in order], some[:1]
    made = make(tmp_path, media, [(int(labels[i]), key) for key, i in enumerate(order)], Materialize(lanes=8))
    first = [label for _, _, _, label, _ in Stream(made, seed=0).items(0, 200)]
    assert min(Counter(first)[c] for c in range(10)) >= 8  # 20 are expected; in corpus order, all are of one class


def test_equal_picks_give_equal_bytes(ray_local, tmp_path, media, pairs):
    made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        made.append(make(tmp_path / name, media, pairs))
    assert contents(made[0]) == contents(made[1]) and made[0].digest == made[1].digest
    assert contents(media_of(made[0])) == contents(media_of(made[1]))


@pytest.mark.slow
def test_reencoding_shrinks_the_short_side_only_of_larger_images(ray_local, tmp_path):
    rng = np.random.default_rng(0)

    def jpeg(width, height):
        out = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (5, 5, 3), np.uint8)).resize((width, height)).save(out, "JPEG")
        return out.getvalue()

    big, wide, small = jpeg(200, 100), jpeg(90, 300), jpeg(30, 40)
    made = make(tmp_path, ([big, wide, small], [small]), [(0, 0), (1, 1), (0, 2)], Materialize(short_side=50))
    rows = {row["key"]: row["media"] for row in example_rows(made)}
    assert [decode_image(rows[key]).size for key in range(3)] == [(100, 50), (50, 167), (30, 40)]
    assert rows[2] == small
    reference = np.asarray(decode_image(big).resize((100, 50)), int)
    assert np.abs(np.asarray(decode_image(rows[0]), int) - reference).mean() < 3  # JPEG at quality 90


def photo(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """An image whose four corners differ, so that any rotation is visible."""
    corners = np.array([[[250, 10, 10], [10, 250, 10]], [[10, 10, 250], [240, 240, 240]]], np.uint8)
    return Image.fromarray(corners).resize((width, height)).convert(mode)


def encoded(image: Image.Image, form: str, **how) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **how)
    return out.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
PICTURES = {
    **{f"turned {i}": encoded(photo(120, 80), "JPEG", exif=turned(i), quality=95) for i in range(1, 9)},
    "turned by XMP": encoded(photo(120, 80), "JPEG", xmp=XMP, quality=95),
    "turned PNG": encoded(photo(120, 80), "PNG", exif=turned(6)),
    "CMYK": encoded(photo(120, 80, "CMYK"), "JPEG", quality=95),
    "grey": encoded(photo(120, 80, "L"), "PNG"),
    "alpha": encoded(Image.merge("RGBA", (*photo(120, 80).split(), photo(120, 80, "L"))), "PNG"),
    "palette": encoded(photo(120, 80, "P"), "GIF"),
    "long comment": encoded(photo(120, 80, "P"), "GIF", comment=b"x" * 70_000),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_reencoded_image_looks_like_the_original(name):
    data = PICTURES[name]
    small = encode_parser(short_side=40, quality=95)(data, ())
    assert small.startswith(b"\xff\xd8") and len(small) < 4_000
    whole = decode_image(data)
    assert whole.size == (
        (80, 120) if name in ("turned PNG", "turned by XMP", *(f"turned {i}" for i in (5, 6, 7, 8))) else (120, 80)
    )
    again = decode_image(small)
    assert again.size == ((40, 60) if whole.width < whole.height else (60, 40))
    assert np.abs(np.asarray(again, int) - np.asarray(whole.resize(again.size), int)).mean() < 4
    assert Image.open(io.BytesIO(small)).info.keys() <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
    assert encode_parser(short_side=40, quality=90)(small, ()) == b""  # small enough: kept as it is


def test_an_image_too_long_for_jpeg_keeps_its_bytes():
    data = encoded(Image.new("L", (131_002, 20)), "PNG")
    encode = encode_parser(short_side=10, quality=90)
    assert encode(data, ()) == b""
    most = encoded(Image.new("L", (131_000, 20)), "PNG")
    assert decode_image(encode(most, ())).width == 65_500


def test_unreadable_picks_are_rejected_and_too_many_are_an_error(ray_local, tmp_path, media):
    bad = [b"no picture", *media[0][1:40]], [None, *media[1][1:]]
    pairs = [(0, key) for key in range(40)] + [(1, 1 << 32)]
    made = make(tmp_path, bad, pairs, limit=0.06)
    rejects = media_of(made).table("rejects-", REJECTS).to_pylist()
    assert sorted((r["key"], r["stage"], r["reason"]) for r in rejects) == [
        (0, "decode", "unrecognized"),
        (1 << 32, "read", "missing"),
    ]
    assert made.info["samples"] == 39 and made.info["rejected"] == 2
    (tmp_path / "again").mkdir()
    with pytest.raises(InputError, match="2 of 41 picked samples could not be read"):
        make(tmp_path / "again", bad, pairs, limit=0.01)


def test_rejects_are_retried_only_if_requested(ray_local, tmp_path, media):
    data, away = tmp_path / "data", tmp_path / "away"
    data.mkdir()
    for row, one in enumerate(media[0][:30]):
        (data / f"{row:02d}.png").write_bytes(one)
    corpus, config = Corpus(uri=(str(data),)), Materialize(lanes=2)
    root = Root.open(str(tmp_path / "root"))
    shards, picks = index_corpus(root, "corpus", corpus), picks_of(root, [(0, row) for row in range(30)])

    def made(retry: bool, root: Root = root) -> Artifact:
        return materialize(
            root, "bench", picks, WritingTask(shards=Shards(shards), corpus=corpus, config=config), 0.5, retry
        )

    (data / "07.png").rename(away)
    first = made(retry=True)
    assert first.info["reasons"] == {"missing": 1}
    assert made(retry=True).uri == first.uri  # nothing was gained, and the attempt leaves no files
    assert len(list(Path(root.uri).glob("examples-*"))) == len(list(Path(root.uri).glob("media-*"))) == 1
    away.rename(data / "07.png")
    assert made(retry=False).uri == first.uri  # no retry was requested
    second = made(retry=True)
    assert second.info["rejected"] == 0 and made(retry=False).uri == second.uri
    fresh = made(False, Root.open(str(tmp_path / "scratch")))
    assert contents(second) == contents(fresh) and contents(media_of(second)) == contents(media_of(fresh))


def test_the_same_samples_with_other_labels_share_their_media(ray_local, tmp_path):
    rng = np.random.default_rng(0)
    noise = [encoded(Image.fromarray(rng.integers(0, 255, (100, 100, 3), np.uint8)), "PNG") for _ in range(40)]
    media, pairs = (noise[:30], noise[30:]), [(key % 3, key) for key in [*range(30), *range(1 << 32, (1 << 32) + 10)]]
    made = make(tmp_path, media, pairs)
    root = tmp_path / "root"
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    other = [((label + 3) % 10, key) for label, key in pairs]
    again = make(tmp_path, media, other)
    assert again.digest != made.digest and media_of(again) == media_of(made)
    assert Counter((label, row["key"]) for row in example_rows(again) for label in row["labels"]) == Counter(other)
    written = [path for path in root.rglob("*") if path.is_file() and path not in before]
    assert sum(path.stat().st_size for path in written) < 0.02 * sum(f.bytes for f in media_of(made).files("media-"))
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    fewer = make(tmp_path, media, [pair for pair in pairs if pair[1] != pairs[0][1]])
    assert media_of(fewer) != media_of(made)  # another set of samples


def test_examples_of_an_earlier_version_are_used(ray_local, tmp_path, media):
    """Their identity is that of the version before; they contain their media."""
    data, root = tmp_path / "data", Root.open(str(tmp_path / "root"))
    data.mkdir()
    files = [data / f"{row:02d}.png" for row in range(30)]
    for path, one in zip(files, media[0], strict=False):
        path.write_bytes(one)
    corpus = Corpus(uri=(str(data),))
    shards, picks = index_corpus(root, "corpus", corpus), picks_of(root, [(0, row) for row in range(30)])
    config = {"short_side": 0, "quality": 90, "lanes": 4}

    def build(draft) -> Built:
        info = {"lane_items": [[29]], "samples": 29, "items": 29, "rejected": 1, "reasons": {"missing": 1}}
        return Built([], info)

    identity = {"picks": picks.digest, "shards": shards.info["content"], "materialize": config}
    before = root.make("examples-picked", identity, build)
    task = WritingTask(shards=Shards(shards), corpus=corpus, config=LANES)
    assert materialize(root, "picked", picks, task, 0.5) == before == media_of(before)
    away = files[3].rename(tmp_path / "away")
    assert materialize(root, "picked", picks, task, 0.5, retry_rejects=True) == before  # nothing was gained
    assert not list(Path(root.uri).glob("media-*"))
    away.rename(files[3])
    retried = materialize(root, "picked", picks, task, 0.5, retry_rejects=True)
    assert retried.info["samples"] == 30 and materialize(root, "picked", picks, task, 0.5) == retried


@pytest.mark.parametrize("form", ["parquet", "tar"])
def test_a_shard_without_a_pick_is_never_opened(ray_local, tmp_path, media, form):
    data = tmp_path / "data"
    data.mkdir()
    for number in range(3):
        if form == "parquet":
            write_parquet(data / f"{number}.parquet", media[0][:20])
        else:
            with tarfile.open(data / f"{number}.tar", "w") as tar:
                for row, image in enumerate(media[0][:20]):
                    info = tarfile.TarInfo(f"{row:02d}.png")
                    info.size = len(image)
                    tar.addfile(info, io.BytesIO(image))
    corpus, root = Corpus(uri=(str(data),)), Root.open(str(tmp_path / "root"))
    shards = index_corpus(root, "unlabeled", corpus)
    picks = picks_of(root, [(0, 3), (0, (2 << 32) + 5)])
    (data / f"1.{form}").unlink()
    made = materialize(root, "picked", picks, WritingTask(shards=Shards(shards), corpus=corpus, config=LANES), 0.05)
    rows = example_rows(made)
    assert {row["key"]: row["media"] for row in rows} == {3: media[0][3], (2 << 32) + 5: media[0][5]}
    (data / f"2.{form}").unlink()
    with pytest.raises(InputError, match=f"2.{form}' vanished since it was indexed"):
        materialize(root, "again", picks, WritingTask(shards=Shards(shards), corpus=corpus, config=LANES), 0.05)


def test_a_jpeg_above_the_limit_of_the_views_is_left_out(ray_local, tmp_path, media):
    large = bombs.jpeg(8000, 8000)
    corpus = Corpus(uri=(str(write_parquet(tmp_path / "0.parquet", [media[0][0], large])),))
    root = Root.open(str(tmp_path / "root"))
    shards, picks = index_corpus(root, "unlabeled", corpus), picks_of(root, [(0, 0), (0, 1)])
    task = WritingTask(shards=Shards(shards), corpus=corpus, config=LANES, max_jpeg_pixels=50_000_000)
    made = materialize(root, "picked", picks, task, 1.0)
    (row,) = media_of(made).table("rejects-", REJECTS).to_pylist()
    assert row["key"] == 1 and row["detail"] == "8000 x 8000, limit 50000000 (view.max_jpeg_pixels)"
    assert media_of(made).identity["max_jpeg_pixels"] == 50_000_000


def test_samples_read_from_a_changed_shard_are_not_kept(ray_local, tmp_path, media):
    data, root = tmp_path / "data", Root.open(str(tmp_path / "root"))
    data.mkdir()
    path = write_parquet(data / "0.parquet", media[0])
    corpus = Corpus(uri=(str(data),))
    shards = index_corpus(root, "unlabeled", corpus)
    picks = picks_of(root, [(0, key) for key in range(150)])
    whole = path.read_bytes()
    write_parquet(path, media[0][::-1])  # the same number of rows, all readable
    with pytest.raises(InputError, match="0.parquet' changed since it was indexed"):
        materialize(root, "picked", picks, WritingTask(shards=Shards(shards), corpus=corpus, config=LANES), 0.05)
    path.write_bytes(whole)
    made = materialize(root, "picked", picks, WritingTask(shards=Shards(shards), corpus=corpus, config=LANES), 0.05)
    rows = example_rows(made)
    assert {row["key"]: row["media"] for row in rows} == dict(enumerate(media[0]))


SCRIPT = """
import logging
import ray
from test_examples import materialize_many
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
materialize_many({data!r}, {root!r})
"""
MANY = 6 * 8 * 640 - 5  # six files of four lanes


def materialize_many(data: str, root: str) -> Artifact:
    corpus, opened = Corpus(uri=(data,)), Root.open(root)
    shards = index_corpus(opened, "unlabeled", corpus)
    picks = picks_of(opened, [(key % 10, key) for key in range(MANY)])
    return materialize(opened, "picked", picks, WritingTask(shards=Shards(shards), corpus=corpus, config=LANES), 0.05)


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bytes_and_repeats_no_part(ray_local, tmp_path, media):
    data = str(write_parquet(tmp_path / "0.parquet", [media[0][key % 150] for key in range(MANY)]))
    clean, killed = tmp_path / "clean", tmp_path / "killed"
    script = SCRIPT.format(data=data, root=str(killed))
    process = subprocess.Popen(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": f"{Path(__file__).parent}:{PYTHONPATH}"}
    )
    deadline = time.monotonic() + 200
    while not list(killed.glob("media-*/parts/*.json")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(killed.glob("media-*/manifest.json")), "the run ended before it was killed"
    examples = [materialize_many(data, str(root)) for root in (clean, killed)]
    assert contents(examples[0]) == contents(examples[1])
    one, two = map(media_of, examples)
    assert contents(one) == contents(two) and len(one.files("media-")) == 8
    assert one.info["images"] == MANY and 0 < two.info["images"] < MANY
    assert not list(killed.glob("media-*/scratch"))
