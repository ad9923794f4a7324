"""Photographs that need no data set, and altered copies of them."""

import io
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import torch
from PIL import Image, ImageEnhance
from sklearn.datasets import load_sample_images

from raylabel.features.thumbnails import thumbnails
from raylabel.inference.pictures import PICTURES
from raylabel.schema import THUMBNAILS
from raylabel.selection.samples import Samples
from raylabel.store.artifact import Artifact, Built, Root, write_table

SIDE = 96


def photographs(count: int, seed: int = 0) -> list[Image.Image]:
    """Windows of two photographs in turn, of different sizes, without those of little but sky."""
    rng, found = np.random.default_rng(seed), []
    pictures = [Image.fromarray(picture) for picture in load_sample_images().images]
    while len(found) < count:
        picture, side = pictures[len(found) % 2], int(rng.integers(64, 200))
        left, top = (int(rng.integers(0, size - side)) for size in picture.size)
        window = picture.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        if np.abs(np.diff(np.asarray(window.convert("L")).astype(int), axis=0)).mean() > 6:
            found.append(window)
    return found


def jpeg(picture: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def crop(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Up to 6% off each side, scaled back."""
    width, height = picture.size
    left, top, right, bottom = (float(rng.uniform(0, 0.06)) for _ in range(4))
    box = left * width, top * height, width * (1 - right), height * (1 - bottom)
    return picture.resize(picture.size, Image.Resampling.BICUBIC, box=box)


def resize(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    side = int(rng.uniform(0.5, 2) * picture.width)
    return picture.resize((side, side), Image.Resampling.BICUBIC)


COPIES: dict[str, Callable[[Image.Image, np.random.Generator], Image.Image]] = {
    "jpeg": lambda picture, rng: jpeg(picture, int(rng.integers(30, 86))),
    "resize": resize,
    "bright": lambda picture, rng: ImageEnhance.Brightness(picture).enhance(float(rng.uniform(0.85, 1.15))),
    "crop": crop,
    "combo": lambda picture, rng: jpeg(resize(crop(picture, rng), rng), int(rng.integers(30, 86))),
}


def thumbnails_of(pictures: list[Image.Image]) -> np.ndarray:
    """uint8 [n, numbers of a thumbnail]."""
    same = [np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR)) for picture in pictures]
    return thumbnails(torch.from_numpy(np.stack(same))).numpy()


def encoded(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def samples_of(digests: list[int], groups: list[int], pictures: np.ndarray | None = None) -> Samples:
    """Samples with keys 0, 3, 6 ..."""
    digest = np.array([bytes([one]) * 16 for one in digests], "S16")
    return Samples(np.arange(len(digests)) * 3, digest, np.array(groups, np.int64), pictures)


def stored(root: Root, name: str, parts: list[Samples]) -> Artifact:
    """PICTURES with THUMBNAILS, in parts."""

    def build(draft):
        files = []
        for number, some in enumerate(parts):
            digest = pa.array([one.ljust(16, b"\0") for one in some.digest.tolist()], pa.binary(16))
            table = pa.table([pa.array(some.key), digest, pa.array(some.group)], schema=PICTURES)
            files.append(write_table(draft.uri, f"pictures-{number:06d}.parquet", table))
            if some.thumbnail is not None:
                pixels = pa.array([one.tobytes() for one in some.thumbnail], THUMBNAILS.field(1).type)
                beside = pa.table([pa.array(some.key), pixels], schema=THUMBNAILS)
                files.append(write_table(draft.uri, f"thumbnails-{number:06d}.parquet", beside))
        return Built(files, {})

    return root.make("pictures", {"name": name}, build)
