"""Clusters that were learned on a curated corpus, and on one that nobody curated (Caron et al. 2018, Table 3).

    python tests/bench/bench_curated.py --data DIR           # three seeds
    python tests/bench/bench_curated.py --data DIR --quick   # short trainings, one seed

Both corpora have 10,000 pictures without labels. Curated: 1,000 of each class of CIFAR-10. Uncurated: 7,000 of
CIFAR-10, of whose most frequent class there are 100 times as many as of the rarest (as in Cui et al. 2019, arXiv
1901.05555, §5.1), and 3,000 of nothing that is asked for later: flowers and hand signs, at 32 x 32 pixels. The order of
the classes and all pictures are drawn by the seed. The rest is that of `pretexts-cifar10`, as in bench_pretexts.py:
300,288 images, a logistic regression on 4,000 labels, n = 10,000. It was fixed before any result was seen.
"""

import io
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from bench_pretexts import recipe_of, show_rounds
from figures import print_paired, print_value
from PIL import Image, ImageOps
from processes import accuracy_arguments, connect

from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus
from raylabel.pipelines.pretexts import PretextsRun
from raylabel.recipes.pretexts import Pretexts
from raylabel.store.artifact import Root

BENCH = "curated"
CLASSES, EACH, DISTRACTORS, RATIO, SIDE = 10, 1_000, 3_000, 100, 32
CORPORA = ("curated", "uncurated")


def main() -> None:
    arguments = accuracy_arguments(__doc__)
    with tempfile.TemporaryDirectory(prefix="bench-curated-") as temporary:
        connect()
        folder = Path(arguments.root or temporary)
        root = Root.open(f"{folder}/root")
        recipe = recipe_of(arguments.data, folder, arguments.quick)
        recipe = replace(recipe, resources=Resources(workers=arguments.workers))
        seeds = (0,) if arguments.quick else (0, 1, 2)
        found: dict[tuple[str, str], list[float]] = {}
        for seed in seeds:
            for name, path in make(Path(arguments.data), folder, seed).items():
                for start, layer, value in measured(root, recipe, name, path, seed):
                    found.setdefault((start, layer), []).append(value)
    for (name, layer), values in found.items():
        print_value(BENCH, f"top-1 of {layer}, {name}", values, "%")
    for name, against in (("curated", "none"), ("uncurated", "none"), ("curated", "uncurated")):
        for layer in recipe.layers if len(seeds) > 1 else ():
            figure = f"top-1 of {layer}, {name} minus {against}"
            print_paired(BENCH, figure, found[name, layer], found[against, layer])


def measured(root: Root, recipe: Pretexts, name: str, path: Path, seed: int) -> list[tuple[str, str, float]]:
    """(start, layer, top-1 in percent) of clusters of a corpus; also of random weights, with the curated one."""
    own = replace(recipe.clusters, corpus=Corpus(uri=(str(path),)), seed=seed)
    run = PretextsRun(root, replace(recipe, starts=("none", "clusters"), clusters=own))
    show_rounds(f"{name}, seed {seed}", run)
    starts = {"none": "none", "clusters": name} if name == "curated" else {"clusters": name}
    return [(starts[one.start], one.layer, 100 * one.top1.value) for one in run.judged if one.start in starts]


def make(data: Path, folder: Path, seed: int) -> dict[str, Path]:
    """Corpus → its file; the column `label` has the class, which is read for the NMI alone."""
    paths = {name: folder / f"{name}-{seed}.parquet" for name in CORPORA}
    if all(path.exists() for path in paths.values()):
        return paths
    random = np.random.default_rng(seed)
    whole = pq.read_table(folder / "cifar10-with-truth.parquet")
    label = whole["label"].to_numpy()
    order, number = random.permutation(CLASSES), np.arange(CLASSES)
    long = RATIO ** (-number / (CLASSES - 1))
    sizes = np.floor(long / long.sum() * (CLASSES * EACH - DISTRACTORS)).astype(int)
    sizes[0] += CLASSES * EACH - DISTRACTORS - sizes.sum()
    others = [media for name in ("flowers", "sign-digits") for media in pictures(data / name / "unlabeled.parquet")]
    distractors = pa.table({"image": others[:DISTRACTORS], "label": pa.array([CLASSES] * DISTRACTORS, pa.int32())})
    for name, counts in (("curated", np.full(CLASSES, EACH)), ("uncurated", sizes)):
        rows = [random.permutation(np.flatnonzero(label == c))[:n] for c, n in zip(order, counts, strict=True)]
        chosen = whole.select(["image", "label"]).take(pa.array(np.concatenate(rows)))
        table = pa.concat_tables([chosen, distractors.cast(chosen.schema)] if name == "uncurated" else [chosen])
        assert len(table) == CLASSES * EACH
        table = table.take(pa.array(random.permutation(len(table))))
        pq.write_table(table, paths[name], row_group_size=2_000)
    return paths


def pictures(path: Path) -> list[bytes]:
    """The middle of each picture, at the size of CIFAR-10, as JPEG of the same quality for all."""
    found = list[bytes]()
    for media in pq.read_table(path)["image"].to_pylist():
        out: Any = io.BytesIO()
        with Image.open(io.BytesIO(media)) as image:
            ImageOps.fit(image.convert("RGB"), (SIDE, SIDE)).save(out, "JPEG", quality=95)
        found.append(out.getvalue())
    return found


if __name__ == "__main__":
    main()
