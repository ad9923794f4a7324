"""What a split at random hides: frames of surveillance clips, split by frame and by source, five seeds.

    python tests/bench/bench_splits.py --data DIR    # DIR: the folder with actions
    python tests/bench/bench_splits.py --quick       # one seed

State Farm's pictures are frames of videos of a few drivers, and the post on arbitrary labels splits them at random, so
that its test set has frames of videos that are trained on. Here 86 labeled clips of 16 sources (fight or not) give ten
frames each, in 16 x 16 pixels; a third is the test set, drawn frame by frame or source by source. Each arm of
`arbitrary-labels` sees the training set ten times in each of its two trainings, because it is small. Sources are drawn
again if a part would lack a class. Settings were fixed before any result was seen.
"""

import csv
import io
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from figures import print_paired, print_value
from processes import accuracy_arguments, connect

from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus
from raylabel.evaluate.results import TOP1, require
from raylabel.experiments.arbitrary_labels import write_arbitrary_labels
from raylabel.media.view import View
from raylabel.models import Model
from raylabel.pipelines.arbitrary_labels import ArbitraryLabelsRun
from raylabel.recipes.arbitrary import arbitrary_digits
from raylabel.recipes.arbitrary_labels import ArbitraryLabels, Arm
from raylabel.store.artifact import Root

FRAMES, SIDE, TESTED, SEEDS, PASSES = 10, 16, 1 / 3, 5, 10
ARMS: tuple[Arm, ...] = ("arbitrary", "frozen", "whole")
SPLITS = ("by frame", "by source")


def main() -> None:
    arguments = accuracy_arguments(__doc__)
    with tempfile.TemporaryDirectory(prefix="bench-splits-") as folder:
        connect()
        root, into = Root.open(arguments.root or f"{folder}/root"), Path(arguments.root or folder)
        frames = pa.Table.from_pylist(list(read(Path(arguments.data) / "actions")))
        found: dict[str, dict[str, list[float]]] = {}
        for seed in range(1 if arguments.quick else SEEDS):
            for split in SPLITS:
                recipe = replace(recipe_of(into, frames, split, seed), resources=Resources(workers=arguments.workers))
                run = ArbitraryLabelsRun(root, recipe)
                write_arbitrary_labels(run)
                for one in run.results:
                    top = require(one.last.metrics, metric=TOP1, split="test").value
                    found.setdefault(one.arm, {}).setdefault(split, []).append(100 * top)
        for arm, splits in found.items():
            for split, values in splits.items():
                print_value("splits", f"{arm}, {split}: top-1", values, "%")
            if not arguments.quick:
                print_paired("splits", f"{arm}: by frame minus by source, top-1", splits[SPLITS[0]], splits[SPLITS[1]])


def read(folder: Path) -> Iterator[dict]:
    """FRAMES frames of each labeled clip, evenly spaced, with its label and source."""
    with (folder / "manifest.csv").open() as file:
        labeled = [row for row in csv.DictReader(file) if row["label"]]
    for row in labeled:
        with av.open(str(folder / row["file"])) as video:
            decoded = [frame.to_image() for frame in video.decode(video=0)]
        for place in np.linspace(0, len(decoded) - 1, FRAMES).round().astype(int):
            out = io.BytesIO()
            decoded[place].resize((SIDE, SIDE)).save(out, "PNG")
            yield {"image": out.getvalue(), "label": int(row["label"]), "source": row["group"]}


def recipe_of(folder: Path, frames: pa.Table, split: str, seed: int) -> ArbitraryLabels:
    folder.mkdir(parents=True, exist_ok=True)
    tested = drawn(frames, split, np.random.default_rng(seed))
    corpora = list[Corpus]()
    for name, part in (("labeled", ~tested), ("test", tested)):
        path = folder / f"{name}-{split.replace(' ', '-')}-{seed}.parquet"
        pq.write_table(frames.filter(pa.array(part)).select(["image", "label"]), path)
        corpora.append(Corpus(uri=(str(path),)))
    recipe, labeled = arbitrary_digits(), int((~tested).sum())
    train = replace(recipe.train, images=PASSES * labeled)
    return replace(
        recipe,
        name=f"frames-{split.replace(' ', '-')}",
        labeled=corpora[0],
        test=corpora[1],
        arms=ARMS,
        model=Model(arch="conv2_norm", size=SIDE),
        view=View(size=SIDE, resize=SIDE, crop="center", flip=False),
        train=train,
        teacher=train,
        seed=seed,
    )


def drawn(frames: pa.Table, split: str, random: np.random.Generator) -> np.ndarray:
    """Which frames are tested on, bool [frames]."""
    if split == "by frame":
        return random.permutation(len(frames)) < TESTED * len(frames)
    labels, sources = frames["label"].to_numpy(), np.array(frames["source"].to_pylist())
    while True:
        tested = np.zeros(len(frames), bool)
        for source in random.permutation(np.unique(sources)):
            if tested.mean() < TESTED:
                tested |= sources == source
        if len(set(labels[tested])) == len(set(labels[~tested])) == len(set(labels)):
            return tested


if __name__ == "__main__":
    main()
