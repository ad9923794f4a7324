"""scikit-learn's handwritten digits as a corpus: real data that needs no download."""

import io

import numpy as np
import pyarrow as pa
from PIL import Image

from raylabel.store.artifact import Artifact, Built, Draft, Root, write_table

DIGITS_LABELED, DIGITS_TEST = 5, 50  # images per class
HALF_LABELED = 40  # images per class of a half


def digits(root: Root) -> Artifact:
    """scikit-learn's 1,797 handwritten digits (8x8, grey; Alpaydin and Kaynak 1998) as PNG in three parquet files.

    labeled: 5 per class; test: 50 per class; unlabeled: the rest, without labels. The split is random, with seed 0.
    """

    def build(draft: Draft) -> Built:
        media, labels, order, by_class = _shuffled()
        labeled = np.concatenate([some[:DIGITS_LABELED] for some in by_class])
        test = np.concatenate([some[DIGITS_LABELED : DIGITS_LABELED + DIGITS_TEST] for some in by_class])
        unlabeled = np.setdiff1d(order, np.concatenate([labeled, test]))
        files = []
        for name, rows in (("labeled", labeled), ("unlabeled", unlabeled), ("test", test)):
            columns = {"image": pa.array([media[i] for i in rows], pa.binary())}
            if name != "unlabeled":
                columns["label"] = pa.array(labels[rows], pa.int32())
            files.append(write_table(draft.uri, f"{name}.parquet", pa.table(columns)))
        return Built(files, {"images": len(labels)})

    return root.make("digits", {"labeled": DIGITS_LABELED, "test": DIGITS_TEST, "seed": 0}, build)


def half_of_digits(root: Root, first: int) -> Artifact:
    """Five of the digits, from `first` on, as a data set of their own: 40 images of each, labeled, and the rest to test
    on. The split is random, with seed 0."""

    def build(draft: Draft) -> Built:
        media, labels, _, by_class = _shuffled()
        own = by_class[first : first + 5]
        files = []
        for name, cut in (("labeled", slice(HALF_LABELED)), ("test", slice(HALF_LABELED, None))):
            rows = np.concatenate([some[cut] for some in own])
            columns = {"image": pa.array([media[i] for i in rows], pa.binary()), "label": labels[rows].astype(str)}
            files.append(write_table(draft.uri, f"{name}.parquet", pa.table(columns)))
        return Built(files, {"images": sum(map(len, own))})

    return root.make("digits-half", {"first": first, "labeled": HALF_LABELED, "seed": 0}, build)


def _shuffled() -> tuple[list[bytes], np.ndarray, np.ndarray, list[np.ndarray]]:
    """(the images, their labels [1797], their indices in a random order [1797], and those of each class)."""
    from sklearn.datasets import load_digits

    images, labels = map(np.asarray, load_digits(return_X_y=True))
    media = [_png(np.round(image.reshape(8, 8) * (255 / 16)).astype(np.uint8)) for image in images]
    order = np.random.default_rng(0).permutation(len(labels))
    return media, labels, order, [order[labels[order] == c] for c in range(10)]


def _png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()
