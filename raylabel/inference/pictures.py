"""A corpus that no network scores → PICTURES: its samples by their bytes, with THUMBNAILS beside them unless the view
is too small for near-duplicates."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus
from raylabel.features.thumbnails import has_thumbnails, thumbnails
from raylabel.inference.scorer import Found, Kept, Run
from raylabel.inference.scores import Scoring, make_scores
from raylabel.media.parsers import eval_parser
from raylabel.media.sandbox.sandbox import Parser
from raylabel.media.view import View
from raylabel.schema import SCORES
from raylabel.store.artifact import Artifact, Root

PICTURES = pa.schema([SCORES.field(name) for name in ("key", "digest", "group")])
"""One row per readable sample, in key order within a file."""
PICTURES_NAME = "pictures"
"""Of the artifacts with PICTURES, and of their files."""


def schema_of(samples: Artifact) -> pa.Schema:
    """Of the files of SCORES or PICTURES."""
    return PICTURES if samples.name == PICTURES_NAME else SCORES


@dataclass(frozen=True)
class Pictures:
    """Makes thumbnails of samples, on the CPU; of a small view, only decodes them."""

    view: View

    @property
    def shape(self) -> tuple[int, ...]:
        return self.view.eval_shape

    @property
    def p(self) -> int:
        return 0

    @property
    def kept(self) -> Kept:
        return Kept(PICTURES_NAME, PICTURES, thumbnails=has_thumbnails(self.view.tested_size))

    @property
    def parser(self) -> Parser:
        return Parser.of(eval_parser, self.view.cpu_seconds, view=self.view)

    def start(self, gpu: bool) -> Run:
        return _thumbnails if self.kept.thumbnails else _nothing


def _thumbnails(batches: Iterable[np.ndarray]) -> Iterator[Found]:
    import torch

    torch.set_num_threads(1)
    return ((thumbnails(torch.from_numpy(batch)).numpy(),) for batch in batches)


def _nothing(batches: Iterable[np.ndarray]) -> Iterator[Found]:
    return (() for _ in batches)


def make_pictures(
    root: Root,
    corpus: Corpus,
    shards: Artifact,
    view: View,
    batch: int,
    resources: Resources,
    reject_limit: float,
    retry_rejects: bool = False,
    names: bool = False,
) -> Artifact:
    """PICTURES of a corpus and their THUMBNAILS, the artifact `pictures`. It is committed, resumed and grown as SCORES
    are. `view`: that in which the pictures that they are compared with are scored. `batch`: samples decoded at
    once. `names`: also write the NAMES of the samples, for a corpus of tars."""
    scoring = Scoring(
        scorer=Pictures(view),
        source={"view": view.evaluation_identity},
        shards=shards,
        corpus=corpus,
        batch=batch,
        reject_limit=reject_limit,
        resources=resources,
        retry_rejects=retry_rejects,
        names=names,
    )
    return make_scores(root, scoring)
