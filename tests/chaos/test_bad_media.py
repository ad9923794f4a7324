"""Every odd picture and clip that stands beside the repository, through a labeling run in each form of a corpus."""

import csv
import io
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from canary import canary
from helpers import png, random_model, write_parquet
from PIL import Image

from raylabel.artifact import Artifact, Root
from raylabel.corpus import Corpus, index_corpus
from raylabel.labels.teacher import Label, label
from raylabel.media.decode import Reject, decode_image, decode_pixels
from raylabel.media.views import View
from raylabel.resources import Resources
from raylabel.schema import REJECTS, SCORES

VIEW = View(size=32, resize=36)
CONFIG = Label(batch=64, p=10, precision="fp32", reject_limit=1.0)

REASONS: dict[str, str] = {}

Media = dict[str, bytes]


@pytest.fixture(scope="module")
def media(shared: Path) -> Media:
    """All files by name: 84 pictures and 31 clips."""
    found = {}
    for folder in ("odd-images", "videos"):
        rows = list(csv.DictReader((shared / folder / "manifest.csv").open(newline="")))
        found |= {row["file"]: (shared / folder / row["file"]).read_bytes() for row in rows}
    assert len(found) == 115
    return found


def as_parquet(folder: Path, media: Media) -> Corpus:
    return Corpus(uri=(str(write_parquet(folder / "a.parquet", list(media.values()), row_group_size=40)),))


def as_tar(folder: Path, media: Media) -> Corpus:
    with tarfile.open(folder / "a.tar", "w") as tar:
        for i, data in enumerate(media.values()):
            info = tarfile.TarInfo(f"{i:03}.jpg")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return Corpus(uri=(str(folder / "a.tar"),))


def as_list(folder: Path, media: Media) -> Corpus:
    for name, data in media.items():
        (folder / name).write_bytes(data)
    (folder / "list.txt").write_text("".join(f"{name}\n" for name in media), "utf-8")
    return Corpus(uri=(str(folder / "list.txt"),))


def as_folder(folder: Path, media: Media) -> Corpus:
    (folder / "c").mkdir()
    for i, (name, data) in enumerate(media.items()):
        (folder / "c" / f"{i:03} {name}.jpg").write_bytes(data)
    return Corpus(uri=(str(folder / "c"),))


FORMS: dict[str, Callable[[Path, Media], Corpus]] = {
    "parquet": as_parquet,
    "webdataset": as_tar,
    "list": as_list,
    "folder": as_folder,
}


def run(folder: Path, corpus: Corpus) -> Artifact:
    root = Root.open(str(folder / "root"))
    shards = index_corpus(root, "unlabeled", corpus)
    return label(root, random_model(root), shards, corpus, VIEW, CONFIG, Resources())


