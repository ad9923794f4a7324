"""All odd images and clips of the shared folder, in a labeling run over each form of a corpus."""

import csv
import io
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from canary import canary
from helpers import open_in_chromium, random_model, write_parquet

from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus, index_corpus
from raylabel.labels.teacher import Label, TrainedNetwork
from raylabel.media import image as module
from raylabel.media.image import decode_image, decode_pixels
from raylabel.media.parsers import eval_parser, train_parser
from raylabel.media.rejects import Reject
from raylabel.media.sandbox.sandbox import Parser, Sandbox
from raylabel.media.view import View
from raylabel.schema import REJECTS, SCORES
from raylabel.store.artifact import Artifact, Root

VIEW = View(size=32, resize=36)
CONFIG = Label(batch=64, p=10, precision="fp32", reject_limit=1.0)

PICTURES = {  # damaged images, and images in formats that are not decoded → reject reason
    "00-truncated_jpeg.jpg": "truncated",
    "01-truncated_image.png": "truncated",
    "03-broken.png": "corrupt",
    "04-broken_data_stream.png": "corrupt",
    "21-decompression_bomb.gif": "too_many_pixels",
    "23-png_decompression_dos.png": "corrupt",
    "27-zero_width.gif": "corrupt",
    "40-unknown_compression_method.png": "corrupt",
    "47-hopper_webp.tif": "corrupt",
    "49-shortfile.bmp": "truncated",
    "50-badwidth.bmp": "too_many_pixels",
    "51-hopper.ico": "format_not_allowed",
    "53-test-card-lossless.jp2": "format_not_allowed",
    "54-crash-0e16d3bfb83be87356d026d66919deaefca44dac.tif": "corrupt",
    "55-hopper_unknown_pixel_mode.tif": "corrupt",
    "56-negative_size.ppm": "format_not_allowed",
    "58-truncated.jpg": "truncated",
    "59-truncated.gif": "truncated",
    "62-17000x17000.avif": "corrupt",
    "68-oss-fuzz-36829.jpeg": "corrupt",
    "70-monkey12.jpg": "corrupt",
    "74-empty.jpg": "empty",
    "77-half.jpg": "truncated",
    "78-header-only.jpg": "corrupt",
    "80-text.jpg": "unrecognized",
}
OTHER_CLIPS = {"15-result.webm": "empty", "26-newtonscradle.gif": None}  # a GIF is decoded as an image

Media = dict[str, bytes]


def rows_of(folder: Path) -> list[dict[str, str]]:
    """The rows of the folder's manifest."""
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def media(shared: Path) -> Media:
    """All files by name: 84 images and 31 clips."""
    found = {}
    for folder in ("odd-images", "videos"):
        found |= {row["file"]: (shared / folder / row["file"]).read_bytes() for row in rows_of(shared / folder)}
    assert len(found) == 115
    return found


@pytest.fixture(scope="module")
def reasons(shared: Path) -> dict[str, str]:
    """File → reject reason, of all files that are rejected."""
    clips = {row["file"]: "format_not_allowed" for row in rows_of(shared / "videos")}
    return {name: reason for name, reason in (PICTURES | clips | OTHER_CLIPS).items() if reason}


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
    return TrainedNetwork(network=random_model(root), view=VIEW, config=CONFIG, resources=Resources()).label(
        root, corpus, shards
    )


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_each_file_is_scored_or_is_in_rejects_with_its_name(
    form: str, media: Media, reasons: dict[str, str], ray_local: None, tmp_path: Path
):
    names, scores = list(media), run(tmp_path, FORMS[form](tmp_path, media))
    rejects = scores.table("rejects-", REJECTS).to_pylist()
    assert {names[row["key"]]: row["reason"] for row in rejects} == reasons
    scored = scores.table("scores-", SCORES)
    assert {names[key] for key in scored["key"].to_pylist()} == set(names) - set(reasons)
    for row in rejects:
        name = names[row["key"]]
        assert row["detail"].isprintable() and len(row["detail"]) <= 200
        assert row["stage"] == ("read" if row["reason"] == "empty" else "decode")
        end = {"parquet": f"a.parquet#{row['key']}", "webdataset": f"a.tar#{row['key']:03}.jpg",
               "list": f"/{name}", "folder": f"/{row['key']:03} {name}.jpg"}[form]  # fmt: skip
        assert row["uri"].endswith(end)
    info = scores.info
    assert (info["samples"], info["scored"], info["rejected"]) == (115, 115 - len(reasons), len(reasons))
    assert info["reasons"] == Counter(reasons.values())
    # The scores of good files do not change if the bad files are left out.
    good = {name: data for name, data in media.items() if name not in reasons}
    (tmp_path / "alone").mkdir()
    alone = run(tmp_path / "alone", as_parquet(tmp_path / "alone", good)).table("scores-", SCORES)
    assert alone.drop_columns(["key"]).equals(scored.drop_columns(["key"]))


def test_the_rejects_agree_with_the_manifest(shared: Path, reasons: dict[str, str]):
    """The manifest says which images can be decoded; formats that raylabel does not decode are left out."""
    for row in rows_of(shared / "odd-images"):
        reason = reasons.get(row["file"])
        assert (row["decodes"] == "yes") == (reason is None) or reason == "format_not_allowed", row["file"]


