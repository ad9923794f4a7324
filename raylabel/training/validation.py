"""Accuracy on a labeled set while a network is trained, in evaluation mode.

The set is cut into chunks that do not depend on the number of workers, which share them. So a network gives the same
accuracy on any number of workers of the same hardware.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from raylabel.compute.watchdog import heartbeat
from raylabel.inference.network import rank_classes
from raylabel.media.view import View
from raylabel.store.artifact import Artifact
from raylabel.training.config import Train
from raylabel.training.decoding import Decoder
from raylabel.training.row_groups import RowGroup, row_groups_of

VALIDATION = "validation.json"
"""File of a trained network with its points: [{images, accuracy}]."""


def points_of(config: Train) -> set[int]:
    """The steps after which the network is validated: `validate.points` of them, evenly spaced, the last one among
    them."""
    if not config.validate.given:
        return set()
    count = min(config.validate.points, config.steps)
    return {-(-config.steps * point // count) for point in range(1, count + 1)}


class Validation:
    """Measures networks on EXAMPLES. Each worker reads and decodes its share at each point. To be closed."""

    def __init__(self, examples: Artifact, view: View, precision: str, rank: int, world: int, threads: int):
        self._view, self._precision = view, precision
        self._decoder = Decoder(examples, view, threads)
        self._groups = row_groups_of(examples)
        lanes = self._groups.load(range(self._groups.lanes), 0)
        whole = [(number, group) for number, lane in sorted(lanes.items()) for group in range(len(lane.items))]
        self._mine = whole[rank::world]
        self.samples = sum(lane.size for lane in lanes.values())

    def accuracy(self, module: Any, device: Any) -> float:
        """Share of the samples, each under each of its labels, whose best class is their label. All workers must call
        it together. The module's training mode is as before afterwards."""
        import torch
        import torch.distributed

        modes = {each: each.training for each in module.modules()}
        module.eval()
        right = torch.zeros((), dtype=torch.int64, device=device)
        try:
            with contextlib.closing(self._decoder.chunks(self._read())) as chunks:
                for group, items, pixels in chunks:
                    labels = torch.from_numpy(group.label[items].astype(np.int64)).to(device)
                    found = rank_classes(module, torch.from_numpy(pixels).to(device), self._view, self._precision, 1)
                    right += (found[0][:, 0] == labels).sum()
                    heartbeat()
        finally:
            for each, training in modes.items():
                each.training = training
        torch.distributed.all_reduce(right)
        return right.item() / self.samples

    def close(self) -> None:
        self._decoder.close()

    def _read(self) -> Iterator[RowGroup]:
        """The groups of this worker."""
        for lane, number in self._mine:
            yield from self._groups.read(lane, [number])
