"""Short trainings on scikit-learn's digits."""

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch.distributed
from helpers import DIGITS_VIEW, digit_images, write_parquet
from sandboxes import use_again

from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus, Shards, index_corpus
from raylabel.labels.truth import GivenLabels
from raylabel.models import Model
from raylabel.store.artifact import Artifact, Root
from raylabel.training import decoding, loop, ray_train, stream
from raylabel.training.config import Train
from raylabel.training.examples import materialize
from raylabel.training.held_group import HeldGroup
from raylabel.training.media import Materialize, WritingTask
from raylabel.training.schedule import Schedule
from raylabel.training.task import TrainingTask
from raylabel.training.train import train

MODEL, CLASSES = Model(arch="resnet8x1"), 10
CONFIG = Train(images=3_200, batch=64, schedule=Schedule(lr=0.05), precision="fp32", checkpoint_minutes=0.001)


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


def fit(
    root: Root,
    examples: Artifact,
    config: Train = CONFIG,
    workers: int = 1,
    init: Artifact | None = None,
    continued: bool = False,
    group: HeldGroup | None = None,
) -> Artifact:
    task = TrainingTask(
        model=MODEL,
        classes=CLASSES,
        examples=examples,
        config=config,
        view=DIGITS_VIEW,
        seed=3,
        init=init,
        continued=continued,
    )
    return train(root, "net", task, Resources(workers=workers), group=group)


@contextmanager
def in_this_process(folder: Path) -> Iterator[None]:
    """Trainings run their only worker in this process (Ray Train's local mode): the processes of Ray Train take half a
    minute of CPU time to start."""
    start = ray_train.fit

    def fit_here(
        each: Callable[[dict[str, Any]], None],
        settings: dict[str, Any],
        storage: str,
        workers: int,
        gpu: bool,
        **_: bool,
    ) -> Future[None]:
        assert workers == 1
        if torch.distributed.is_initialized():  # Ray Train destroys the group at the end, but not if training fails
            torch.distributed.destroy_process_group()
        group = f"file://{folder}/group-{uuid.uuid4().hex}"
        torch.distributed.init_process_group("gloo", group, world_size=1, rank=0)
        return start(each, settings, storage, 0, gpu)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_train, "fit", fit_here)
        patch.setattr(loop, "handle_sigterm", lambda: None)  # of a worker's process
        use_again(patch, stream, decoding)
        yield
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
