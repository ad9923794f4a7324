"""The pictures and films of picked samples that the page shows."""

import io
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import png, write_parquet
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from raylabel.corpus import Corpus, Shards
from raylabel.media.encode import encode_mp4
from raylabel.media.video import Video
from raylabel.media.view import MAX_JPEG_PIXELS
from raylabel.report.previews import read_previews
from raylabel.report.run import shown_picks
from raylabel.report.thumbnails import film, thumbnail
from raylabel.schema import PICKS
from raylabel.store.artifact import Built, Draft, Root, write_table

Index = Callable[[Corpus], Shards]


def test_pictures_become_thumbnails(indexed: Index, tmp_path: Path) -> None:
    media = [png(np.full((20, 30, 3), 40 * i, np.uint8)) for i in range(5)]
    media[2] = b"no picture"
    corpus = Corpus(uri=(str(write_parquet(tmp_path / "p.parquet", media)),))
    previews = read_previews(corpus, indexed(corpus), [0, 2, 4], MAX_JPEG_PIXELS)
    assert previews == {key: (thumbnail(Image.open(io.BytesIO(media[key]))), None) for key in (0, 4)}


@pytest.mark.long
def test_videos_become_films_of_their_segments(indexed: Index, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    videos = [encode_mp4(rng.integers(0, 255, (40, 32, 48, 3), np.uint8), 10) for _ in range(4)]
    media = [*videos[:3], b"no video", None, videos[3]]
    start, end = [None, 1.0, 0.5, None, None, 3.0], [None, 3.0, None, None, None, 9.0]
    pq.write_table(pa.table({"video": media, "start": start, "end": end}), tmp_path / "p.parquet", row_group_size=2)
    corpus = Corpus(uri=(str(tmp_path / "p.parquet"),), kind="video", start="start", end="end")
    previews = read_previews(corpus, indexed(corpus), [0, 1, 2, 3, 4, 5], MAX_JPEG_PIXELS)
    segments = {0: None, 1: (1.0, 3.0), 2: (0.5, float("inf")), 5: (3.0, 9.0)}
    assert previews == {key: film(Video(media[key] or b"", segment)) for key, segment in segments.items()}
    assert [round(shown.seconds, 3) for _, shown in previews.values() if shown] == [4.0, 2.0, 3.5, 1.0]


@settings(max_examples=40)
@given(
    per_class=st.lists(st.integers(0, 30), min_size=1, max_size=12),
    shown=st.sets(st.integers(0, 11), min_size=1),
    cuts=st.lists(st.integers(0, 300), max_size=4),
    batch=st.integers(1, 40),
)
def test_the_picks_that_are_shown_are_those_of_the_ladder_of_ranks(
    per_class: list[int], shown: set[int], cuts: list[int], batch: int
) -> None:
    """Whatever the files and batches; a class without picks is not shown."""
    rows = [(c, rank) for c, count in enumerate(per_class) for rank in range(1, count + 1)]
    table = pa.table(
        [*map(list, zip(*rows, strict=True)), np.arange(len(rows)) / 7, np.arange(len(rows)) * 3] if rows else [[]] * 4,
        schema=PICKS,
    )
    ends = sorted({0, len(rows), *(cut for cut in cuts if cut < len(rows))})

    def build(draft: Draft) -> Built:
        parts = [table[start:end] for start, end in zip(ends, ends[1:], strict=False)]
        return Built(
            [write_table(draft.uri, f"picks-{i:05d}.parquet", part) for i, part in enumerate(parts)],
            {"per_class": per_class},
        )

    classes = sorted(c for c in shown if c < len(per_class)) or [0]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("raylabel.report.run.BATCH_ROWS", batch)
        found = shown_picks(Root.open(folder).make("picks", {}, build), np.array(classes))
    ladder = {1, 2, 5, 10, 20, 50}
    wanted = [
        row
        for row in table.to_pylist()
        if row["label"] in classes and (row["rank"] in ladder or row["rank"] == per_class[row["label"]])
    ]
    assert list(zip(*(column.tolist() for column in found), strict=True)) == [tuple(row.values()) for row in wanted]
