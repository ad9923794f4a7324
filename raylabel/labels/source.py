"""Label sources: each labels every sample of a corpus, by SCORES to select from, or by PICKS that are trained on
unchanged.

Training reads labels only from PICKS, so it has the same code for labels from a teacher, people, hashtags or a random
number generator.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from raylabel.corpus import Corpus
from raylabel.labels.picks import write_picks
from raylabel.store.artifact import Artifact, Built, Draft, Root

SCORES_NAME = "scores"


class LabelSource(Protocol):
    """Labels a corpus. Implementations are frozen dataclasses: plain data that Ray can send and with an identity."""

    @property
    def name(self) -> str:
        """Name of the source, in lower case; also the name of the artifact of its PICKS."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """Everything that the labels depend on besides the corpus and the round, as plain JSON."""
        ...

    def label(self, root: Root, corpus: Corpus, shards: Artifact, round: int = 0) -> Artifact:
        """The artifact `scores` with SCORES of every sample in SHARDS, or an artifact with PICKS in files `picks-*`.

        `round` counts from 0, for methods that label the same samples repeatedly, as DeepCluster does after each epoch
        (Caron et al. 2018). A source whose labels differ between rounds makes one artifact for each round. InputError
        if the corpus cannot be labeled.
        """
        ...


def gives_scores(labels: Artifact) -> bool:
    """Whether these are SCORES, to select from, and not PICKS."""
    return labels.name == SCORES_NAME


def make_picks(
    root: Root,
    source: LabelSource,
    shards: Artifact,
    read: Callable[[], tuple[np.ndarray, np.ndarray, tuple[str, ...]]],
    round: int = 0,
) -> Artifact:
    """PICKS of a source, as an artifact with the source's name. Each sample has one label and the score 0.

    `read` returns (keys int64 [N], labels int64 [N], class names in the order of class indices). It is called only if
    the artifact does not exist.
    """

    def build(draft: Draft) -> Built:
        return write_picks(draft, *read())

    identity = {"shards": shards.info["content"], **source.identity} | ({"round": round} if round else {})
    return root.make(source.name, identity, build)
