"""SCORES for tests of the machinery, which do not need a network."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from projection import CLASSES, Projection
from sandboxes import use_again

from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus
from raylabel.inference import actor
from raylabel.inference import scores as stage
from raylabel.inference.batches import ScoringTask, item
from raylabel.inference.parts import Part, write_part
from raylabel.inference.pool import _split
from raylabel.inference.reuse import Reader
from raylabel.inference.scores import Scoring, make_scores
from raylabel.labels.teacher import Label
from raylabel.report import previews
from raylabel.schema import TAGS
from raylabel.store.artifact import Artifact, Built, Draft, Root, write_table


def score(
    root: Root,
    corpus: Corpus,
    shards: Artifact,
    config: Label,
    resources: Resources,
    size: int = 8,
    retry_rejects: bool = False,
) -> Artifact:
    """SCORES of an indexed corpus of images by a projection of `size` x `size` pixels."""
    scoring = Scoring(
        scorer=Projection(size, min(config.p, CLASSES)),
        source={"p": config.p, "size": size},
        shards=shards,
        corpus=corpus,
        batch=config.batch,
        reject_limit=config.reject_limit,
        resources=resources,
        retry_rejects=retry_rejects,
    )
    return make_scores(root, scoring)


def keys_table(root: Root, keys: np.ndarray, files: int, name: str = "tags") -> Artifact:
    """TAGS of these keys, ascending, in so many files, each with small row groups."""

    def build(draft: Draft) -> Built:
        made = []
        for number, some in enumerate(np.array_split(keys, files)):
            lists = pa.array([[0]] * len(some), TAGS.field("classes").type)
            table = pa.Table.from_arrays([pa.array(some, pa.int64()), lists], schema=TAGS)
            groups = [table[first : first + 5] for first in range(0, max(1, len(table)), 5)]
            made.append(write_table(draft.uri, f"{name}-{number:06d}.parquet", *groups))
        return Built(made, {})

    return root.make(name, {"keys": keys.tolist(), "files": files}, build)


@contextmanager
def scored_in_this_process(folder: Path) -> Iterator[None]:
    """Corpora are scored by an actor in this process. One that Ray Data starts takes 5 to 11 s of CPU time."""

    def score_here(task: ScoringTask, parts: Callable[[], Iterator[Part]], uri: str) -> Iterator[dict[str, Any]]:
        scoring, kept, beside = actor.ScoringActor(task), task.scorer.kept, task.scorer.kept.beside(task.names)
        try:
            reader = Reader(kept.name, beside)
            for part in parts():
                tables = list(scoring(item(part.units))) if part.units else []
                yield write_part(uri, kept, part, reader, [_split(kept, one, beside) for one in tables], beside)
        finally:
            for each in filter(None, (scoring._scoring, scoring._threads)):
                each.shutdown()
            for each in filter(None, (scoring._sandbox, scoring._fetcher)):
                each.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "score", score_here)
        patch.setattr(actor, "_journal_path", lambda: str(folder / f"journal-{uuid.uuid4().hex}"))
        use_again(patch, actor, previews)
        yield
