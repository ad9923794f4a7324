"""A scorer without a network. Its actor starts without PyTorch, in a third of the time."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus
from raylabel.inference.scorer import Ranked, Run
from raylabel.inference.scores import Scoring, make_scores
from raylabel.labels.teacher import Label
from raylabel.media.parsers import eval_parser
from raylabel.media.sandbox.sandbox import Parser
from raylabel.media.view import View
from raylabel.store.artifact import Artifact, Root

CLASSES = 10


@dataclass(frozen=True)
class Projection:
    """Logits are a fixed random projection of the pixels of an image."""

    view: View
    p: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.view.eval_shape

    @property
    def parser(self) -> Parser:
        return Parser.of(eval_parser, self.view.cpu_seconds, view=self.view)

    def start(self, gpu: bool) -> Run:
        weights = np.random.default_rng(0).normal(size=(int(np.prod(self.shape)), CLASSES)) / 4
        others = ~np.eye(CLASSES, dtype=bool)

        def run(batches: Iterable[np.ndarray]) -> Iterator[Ranked]:
            for batch in batches:
                logits = (batch.reshape(len(batch), -1) / 255 - 0.3) @ weights
                rest = np.broadcast_to(logits[:, None, :], (len(batch), CLASSES, CLASSES))[:, others]
                odds = logits - np.log(np.exp(rest.reshape(len(batch), CLASSES, CLASSES - 1)).sum(axis=2))
                order = np.argsort(-odds, axis=1, kind="stable")[:, : self.p]
                columns = (np.take_along_axis(values, order, axis=1).astype(np.float32) for values in (odds, logits))
                yield order.astype(np.int32), *columns

        return run


def score(
    root: Root,
    corpus: Corpus,
    shards: Artifact,
    config: Label,
    view: View,
    resources: Resources,
    retry_rejects: bool = False,
) -> Artifact:
    """SCORES of an indexed corpus by a projection; `config` and `view` change the identity as a network's do."""
    scoring = Scoring(
        scorer=Projection(view, min(config.p, CLASSES)),
        source={"p": config.p, "size": view.size},
        shards=shards,
        corpus=corpus,
        batch=config.batch,
        reject_limit=config.reject_limit,
        resources=resources,
        retry_rejects=retry_rejects,
    )
    return make_scores(root, scoring)
