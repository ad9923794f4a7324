"""Top-1 of the student for each K, over seeds, when most images of the corpus do not belong to any class.

    python tests/bench/bench_k.py --data DIR     # DIR: the folder of CIFAR-10; half an hour to an hour on 4 cores
    python tests/bench/bench_k.py --quick        # one seed and short trainings

CIFAR-10 has no distractors, so half of its classes are used as distractors: a network of five classes is trained on 100
labels of each, and the corpus contains 1,000 unlabeled images of each of them and 23,000 images of the other five. P is
1, so that the largest K selects every image of the corpus. Yalniz et al. 2019 find an inverted U in their sweep of K:
with a small K there are too few images, with a large K more and more of them belong to no class. All trainings process
the same number of images; the runs of one seed share teacher, scores and control.
"""

import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from figures import print_paired, print_value
from processes import accuracy_arguments, connect

from raylabel.compute.resources import Resources
from raylabel.evaluate.precision import Truth
from raylabel.evaluate.results import CONTROL, PRECISION, PRETRAINED, STUDENT, TEACHER, TOP1, require
from raylabel.models import Model
from raylabel.pipelines.semi_supervised import Run
from raylabel.recipes import registry as recipes
from raylabel.recipes.recipe import Recipe, Teacher
from raylabel.report.run import write_report
from raylabel.selection.config import Select
from raylabel.store.artifact import Root

CLASSES = 5  # the first five of CIFAR-10; the others are distractors
LABELS = 100  # labeled images of each class
IMAGES = 1_000  # unlabeled images of each class, in the corpus
KS = (50, 200, 1_000, 2_500, 5_600)  # 5 x 5,600 is the corpus


def main() -> None:
    arguments = accuracy_arguments(__doc__, "cifar10")
    with tempfile.TemporaryDirectory(prefix="bench-k-") as folder:
        work = Path(arguments.root or folder)
        build_data(Path(arguments.data), work / "data")
        connect()
        measure(work, arguments.workers, arguments.quick)


def measure(work: Path, workers: int, quick: bool) -> None:
    root, seeds = Root.open(str(work / "root")), (0,) if quick else (0, 1, 2)
    curve: dict[int, list[float]] = {}
    for k in KS:
        found = []
        for seed in seeds:
            recipe = distracted(str(work / "data"), k, seed, workers, short=quick)
            found.append(write_report(Run(root, recipe))[1])
        tops = {model: [100 * require(s.metrics, metric=TOP1, model=model).value for s in found] for model in MODELS}
        if k == KS[0]:
            for model in (TEACHER, CONTROL):
                print_value("k", f"{model}, top-1", tops[model], "%")
        curve[k] = tops[STUDENT]
        print_value("k", f"K = {k:,}: student pre-trained on the picks, top-1", tops[PRETRAINED], "%")
        print_value("k", f"K = {k:,}: student fine-tuned, top-1", curve[k], "%")
        right = [100 * require(s.metrics, metric=PRECISION).value for s in found]
        print_value("k", f"K = {k:,}: picks with their true label", right, "%")
    if not quick:
        best = max(KS[1:-1], key=lambda k: statistics.mean(curve[k]))
        for end in (KS[0], KS[-1]):
            print_paired("k", f"K = {best:,} over K = {end:,}", curve[best], curve[end])


MODELS = (TEACHER, CONTROL, PRETRAINED, STUDENT)


def distracted(data: str, k: int, seed: int, workers: int, short: bool) -> Recipe:
    """The recipe of CIFAR-10, with a small network and trainings that take minutes on a CPU."""
    recipe = recipes.cifar10(data)
    assert recipe.teacher.train is not None
    scale, model = 10 if short else 1, Model(arch="resnet14x1")
    return replace(
        recipe,
        name="distracted-cifar10",
        labeled=replace(recipe.labeled, uri=(f"{data}/labeled.parquet",)),
        unlabeled=replace(recipe.unlabeled, uri=(f"{data}/unlabeled.parquet",)),
        truth=Truth(uri=f"{data}/truth.parquet"),
        teacher=Teacher(model=model, train=replace(recipe.teacher.train, images=100_000 // scale)),
        select=Select(k=k, p=1),
        student=model,
        pretrain=replace(recipe.pretrain, images=100_000 // scale),
        finetune=replace(recipe.finetune, images=10_000 // scale),
        seed=seed,
        resources=Resources(workers=workers),
    )


def build_data(cifar10: Path, folder: Path) -> None:
    """Writes the labeled, unlabeled and test tables of this bench, and the truth, from those of CIFAR-10."""
    if (folder / "classes.txt").exists():
        return
    folder.mkdir(parents=True)
    labeled, test = pq.read_table(cifar10 / "labeled-4k.parquet"), pq.read_table(cifar10 / "test.parquet")
    corpus = pa.concat_tables(pq.read_table(cifar10 / f"unlabeled-{part}.parquet") for part in (0, 1))
    truth = corpus.select(["id"]).join(pq.read_table(cifar10 / "unlabeled-truth.parquet"), "id").sort_by("id")
    corpus = corpus.sort_by("id")
    label = truth["label"].to_numpy()
    kept = np.sort(np.concatenate([firsts(label, IMAGES), np.flatnonzero(label >= CLASSES)]))
    pq.write_table(corpus.take(kept), folder / "unlabeled.parquet", row_group_size=1000)
    pq.write_table(truth.take(kept), folder / "truth.parquet")
    pq.write_table(labeled.take(firsts(labeled["label"].to_numpy(), LABELS)), folder / "labeled.parquet")
    pq.write_table(test.filter(pc.field("label") < CLASSES), folder / "test.parquet", row_group_size=1000)
    names = (cifar10 / "classes.txt").read_text().split()[:CLASSES]
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in names))


def firsts(label: np.ndarray, count: int) -> np.ndarray:
    """Rows of the first `count` samples of each of the five classes."""
    return np.concatenate([np.flatnonzero(label == c)[:count] for c in range(CLASSES)])


if __name__ == "__main__":
    main()
