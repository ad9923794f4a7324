"""Label sources: each labels every sample of a corpus, by SCORES to select from, or by PICKS that are trained on as
they are.

PICKS are all that training knows of a label, so a teacher, people, hashtags and random numbers train by the same code.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from raylabel.corpus import Corpus
from raylabel.labels.picks import write_picks
from raylabel.store.artifact import Artifact, Built, Draft, Root

SCORES_NAME = "scores"


class LabelSource(Protocol):
    """One who labels. Implementations are frozen dataclasses: plain data, so that they travel and have an identity."""

    @property
    def name(self) -> str:
        """What the source is called, in lower case; also the name of the artifact of its PICKS."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that decides the labels besides the corpus and the round, as plain JSON."""
        ...

    def label(self, root: Root, corpus: Corpus, shards: Artifact, round: int = 0) -> Artifact:
        """The artifact `scores` with SCORES of every sample in SHARDS, or an artifact with PICKS in files `picks-*`.

        `round`: counts from 0 where a method labels the same samples again and again, as DeepCluster does after each
        epoch (Caron et al. 2018). A source whose labels differ between rounds makes one artifact for each. InputError
        if the corpus cannot be labeled.
        """
        ...


def gives_scores(labels: Artifact) -> bool:
    """Whether a source gave SCORES, to select from, and not PICKS."""
    return labels.name == SCORES_NAME


def make_picks(
    root: Root,
    source: LabelSource,
    shards: Artifact,
    read: Callable[[], tuple[np.ndarray, np.ndarray, tuple[str, ...]]],
    round: int = 0,
) -> Artifact:
    """PICKS of a source, as the artifact of its name, in which each sample has one label and the score 0.

    `read` gives (keys int64 [N], labels int64 [N], names of the classes in the order of their numbers); it is called
    only where the artifact does not exist yet.
    """

    def build(draft: Draft) -> Built:
        return write_picks(draft, *read())

    identity = {"shards": shards.info["content"], **source.identity} | ({"round": round} if round else {})
    return root.make(source.name, identity, build)
