"""SCORES for tests of the machinery, which do not need a network."""

from projection import CLASSES, Projection

from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus
from raylabel.inference.scores import Scoring, make_scores
from raylabel.labels.teacher import Label
from raylabel.store.artifact import Artifact, Root


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
