"""Embedded videos: scikit-learn's digits, each moving in one of eight directions. The classes are the directions."""

import numpy as np
import pyarrow as pa

from raylabel.media.encode import encode_mp4
from raylabel.store.artifact import Artifact, Built, Draft, Root, write_table

DIRECTIONS = ("east", "northeast", "north", "northwest", "west", "southwest", "south", "southeast")
SIDE = 16  # pixels of a frame; a digit is 8 pixels wide and wraps around at the edges
FRAMES, FPS = 16, 8
NOISE = 0.3
SPLIT = {"labeled": 2, "test": 50}  # videos per class; the unlabeled set has the rest
HALF_LABELED = 50  # videos per class of a half
_VIDEO = pa.schema([("video", pa.binary())])
_STEPS = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))  # down, right
_CRF = 12


def moving_digits(root: Root) -> Artifact:
    """scikit-learn's 1,797 digits (8x8, grey), each as a video: 16 frames of 16x16 pixels as MP4, in three parquet
    files with columns `video` and `label`.

    A digit starts at a random position, moves one pixel per frame and wraps around at the edges, over noise. No single
    frame shows its direction. labeled: 2 per class; test: 50 per class; unlabeled: the rest, without labels. Seed 0.
    """

    def build(draft: Draft) -> Built:
        media, directions = _videos()
        files, start = [], 0
        for name in ("labeled", "test", "unlabeled"):
            count = SPLIT[name] * len(DIRECTIONS) if name in SPLIT else len(media) - start
            rows = slice(start, start + count)
            columns = {"video": pa.array(media[rows], pa.binary())}
            if name in SPLIT:
                columns["label"] = pa.array([DIRECTIONS[d] for d in directions[rows]])
            files.append(write_table(draft.uri, f"{name}.parquet", pa.table(columns)))
            start += count
        return Built(files, {"videos": len(media)})

    return root.make("moving-digits", {**SPLIT, "seed": 0}, build)


def half_of_moving_digits(root: Root, diagonal: bool) -> Artifact:
    """The videos whose digits move along the sides of the frame, or diagonally, as a data set of their own: 50 of each
    of four directions, labeled, and the rest to test on. The files are those of `moving_digits`."""

    def build(draft: Draft) -> Built:
        whole = moving_digits(root)
        parts = ("labeled", "test", "unlabeled")  # in the order in which they were cut
        media = [v for part in parts for v in whole.table(part, _VIDEO, ["video"])["video"].to_pylist()]
        directions = np.arange(len(media)) % len(DIRECTIONS)
        files, own = [], np.flatnonzero(directions % 2 == diagonal)
        for name, rows in zip(("labeled", "test"), np.split(own, [4 * HALF_LABELED]), strict=True):
            columns = {"video": pa.array([media[i] for i in rows], pa.binary())}
            columns["label"] = pa.array([DIRECTIONS[d] for d in directions[rows]])
            files.append(write_table(draft.uri, f"{name}.parquet", pa.table(columns)))
        return Built(files, {"videos": len(own)})

    return root.make("moving-digits-half", {"diagonal": diagonal, "labeled": HALF_LABELED, "seed": 0}, build)


def _videos() -> tuple[list[bytes], np.ndarray]:
    """(MP4 files, their directions), in a random order."""
    from sklearn.datasets import load_digits

    digits = load_digits(return_X_y=True)[0].reshape(-1, 8, 8) / 16
    random = np.random.default_rng(0)
    order, directions = random.permutation(len(digits)), np.arange(len(digits)) % len(DIRECTIONS)
    pairs = zip(order, directions.tolist(), strict=True)
    return [encode_mp4(_frames(digits[i], d, random), FPS, _CRF) for i, d in pairs], directions


def _frames(digit: np.ndarray, direction: int, random: np.random.Generator) -> list[np.ndarray]:
    """FRAMES frames, uint8 [SIDE, SIDE, 3] each."""
    scene = np.zeros((SIDE, SIDE))
    scene[:8, :8] = digit
    scene = np.roll(scene, random.integers(SIDE, size=2), (0, 1))
    down, right = _STEPS[direction]
    noise = NOISE * random.random((FRAMES, SIDE, SIDE))
    frames = [(1 - NOISE) * np.roll(scene, (t * down, t * right), (0, 1)) + noise[t] for t in range(FRAMES)]
    return [np.repeat(np.round(255 * frame).astype(np.uint8)[:, :, None], 3, 2) for frame in frames]
