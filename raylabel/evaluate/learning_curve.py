"""Accuracies on a labeled set while a network is trained → METRICS: the last one, the area under them, images to X%."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from raylabel.evaluate.classify import wilson
from raylabel.evaluate.results import CURVE_AREA, IMAGES_TO, TOP1, Metric, Subject
from raylabel.store.artifact import Artifact
from raylabel.training.config import Validate
from raylabel.training.examples import items_of
from raylabel.training.validation import VALIDATION


@dataclass(frozen=True)
class Measured:
    """The accuracy of a network after some images of its training."""

    images: int
    """Images, or clips of videos, processed so far."""
    accuracy: float
    """Top-1, a fraction."""


@dataclass(frozen=True, kw_only=True)
class LearningCurve:
    """The points of a training that is validated."""

    points: Sequence[Measured]
    samples: int
    """Pairs of a sample and a label in the set."""
    config: Validate

    @classmethod
    def of(cls, network: Artifact, examples: Artifact, config: Validate) -> Self:
        """That of a trained network, which was validated on the examples."""
        points = [Measured(**point) for point in json.loads(network.read(VALIDATION))]
        return cls(points=points, samples=items_of(examples), config=config)

    @property
    def kept(self) -> Measured:
        """The point of the network that is kept: the last one, or the earliest with the highest accuracy."""
        return max(self.points, key=lambda point: point.accuracy) if self.config.keep_best else self.points[-1]

    @property
    def early(self) -> Measured:
        """The first point after a tenth of the training, or later."""
        end = self.points[-1].images
        return next(point for point in self.points if 10 * point.images >= end)

    @property
    def area(self) -> float:
        """Mean accuracy between the first point and the last, by straight lines between the points: the area under the
        curve of accuracy against images, divided by the images between them. Of one point: its accuracy."""
        first, last = self.points[0], self.points[-1]
        if first == last:
            return first.accuracy
        pairs = zip(self.points, self.points[1:], strict=False)
        total = sum((b.images - a.images) * (a.accuracy + b.accuracy) / 2 for a, b in pairs)
        return total / (last.images - first.images)

    @property
    def reached(self) -> dict[float, int | None]:
        """Each of the targets → images after which a point was first at least so high; None if none was."""
        return {
            target: next((point.images for point in self.points if point.accuracy >= target), None)
            for target in self.config.targets
        }

    def metrics(self, of: Subject) -> Iterator[Metric]:
        """Its rows. There is none for a target that was not reached."""
        n, accuracy = self.samples, self.kept.accuracy
        low, high = wilson(round(accuracy * n), n)
        yield Metric(**vars(of), metric=TOP1, value=accuracy, low=low, high=high, n=n)
        yield Metric(**vars(of), metric=CURVE_AREA, value=self.area, n=n)
        for target, images in self.reached.items():
            if images is not None:
                yield Metric(**vars(of), metric=f"{IMAGES_TO}{100 * target:g}", value=images, n=n)
