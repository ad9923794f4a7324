"""What a training shows while it runs: all points of its curves so far."""

import json
from collections.abc import Callable
from typing import NamedTuple, Self

from raylabel.models.trained import CURVE
from raylabel.store.artifact import Artifact
from raylabel.training.validation import VALIDATION


class Points(NamedTuple):
    """The curves of a training: a few hundred points."""

    curve: list[dict[str, float]] = []
    """{images, loss, accuracy, lr}, in the order of the training."""
    validated: list[dict[str, float]] = []
    """{images, accuracy}, in the order of the training."""

    @classmethod
    def of(cls, network: Artifact) -> Self:
        """Those of a trained network."""
        names = {file.name for file in network.files()}
        return cls(*(json.loads(network.read(name)) if name in names else [] for name in (CURVE, VALIDATION)))


Watch = Callable[[str, Points], None]
"""Gets the name of a training and its points, at most twice a second, and those of the trained network at the end. A
training that resumes has fewer points than before. It must return at once and raise nothing."""


def unwatched(name: str, points: Points) -> None:
    """For trainings that nobody watches."""
