"""A corpus of real photographs for the benches: JPEGs of about 500 x 375 and 60 KB, as parquet shards and as files.

Every image is a random crop of one of the photographs in scikit-image and scikit-learn. Its number is the seed, so all
machines build the same corpus. Image i is of photograph i mod len(PHOTOGRAPHS), which is its class.
"""

import io
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from processes import CORES

PHOTOGRAPHS = (
    "astronaut",
    "coffee",
    "chelsea",
    "rocket",
    "hubble_deep_field",
    "immunohistochemistry",
    "motorcycle",
    "china",
    "flower",
)
ROWS = 64  # images per shard, a unit of work for raylabel; small, so that all actors end at about the same time
SCHEMA = pa.schema([pa.field("id", pa.int64()), pa.field("image", pa.binary())])


@dataclass(frozen=True)
class Photographs:
    """The folder contains `distinct` shards. If more are requested, they are hard links to these, with new numbers."""

    folder: str
    distinct: int

    def shards(self, count: int) -> list[str]:
        """Paths of the first `count` shards, by number. Row r of shard s is image `image_id(s, r)`."""
        return [self._numbered("shards", "parquet", i, self.distinct) for i in range(count)]

    def files(self, count: int) -> list[str]:
        """Paths of the first `count` images as files."""
        return [self._numbered("files", "jpg", i, self.distinct * ROWS) for i in range(count)]

    def image_id(self, shard: np.ndarray, row: np.ndarray) -> np.ndarray:
        """The number of the distinct image in a row of a shard."""
        return shard % self.distinct * ROWS + row

    def read(self, count: int) -> list[bytes]:
        """The encoded bytes of the first `count` images."""
        return [Path(path).read_bytes() for path in self.files(count)]

    def _numbered(self, kind: str, extension: str, number: int, distinct: int) -> str:
        path = f"{self.folder}/{kind}/{number:06d}.{extension}"
        if number >= distinct and not os.path.exists(path):
            os.link(f"{self.folder}/{kind}/{number % distinct:06d}.{extension}", path)
        return path


def build(folder: str, images: int) -> Photographs:
    """The corpus of `images`, rounded up to whole shards; built unless it exists."""
    made = Photographs(folder, -(-images // ROWS))
    done = Path(folder) / f"complete-{made.distinct}"
    if not done.exists():
        for kind in ("shards", "files"):
            (Path(folder) / kind).mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor(CORES, get_context("spawn")) as pool:
            sizes = list(pool.map(_write_shard, [folder] * made.distinct, range(made.distinct)))
        done.write_text(f"{sum(sizes) / made.distinct / ROWS:.0f} bytes per image\n")
    return made


def _write_shard(folder: str, shard: int) -> int:
    ids = range(shard * ROWS, (shard + 1) * ROWS)
    media = [_jpeg(i) for i in ids]
    for i, data in zip(ids, media, strict=True):
        Path(f"{folder}/files/{i:06d}.jpg").write_bytes(data)
    pq.write_table(
        pa.table([list(ids), media], schema=SCHEMA), f"{folder}/shards/{shard:06d}.parquet", row_group_size=64
    )
    return sum(map(len, media))


def _jpeg(number: int) -> bytes:
    """A crop of 75 to 100% of the largest window of that shape, possibly mirrored, with another brightness."""
    rng = np.random.default_rng(number)
    photograph = _photograph(PHOTOGRAPHS[number % len(PHOTOGRAPHS)])
    width, height = (round(side * rng.uniform(0.9, 1.1)) for side in (500, 375))
    scale = rng.uniform(0.75, 1) * min(photograph.width / width, photograph.height / height)
    left = rng.uniform(0, photograph.width - width * scale)
    top = rng.uniform(0, photograph.height - height * scale)
    box = (left, top, left + width * scale, top + height * scale)
    image = photograph.resize((width, height), Image.Resampling.BICUBIC, box=box)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = image.point((np.arange(256) * rng.uniform(0.8, 1.1)).clip(0, 255).astype(np.uint8).tolist() * 3)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=int(rng.integers(91, 96)), subsampling="4:2:0")
    return out.getvalue()


@cache
def _photograph(name: str) -> Image.Image:
    if name in ("china", "flower"):
        from sklearn.datasets import load_sample_image

        return Image.fromarray(load_sample_image(f"{name}.jpg"))
    from skimage import data  # pyright: ignore[reportMissingImports]

    pixels = data.stereo_motorcycle()[0] if name == "motorcycle" else getattr(data, name)()
    return Image.fromarray(pixels)
