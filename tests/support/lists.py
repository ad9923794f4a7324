"""The job of the storage tests: PICKS and EXAMPLES of a corpus by a given teacher, without training."""

import hashlib

from raylabel.cli.launch import Options, launched
from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus, Shards
from raylabel.labels.teacher import Label, TrainedNetwork
from raylabel.media.view import View
from raylabel.models import Model
from raylabel.pipelines.inputs import prepare
from raylabel.recipes.recipe import Recipe, Teacher
from raylabel.selection.config import Select
from raylabel.selection.duplicates import find_duplicates
from raylabel.selection.select import select
from raylabel.store.artifact import Artifact, Root
from raylabel.training.config import Train
from raylabel.training.examples import materialize, media_of
from raylabel.training.media import Materialize, WritingTask
from raylabel.training.schedule import Schedule


def lists(data: str) -> Recipe:
    """`data` contains labeled.parquet, teacher.safetensors and the unlabeled corpus; it may be in an object store."""
    train = Train(images=64, batch=64, schedule=Schedule(lr=0.1))
    return Recipe(
        name="lists",
        labeled=Corpus(uri=(f"{data}/labeled.parquet",)),
        unlabeled=Corpus(uri=(f"{data}/unlabeled",)),
        test=Corpus(uri=(f"{data}/labeled.parquet",)),
        view=View(size=8, resize=8),
        teacher=Teacher(model=Model(arch="resnet8x1"), checkpoint=f"{data}/teacher.safetensors"),
        label=Label(batch=64),
        select=Select(k=40, p=10),  # the teacher is untrained; with this p, every class gets samples
        materialize=Materialize(lanes=4),
        student=Model(arch="resnet8x1"),
        pretrain=train,
        finetune=train,
        resources=Resources(teachers=1),
    )


def run(root: Root, recipe: Recipe) -> tuple[Artifact, Artifact]:
    """PICKS and EXAMPLES."""
    start = prepare(root, recipe)
    corpus, shards = start.corpora["unlabeled"], start.shards["unlabeled"]
    assert start.teacher
    scores = TrainedNetwork(
        network=start.teacher, view=recipe.view, config=recipe.label, resources=recipe.resources
    ).label(root, corpus, shards)
    picks = select(root, scores, find_duplicates(root, scores), recipe.select, start.classes)
    return picks, materialize(
        root,
        "picked",
        picks,
        WritingTask(shards=Shards(shards), corpus=corpus, config=recipe.materialize),
        recipe.label.reject_limit,
    )


def digest(artifact: Artifact) -> str:
    """sha256 of the current content of all listed files, and of those of the media of EXAMPLES."""
    artifacts = dict.fromkeys([artifact, media_of(artifact)])
    return hashlib.sha256(b"".join(one.read(file.name) for one in artifacts for file in one.files())).hexdigest()


if __name__ == "__main__":
    with launched(__doc__ or "", Options[Recipe]) as (root, options):
        print("lists", *map(digest, run(root, options.recipe)))
