"""The pictures and films of picked samples that the page shows."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from helpers import png, write_parquet
from PIL import Image

from raylabel.corpus import Corpus, Shards
from raylabel.media.encode import encode_mp4
from raylabel.media.video import Video
from raylabel.media.view import MAX_JPEG_PIXELS
from raylabel.report.run import _previews
from raylabel.report.thumbnails import film, thumbnail

Index = Callable[[Corpus], Shards]


def test_pictures_become_thumbnails(indexed: Index, tmp_path: Path) -> None:
    media = [png(np.full((20, 30, 3), 40 * i, np.uint8)) for i in range(5)]
    media[2] = b"no picture"
    corpus = Corpus(uri=(str(write_parquet(tmp_path / "p.parquet", media)),))
    previews = _previews(corpus, indexed(corpus), [0, 2, 4], MAX_JPEG_PIXELS)
    assert previews == {key: (thumbnail(Image.open(io.BytesIO(media[key]))), None) for key in (0, 4)}


def test_videos_become_films_of_their_segments(indexed: Index, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    videos = [encode_mp4(rng.integers(0, 255, (40, 32, 48, 3), np.uint8), 10) for _ in range(4)]
    media = [*videos[:3], b"no video", None, videos[3]]
    start, end = [None, 1.0, 0.5, None, None, 3.0], [None, 3.0, None, None, None, 9.0]
    pq.write_table(pa.table({"video": media, "start": start, "end": end}), tmp_path / "p.parquet", row_group_size=2)
    corpus = Corpus(uri=(str(tmp_path / "p.parquet"),), kind="video", start="start", end="end")
    previews = _previews(corpus, indexed(corpus), [0, 1, 2, 3, 4, 5], MAX_JPEG_PIXELS)
    segments = {0: None, 1: (1.0, 3.0), 2: (0.5, float("inf")), 5: (3.0, 9.0)}
    assert previews == {key: film(Video(media[key] or b"", segment)) for key, segment in segments.items()}
    assert [round(shown.seconds, 3) for _, shown in previews.values() if shown] == [4.0, 2.0, 3.5, 1.0]
