"""Label source: labels given by people. Every sample of a labeled set is picked once, with its own label."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from raylabel.corpus import Corpus, Shards, class_names, encode_labels, read_labels
from raylabel.errors import InputError
from raylabel.labels.source import make_picks
from raylabel.store.artifact import Artifact, Root
from raylabel.text import listed


@dataclass(frozen=True, kw_only=True)
class GivenLabels:
    """The labels of a labeled set, as a label source."""

    classes: tuple[str, ...] | None = None
    """Class names of the set that a model was trained on, in the order of class indices; None: those of this set."""

    @property
    def name(self) -> str:
        return "truth"

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"truth": True, "classes": list(self.classes) if self.classes else None}

    def label(self, root: Root, corpus: Corpus, shards: Artifact, round: int = 0) -> Artifact:
        """PICKS of a labeled set, the same in every round.

        InputError if the set has no labels, a single class, a class that is not in the given ones, or, if none are
        given, no sample of a class that `corpus.classes` names. With given classes, as of a test set, some may have no
        sample.
        """

        def read() -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
            labels = read_labels(corpus, Shards(shards))
            names: tuple[str, ...] = self.classes or class_names(corpus, labels)
            label = encode_labels(labels, names, corpus)
            if self.classes is None:
                _check_classes(", ".join(corpus.uri), names, np.bincount(label, minlength=len(names)))
            return labels.column("key").to_numpy(), label, names

        return make_picks(root, self, shards, read)


def _check_classes(where: str, names: tuple[str, ...], counts: np.ndarray) -> None:
    if len(names) < 2:
        raise InputError(f"{where}: all samples are of one class, '{''.join(names)}': give labels of two or more")
    if missing := [name for name, count in zip(names, counts, strict=True) if count == 0]:
        raise InputError(
            f"{where}: {len(missing)} of {len(names)} classes have no sample ({listed(missing)}): add some"
        )