@pytest.fixture(scope="module")
def runs(media: Media, ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    made = {}
    for form, write in FORMS.items():
        folder = tmp_path_factory.mktemp(form)
        made[form] = run(folder, write(folder, media))
    return made


def test_each_file_is_scored_or_stands_in_rejects_by_name(media: Media, runs: dict[str, Artifact]):
    names = list(media)
    for form, scores in runs.items():
        info = scores.info
        rejects = scores.table("rejects-", REJECTS).to_pylist()
        found = {names[row["key"]]: row["reason"] for row in rejects}
        assert found == REASONS
        scored = scores.table("scores-", SCORES)
        assert {names[key] for key in scored["key"].to_pylist()} == set(names) - set(REASONS)
        for row in rejects:
            name = names[row["key"]]
            assert row["detail"].isprintable() and len(row["detail"]) <= 200
            assert row["stage"] == ("read" if row["reason"] == "empty" else "decode")
            end = {"parquet": f"a.parquet#{row['key']}", "webdataset": f"a.tar#{row['key']:03}.jpg",
                   "list": f"/{name}", "folder": f"/{row['key']:03} {name}.jpg"}[form]  # fmt: skip
            assert row["uri"].endswith(end)
        assert (info["samples"], info["scored"], info["rejected"]) == (115, 115 - len(REASONS), len(REASONS))
        counts = {reason: list(REASONS.values()).count(reason) for reason in REASONS.values()}
        assert info["reasons"] == counts


def test_every_form_gives_the_same_scores_and_rejects(runs: dict[str, Artifact]):
    def told(scores: Artifact) -> tuple[list[str], list[dict]]:
        columns = ["key", "stage", "reason", "detail"]
        return [f.sha256 for f in scores.files("scores-")], scores.table("rejects-", REJECTS, columns).to_pylist()

    parquet, *others = map(told, runs.values())
    assert all(other == parquet for other in others)


def test_neighbours_of_bad_ones_are_unharmed(media: Media, runs: dict[str, Artifact], tmp_path: Path):
    good = {name: data for name, data in media.items() if name not in REASONS}
    alone = run(tmp_path, as_parquet(tmp_path, good)).table("scores-", SCORES).drop_columns(["key"])
    beside = runs["parquet"].table("scores-", SCORES).drop_columns(["key"])
    assert alone.equals(beside)


def test_the_manifest_agrees(shared: Path, media: Media):
    """What its makers say of the pictures, but for the formats that are not decoded here."""
    rows = csv.DictReader((shared / "odd-images" / "manifest.csv").open(newline=""))
    for row in rows:
        reason = REASONS.get(row["file"])
        assert (row["decodes"] == "yes") == (reason is None) or reason == "format_not_allowed", row["file"]
    for row in csv.DictReader((shared / "videos" / "manifest.csv").open(newline="")):
        if row["bytes"] != "0" and not row["file"].endswith(".gif"):
            assert REASONS[row["file"]] == "format_not_allowed"


# torchvision brings libjpeg, libpng, libwebp and giflib of its own. Each file in a process: it crashes on some.
TORCHVISION = """
import os, sys, warnings
warnings.simplefilter("ignore")
import numpy as np, torch
from torchvision.io import ImageReadMode, decode_image
torch.set_num_threads(1)
for name in sys.argv[1:]:
    if (pid := os.fork()) == 0:
        data = torch.frombuffer(bytearray(open(name, "rb").read()), dtype=torch.uint8)
        mode = ImageReadMode.RGB if data[0] == 0xFF else ImageReadMode.UNCHANGED
        found = decode_image(data, mode, apply_exif_orientation=True)
        with open(name + ".npy", "wb") as file:
            np.save(file, found.numpy(), allow_pickle=False)
        os._exit(0)
    os.waitpid(pid, 0)
"""

# What torchvision does not decode, or otherwise on purpose.
NOT_COMPARED: dict[str, str] = {}


def over_white(found: np.ndarray) -> np.ndarray:
    """RGB [H, W, 3] of what torchvision gives: [F, C, H, W] or [C, H, W] of 1 to 4 channels, 8 or 16 bits."""
    found = (found[0] if found.ndim == 4 else found).transpose(1, 2, 0)
    pixels = found / (257 if found.dtype == np.uint16 else 1)
    if pixels.shape[2] in (2, 4):
        alpha = pixels[..., -1:] / 255
        pixels = pixels[..., :-1] * alpha + 255 * (1 - alpha)
    return pixels if pixels.shape[2] == 3 else pixels.repeat(3, 2)


def test_pixels_are_those_of_other_decoders(media: Media, tmp_path: Path):
    magics = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"GIF8")
    good = {name: data for name, data in media.items() if name not in REASONS and data.startswith(magics)}
    paths = {name: tmp_path / f"{i}" for i, name in enumerate(good)}
    for name, path in paths.items():
        path.write_bytes(good[name])
    command = [sys.executable, "-c", TORCHVISION, *map(str, paths.values())]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    differ = {}
    for name, data in good.items():
        found = decode_pixels(data).astype(float)
        other = paths[name].with_suffix(".npy")
        if not other.exists():
            differ[name] = "not decoded"
            continue
        expected = over_white(np.load(other))
        if found.shape != expected.shape:
            differ[name] = f"{found.shape}, expected {expected.shape}"
        elif (worst := abs(found - expected).max()) > 2:  # two libjpegs may differ by 1, and rounding adds 1
            differ[name] = f"{worst:.0f} of 255"
    assert differ == NOT_COMPARED
    assert len(good) - len(differ) > 40


