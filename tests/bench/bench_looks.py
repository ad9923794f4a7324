"""Whether a network that memorized random labels looks at the object, by Grad-CAM: digits in noise, three seeds.

    python tests/bench/bench_looks.py
    python tests/bench/bench_looks.py --quick       # one seed, and a tenth of the training

500 of scikit-learn's digits, 16 x 16 pixels each, lie at random places of 32 x 32 pixels of noise, so that what a
network looks at can be compared with where the object is. Networks are trained on random and on true labels until they
know these pictures; an untrained one is the control. For each picture and the class that was learned for it: whether
the map's maximum lies on the digit (pointing game, Zhang et al. 2016, arXiv 1608.00507), and the share of the map's sum
on it; a map of zeros has neither. The digit's square has a quarter of the picture. Settings were fixed before any
result was seen.
"""

import io
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from figures import print_paired, print_value
from PIL import Image
from processes import accuracy_arguments, connect
from sklearn.datasets import load_digits

from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus
from raylabel.evaluate.grad_cam import class_maps
from raylabel.evaluate.learning_curve import LearningCurve
from raylabel.media.image_views import normalise
from raylabel.models.build import build
from raylabel.models.trained import load_model
from raylabel.pipelines.random_labels import RandomLabelsRun
from raylabel.recipes.memorized import CIFAR10, random_digits
from raylabel.recipes.random_labels import LabeledSet, RandomPretraining
from raylabel.schema import PICKS
from raylabel.store.artifact import Root
from raylabel.training.schedule import Schedule

PICTURES, SIDE, DIGIT, NOISE = 500, 32, 16, 0.5
ARMS = ("true", "random", "untrained")


def main() -> None:
    arguments = accuracy_arguments(__doc__)
    with tempfile.TemporaryDirectory(prefix="bench-looks-") as folder:
        connect()
        root = Root.open(arguments.root or f"{folder}/root")
        pixels, labels, corners = made()
        recipe = recipe_of(Path(arguments.root or folder), pixels, labels, arguments.quick)
        recipe = replace(recipe, resources=Resources(workers=arguments.workers))
        found: dict[str, dict[str, list[float]]] = {}
        for seed in (0,) if arguments.quick else (0, 1, 2):
            for arm in ARMS:
                for figure, value in looked_at(root, replace(recipe, seed=seed), arm, pixels, labels, corners).items():
                    found.setdefault(figure, {}).setdefault(arm, []).append(value)
        for figure, arms in found.items():
            for arm, values in arms.items():
                print_value("looks", f"{arm}: {figure}", values, "%")
        if not arguments.quick:
            for figure in (MAXIMUM, SHARE):
                for arm in ARMS[1:]:
                    print_paired("looks", f"{arm} minus true, {figure}", found[figure][arm], found[figure]["true"])


LEARNED, MAXIMUM, SHARE, ZERO = "learned", "maximum on the digit", "share of the map on the digit", "maps of zeros"


def looked_at(
    root: Root, recipe: RandomPretraining, arm: str, pixels: np.ndarray, labels: np.ndarray, corners: np.ndarray
) -> dict[str, float]:
    """The figures of a network, in percent."""
    figures = dict[str, float]()
    if arm == "untrained":
        torch.manual_seed(recipe.seed)
        network, classes = build(recipe.model, 10), labels
    else:
        kind = "true" if arm == "true" else "random"
        run = RandomLabelsRun(root, recipe)
        trained, picks = run.pretrained("first", kind), run.picks("first", kind)
        curve = LearningCurve.of(trained, run._stored("first", picks), recipe.pretrain.validate)
        figures[LEARNED] = 100 * curve.kept.accuracy
        network, classes = load_model(trained), picks.table("picks-", PICKS).sort_by("key")["label"].to_numpy()
    images = normalise(torch.from_numpy(pixels), recipe.view)
    maps = class_maps(network, images, torch.from_numpy(classes.astype(np.int64))).numpy()
    seen = maps.any((1, 2))
    at = np.stack(np.unravel_index(maps.reshape(len(maps), -1).argmax(1), (SIDE, SIDE)), 1)
    on = (at >= corners).all(1) & (at < corners + DIGIT).all(1)
    inside = [maps[i, y : y + DIGIT, x : x + DIGIT].sum() for i, (y, x) in enumerate(corners)]
    figures[MAXIMUM] = 100 * float((on & seen).mean())
    figures[SHARE] = 100 * float((np.array(inside)[seen] / maps[seen].sum((1, 2))).mean())
    figures[ZERO] = 100 * float((~seen).mean())
    return figures


def made() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pictures uint8 [PICTURES, SIDE, SIDE, 3], their digits, and the upper left corners [PICTURES, 2] (y, x) of the
    digits' squares."""
    random = np.random.default_rng(0)
    digits, labels = load_digits(return_X_y=True)
    digits = np.asarray(digits)[:PICTURES].reshape(-1, 8, 8).repeat(2, 1).repeat(2, 2) / 16
    corners = random.integers(0, SIDE - DIGIT + 1, (PICTURES, 2))
    grey = NOISE * random.random((PICTURES, SIDE, SIDE))
    for picture, digit, (y, x) in zip(grey, digits, corners, strict=True):
        square = picture[y : y + DIGIT, x : x + DIGIT]
        np.maximum(square, digit, out=square)
    pixels = np.round(255 * grey).astype(np.uint8)[..., None].repeat(3, 3)
    return pixels, np.asarray(labels)[:PICTURES], corners


def recipe_of(folder: Path, pixels: np.ndarray, labels: np.ndarray, quick: bool) -> RandomPretraining:
    folder.mkdir(parents=True, exist_ok=True)
    path, media = folder / "digits-in-noise.parquet", list[bytes]()
    for picture in pixels:
        out = io.BytesIO()
        Image.fromarray(picture).save(out, "PNG")
        media.append(out.getvalue())
    table = {"image": pa.array(media, pa.binary()), "label": pa.array(labels, pa.int32())}
    pq.write_table(pa.table(table), path)
    digits, recipe = Corpus(uri=(str(path),)), random_digits()
    one = LabeledSet(name="digits in noise", labeled=digits, test=digits)  # nothing is tested here
    pretrain = replace(
        recipe.pretrain, images=3_000 if quick else 30_000, schedule=Schedule(lr=0.05, warmup=0, drops=0)
    )
    return replace(recipe, name="looks", first=one, second=one, holdout=0.2, view=CIFAR10, pretrain=pretrain)


if __name__ == "__main__":
    main()