# torchvision has its own libjpeg, libpng, libwebp and giflib. Each file in its own process, because it crashes on some.
TORCHVISION = """
import os, sys, warnings
warnings.simplefilter("ignore")
import numpy as np, torch
from torchvision.io import ImageReadMode, decode_image
torch.set_num_threads(1)
modes = {0xFF: ImageReadMode.RGB, 0x89: ImageReadMode.RGB_ALPHA}
for name in sys.argv[1:]:
    if (pid := os.fork()) == 0:
        data = torch.frombuffer(bytearray(open(name, "rb").read()), dtype=torch.uint8)
        mode = modes.get(int(data[0]), ImageReadMode.UNCHANGED)
        found = decode_image(data, mode, apply_exif_orientation=True)
        with open(name + ".npy", "wb") as file:
            np.save(file, found.numpy(), allow_pickle=False)
        os._exit(0)
    os.waitpid(pid, 0)
"""


def over_white(found: np.ndarray) -> np.ndarray:
    """RGB [H, W, 3] of torchvision's output: [F, C, H, W] or [C, H, W] with 1 to 4 channels of 8 or 16 bits."""
    found = (found[0] if found.ndim == 4 else found).transpose(1, 2, 0)
    pixels = found / (257 if found.dtype == np.uint16 else 1)
    if pixels.shape[2] in (2, 4):
        alpha = pixels[..., -1:] / 255
        pixels = pixels[..., :-1] * alpha + 255 * (1 - alpha)
    return pixels if pixels.shape[2] == 3 else pixels.repeat(3, 2)


def same(found: np.ndarray, expected: np.ndarray) -> bool:
    # Two libjpegs may differ by 1, and rounding adds 1.
    return found.shape == expected.shape and bool(abs(found.astype(float) - expected).max() <= 2)


@pytest.mark.slow
def test_pixels_are_those_of_other_decoders(media: Media, reasons: dict[str, str], tmp_path: Path):
    """The pixels are those of torchvision or of a browser. torchvision ignores colours that mean transparency. The
    browser does not rotate WebPs, applies colour profiles, and draws a later frame of an animation."""
    good = {name: data for name, data in media.items() if name not in reasons and data[:2] not in (b"II", b"MM")}
    files = {name: tmp_path / f"{i}" for i, name in enumerate(good)}
    found, tops, height = {}, {}, 0
    for name, file in files.items():
        file.write_bytes(good[name])
        found[name], tops[name] = decode_pixels(good[name]), height
        height += found[name].shape[0]
    command = [sys.executable, "-c", TORCHVISION, *map(str, files.values())]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    page = tmp_path / "page.html"
    tag = '<img src="{}" style="position:absolute;left:0;top:{}px">'
    drawn = "".join(tag.format(file.name, tops[name]) for name, file in files.items())
    page.write_text(f'<!doctype html><body style="margin:0;background:white">{drawn}')
    console, screen = open_in_chromium(page, tmp_path, height)
    assert console == []

    by: Counter[str] = Counter()
    differ = []
    for name, pixels in found.items():
        other = files[name].with_suffix(".npy")
        turned = name == "11-hopper_orientation_5.webp"
        tall, wide, _ = pixels.shape
        browser = screen[tops[name] : tops[name] + tall, :wide]
        agree = {
            "torchvision": other.exists() and same(pixels, over_white(np.load(other))),
            "browser": same(pixels, browser.swapaxes(0, 1) if turned else browser),
        }
        by.update(decoder for decoder, agrees in agree.items() if agrees)
        if not any(agree.values()):
            differ.append(name)
    assert differ == [
        "26-iss634.webp"
    ]  # an animation: torchvision cannot decode it, and the browser shows frame 2 to 8
    assert by["torchvision"] > 40 and by["browser"] > 40


# Data that is not an image --------------------------------------------------------------------------------------------

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
    """Makes the test fail if it calls a parser."""

    def parse(*_, **__):
        raise AssertionError("parsed")

    monkeypatch.setattr(module, "_open", parse)
    monkeypatch.setattr(simplejpeg, "decode_jpeg", parse)


def refusal(data: bytes) -> str:
    for decode in (decode_image, decode_pixels):
        with pytest.raises(Reject) as caught:
            decode(data)
    return caught.value.reason


@pytest.mark.parametrize("name", TEXTS)
def test_data_that_is_not_an_image_is_not_parsed(name: str, unparsed: None):
    data = TEXTS[name].replace(b"HERE", b"127.0.0.1:9")
    assert refusal(data) == ("format_not_allowed" if name in NAMED else "unrecognized")


NAMED = {"m3u8", "m3u8 of a file", "ffconcat", "sdp", "svg", "eps", "eps for DOS", "pdf"}


def test_clips_are_not_parsed_as_images(media: Media, reasons: dict[str, str], unparsed: None):
    for name, data in media.items():
        if reasons.get(name) == "format_not_allowed":
            assert refusal(data) == "format_not_allowed", name


@pytest.mark.slow
def test_addresses_in_files_are_not_opened():
    view = View(size=8, resize=8)
    with canary() as port:
        texts = [data.replace(b"HERE", b"127.0.0.1:%d" % port) for data in TEXTS.values()]
        for parser in (eval_parser, train_parser):
            out = np.empty((len(texts), 8, 8, 3), np.uint8)
            with Sandbox(Parser.of(parser, view=view)) as sandbox:
                found = sandbox.fill(out, texts, [(0, 0, i) for i in range(len(texts))])
            assert all(reject and reject.reason in ("unrecognized", "format_not_allowed") for reject in found)