# What is no picture -------------------------------------------------------------------------------------------------

TEXTS = {
    "m3u8": b"#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:10.0,\nhttp://HERE/a.ts\n#EXT-X-ENDLIST\n",
    "m3u8 of a file": b"#EXTM3U\n#EXTINF:10.0,\nconcat:http://HERE/a.m3u8|file:///etc/passwd\n",
    "ffconcat": b"ffconcat version 1.0\nfile 'http://HERE/a.mp4'\n",
    "sdp": b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=video 5004 RTP/AVP 96\r\n",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='http://HERE/a.png'/></svg>",
    "svg behind a declaration": b"<?xml version='1.0'?><!DOCTYPE svg SYSTEM 'http://HERE/a.dtd'><svg/>",
    "svg behind blanks": b"\n \t<svg onload='fetch(\"http://HERE/\")'/>",
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n",
    "eps for DOS": b"\xc5\xd0\xd3\xc6\x1e\0\0\0" + bytes(22) + b"%!PS-Adobe-3.0 EPSF-3.0\n",
    "pdf": b"%PDF-1.7\n1 0 obj<</URI(http://HERE/)>>endobj\n",
    "mvg": b"push graphic-context\nimage over 0,0 0,0 'https://HERE/a.png'\n",
    "html": b"<!doctype html><img src='http://HERE/a.png'>",
    "address": b"http://HERE/a.jpg",
    "asf reference": b"[Reference]\r\nRef1=http://HERE/a.asf\r\n",
    "dash": b"<MPD xmlns='urn:mpeg:dash:schema:mpd:2011'><BaseURL>http://HERE/</BaseURL></MPD>",
    "quicktime reference": b"\0\0\0\x2crmra\0\0\0\x24rmda\0\0\0\x1crdrf\0\0\0\0url http://HERE/a.mov",
    "numpy": b"\x93NUMPY\1\0v\0{'descr': '|O', 'fortran_order': False, 'shape': (1,), }" + bytes(60),
    "pickle": b"\x80\x04cposix\nsystem\n",
    "zip": b"PK\3\4" + bytes(60),
    "gzip": b"\x1f\x8b\x08" + bytes(60),
}


@pytest.fixture
def unparsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every parser fails the test that calls it."""

    def parse(*_, **__):
        raise AssertionError("parsed")

    monkeypatch.setattr(Image, "open", parse)
    monkeypatch.setattr(simplejpeg, "decode_jpeg", parse)


def refusal(data: bytes) -> str:
    for decode in (decode_image, decode_pixels):
        with pytest.raises(Reject) as caught:
            decode(data)
    return caught.value.reason


@pytest.mark.parametrize("name", TEXTS)
def test_what_is_no_picture_reaches_no_parser(name: str, unparsed: None):
    data = TEXTS[name].replace(b"HERE", b"127.0.0.1:9")
    assert refusal(data) == ("format_not_allowed" if name in NAMED else "unrecognized")


NAMED = {"m3u8", "m3u8 of a file", "ffconcat", "sdp", "svg", "eps", "eps for DOS", "pdf"}


def test_no_clip_reaches_a_parser(media: Media, unparsed: None):
    for name, data in media.items():
        if REASONS.get(name) == "format_not_allowed":
            assert refusal(data) == "format_not_allowed", name


def test_nobody_calls_where_a_file_says(ray_local: None, tmp_path: Path):
    """A run over the texts, under names of pictures and clips, alone and beside a picture."""
    with canary() as port:
        texts = [data.replace(b"HERE", b"127.0.0.1:%d" % port) for data in TEXTS.values()]
        media = {f"{i}.jpg": data for i, data in enumerate([*texts, png(np.zeros((8, 8), np.uint8))])}
        scores = run(tmp_path, as_list(tmp_path, media))
    assert (scores.info["scored"], scores.info["rejected"]) == (1, len(TEXTS))
    assert scores.info["reasons"] == {"unrecognized": len(TEXTS) - len(NAMED), "format_not_allowed": len(NAMED)}
