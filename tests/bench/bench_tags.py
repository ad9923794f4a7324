"""Top-1 of supervised, weakly supervised, semi-supervised and semi-weakly supervised training, over three paired seeds.

    python tests/bench/bench_tags.py --data DIR            # DIR: the folder with cifar10
    python tests/bench/bench_tags.py --sets moving-digits  # embedded videos
    python tests/bench/bench_tags.py --quick               # one seed and short trainings

Yalniz et al. 2019, tables 6 and 7, on small sets. Half of the samples of each class have its tag, and 30% of all tags
are of another class: tags made from the truth with a recall of 50% and a precision of 70%. Supervised: the control, on
as many images as a student. Weak: a student of K random samples of each tag, fine-tuned on the labels. Semi: a student
of the picks of a teacher that was trained on the labels. Semi-weak: the same, but the teacher was pre-trained on the
tags before. Teacher and student have the same architecture. The lengths were fixed before any result was seen.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from figures import print_paired, print_value
from processes import accuracy_arguments, connect

from raylabel import datasets
from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus
from raylabel.datasets.moving_digits import DIRECTIONS, SPLIT
from raylabel.evaluate.precision import Truth
from raylabel.evaluate.results import CONTROL, PRECISION, PRETRAINED, STUDENT, TEACHER, TOP1, require
from raylabel.labels.tags import Tags
from raylabel.models import Model
from raylabel.models.init import Init
from raylabel.pipelines.semi_supervised import Run
from raylabel.recipes import registry as recipes
from raylabel.recipes.recipe import Recipe, Teacher
from raylabel.selection.config import Select
from raylabel.store.artifact import Root

RIGHT, FOUND = 0.7, 0.5
"""Precision and recall of the tags."""
Make = Callable[[str, Path, int, int, int], Recipe]
"""(folder of the sets, folder for other files, seed, workers, scale) → a recipe whose corpus has tags."""
SUPERVISED, WEAK, SEMI, SEMI_WEAK = "supervised", "weak", "semi", "semi-weak"


def tagged(table: pa.Table, label: np.ndarray, names: list[str], path: Path) -> Corpus:
    """The corpus of a table with a column `tags`, written with the true labels beside it. `label`: int64 [N]."""
    rng, count = np.random.default_rng(0), len(label)
    tags: list[list[str]] = [[] for _ in range(count)]
    have = np.flatnonzero(rng.random(count) < FOUND)
    for row in have.tolist():
        tags[row].append(names[label[row]])
    for row in rng.choice(count, round(len(have) * (1 - RIGHT) / RIGHT), replace=False).tolist():
        other = (label[row] + rng.integers(1, len(names))) % len(names)
        tags[row].append(names[other])
    column = pa.array(tags, pa.list_(pa.string()))
    pq.write_table(table.append_column("tags", column), path, row_group_size=500)
    ids = [str(row) for row in range(count)] if "id" not in table.column_names else table["id"]
    pq.write_table(pa.table({"id": ids, "label": pa.array(label, pa.int32())}), truth_of(path))
    return Corpus(uri=(str(path),), kind="video" if "video" in table.column_names else "image")


def truth_of(path: Path) -> Path:
    return path.with_name("truth.parquet")


def cifar10(data: str, folder: Path, seed: int, workers: int, scale: int) -> Recipe:
    data = f"{data}/cifar10"
    path, recipe = folder / "cifar10.parquet", recipes.cifar10(data)
    table = pa.concat_tables(pq.read_table(f"{data}/unlabeled-{part}.parquet") for part in (0, 1)).sort_by("id")
    truth = table.select(["id"]).join(pq.read_table(f"{data}/unlabeled-truth.parquet"), "id").sort_by("id")
    names = Path(f"{data}/classes.txt").read_text().split()
    train, model = replace(recipe.pretrain, images=20_000 // scale), Model(arch="resnet8x1")
    return replace(
        recipe,
        unlabeled=tagged(table, truth["label"].to_numpy().astype(np.int64), names, path),
        truth=Truth(uri=str(truth_of(path))),
        teacher=Teacher(model=model, train=train),
        select=Select(k=3_000, p=2),
        student=model,
        pretrain=train,
        finetune=replace(recipe.finetune, images=2_000 // scale),
        seed=seed,
        resources=Resources(workers=workers),
    )


def moving_digits(_: str, folder: Path, seed: int, workers: int, scale: int) -> Recipe:
    recipe = recipes.moving_digits()
    (uri,) = datasets.resolve(Root.open(f"{folder}/root"), recipe.unlabeled).uri
    table = pq.read_table(uri)
    first = sum(SPLIT.values()) * len(DIRECTIONS)
    label = (first + np.arange(len(table))) % len(DIRECTIONS)
    table = table.append_column("id", pa.array([str(row) for row in range(len(table))]))
    path = folder / "moving-digits.parquet"
    # The classes of the labeled set are the directions in alphabetical order.
    names: list[str] = sorted(DIRECTIONS)
    of_label = np.array([names.index(name) for name in DIRECTIONS])[label]
    assert recipe.teacher.train
    return replace(
        recipe,
        unlabeled=tagged(table, of_label, names, path),
        truth=Truth(uri=str(truth_of(path))),
        teacher=replace(recipe.teacher, train=replace(recipe.teacher.train, images=4_000 // scale)),
        pretrain=replace(recipe.pretrain, images=8_000 // scale),
        finetune=replace(recipe.finetune, images=1_000 // scale),
        seed=seed,
        resources=Resources(workers=workers),
    )


SETS: Mapping[str, Make] = {"cifar10": cifar10, "moving-digits": moving_digits}


def main() -> None:
    arguments = accuracy_arguments(__doc__, sets=SETS)
    with tempfile.TemporaryDirectory(prefix="bench-tags-") as temporary:
        connect()
        folder = Path(arguments.root or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        root = Root.open(f"{folder}/root")
        for name in arguments.sets:
            found: dict[str, list[float]] = {}
            for seed in (0,) if arguments.quick else (0, 1, 2):
                scale = 10 if arguments.quick else 1
                recipe = SETS[name](arguments.data, folder, seed, arguments.workers, scale)
                for figure, value in measure(root, recipe).items():
                    found.setdefault(figure, []).append(value)
                    print_value("tags", f"{name}, seed {seed}: {figure}", [value], "%")
            for figure, values in found.items():
                print_value("tags", f"{name}: {figure}", values, "%")
            if not arguments.quick:
                for mine, other in ((WEAK, SUPERVISED), (SEMI, SUPERVISED), (SEMI_WEAK, WEAK), (SEMI_WEAK, SEMI)):
                    print_paired("tags", f"{name}: {mine} over {other}", found[mine], found[other])


def measure(root: Root, recipe: Recipe) -> dict[str, float]:
    """Percent, by figure."""
    semi = Run(root, recipe).build()
    by_tags = replace(
        recipe,
        labeler="tags",
        tags=Tags(column="tags"),
        select=replace(recipe.select, p=1, rank="random"),
    )
    weak = Run(root, by_tags).build()
    learned = replace(recipe.finetune, init=Init(weights=weak.pretrained.uri))
    taught = replace(recipe, teacher=replace(recipe.teacher, train=learned))
    both = Run(root, taught).build()
    found = {SUPERVISED: top1(semi, CONTROL)}
    for name, run in ((WEAK, weak), (SEMI, semi), (SEMI_WEAK, both)):
        if run.recipe.taught:
            found[f"{name}: teacher"] = top1(run, TEACHER)
        found[f"{name}: picks with their true label"] = 100 * require(run.metrics, metric=PRECISION).value
        found[f"{name}: student before fine-tuning"] = top1(run, PRETRAINED)
        found[name] = top1(run, STUDENT)
    return found


def top1(run: Run, model: str) -> float:
    return 100 * require(run.metrics, metric=TOP1, model=model).value


if __name__ == "__main__":
    main()
