"""Short trainings on scikit-learn's digits."""

from pathlib import Path

from helpers import DIGITS_VIEW, digit_images, write_parquet

from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus, Shards, index_corpus
from raylabel.labels.truth import GivenLabels
from raylabel.models import Model
from raylabel.store.artifact import Artifact, Root
from raylabel.training.config import Train
from raylabel.training.examples import Materialize, WritingTask, materialize
from raylabel.training.loop import TrainingTask
from raylabel.training.schedule import Schedule
from raylabel.training.train import train

MODEL = Model(arch="resnet8x1")
CONFIG = Train(images=3_200, batch=64, schedule=Schedule(lr=0.05), precision="fp32", checkpoint_every=10)


def digits_examples(root: Root, folder: Path) -> Artifact:
    """EXAMPLES of 600 labeled digits."""
    media, labels = digit_images()
    corpus = Corpus(uri=(str(write_parquet(folder / "labeled.parquet", media[:600], labels[:600])),))
    shards = index_corpus(root, "labeled", corpus)
    return materialize(
        root,
        "labeled",
        GivenLabels().label(root, corpus, shards),
        WritingTask(shards=Shards(shards), corpus=corpus, config=Materialize(lanes=8)),
        0.05,
    )


def fit(root: Root, examples: Artifact, config: Train = CONFIG, workers: int = 1, init: Artifact | None = None):
    task = TrainingTask(model=MODEL, classes=10, examples=examples, config=config, view=DIGITS_VIEW, seed=3, init=init)
    return train(root, "net", task, Resources(workers=workers))
