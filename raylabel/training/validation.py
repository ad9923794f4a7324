"""Accuracy on a labeled set while a network is trained, in evaluation mode.

The set is cut into chunks that do not depend on the number of workers, which share them. So a network gives the same
accuracy on any number of workers of the same hardware.
"""

import contextlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from raylabel.compute.watchdog import heartbeat
from raylabel.inference.network import rank_classes
from raylabel.media.parsers import eval_parser
from raylabel.media.sandbox.sandbox import Parser, Sandbox
from raylabel.media.view import View
from raylabel.prefetch import ahead
from raylabel.store.artifact import Artifact
from raylabel.training.config import Train
from raylabel.training.examples import undecodable
from raylabel.training.row_groups import RowGroup, row_groups_of

CHUNK = {"images": 64, "clips": 4}  # samples that pass the network together; a video has several clips
AHEAD = 2  # chunks that are decoded ahead

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
        self._examples, self._view, self._precision, self._threads = examples, view, precision, threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="validation-decode")
        self._sandbox = Sandbox(Parser.of(eval_parser, view.cpu_seconds, view=view), threads)
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
            with contextlib.closing(ahead(self._chunks(), AHEAD)) as chunks:
                for filling, pixels, labels in chunks:
                    for each in filling:
                        each.result()
                    found = rank_classes(module, torch.from_numpy(pixels).to(device), self._view, self._precision, 1)
                    right += (found[0][:, 0] == torch.from_numpy(labels).to(device)).sum()
                    heartbeat()
        finally:
            for each, training in modes.items():
                each.training = training
        torch.distributed.all_reduce(right)
        return right.item() / self.samples

    def close(self) -> None:
        self._pool.shutdown()
        self._sandbox.close()

    def _chunks(self) -> Iterator[tuple[list[Future[None]], np.ndarray, np.ndarray]]:
        """The chunks of this worker, each as soon as its decoding is submitted: (calls that fill the pixels, pixels
        uint8 [b, *view.eval_shape], labels int64 [b])."""
        size = CHUNK[self._view.inputs]
        for lane, number in self._mine:
            (group,) = self._groups.read(lane, [number])
            for first in range(0, len(group.label), size):
                items = np.arange(first, min(first + size, len(group.label)))
                pixels = np.empty((len(items), *self._view.eval_shape), np.uint8)
                runs = np.array_split(np.arange(len(items)), min(self._threads, len(items)))
                filling = [self._pool.submit(self._fill, pixels[r[0] : r[-1] + 1], group, items[r]) for r in runs]
                yield filling, pixels, group.label[items].astype(np.int64)

    def _fill(self, pixels: np.ndarray, group: RowGroup, items: np.ndarray) -> None:
        samples = group.sample[items].tolist()
        media = [value if isinstance(value := group.media[sample], bytes) else value.as_py() for sample in samples]
        rejects = self._sandbox.fill(pixels, media, [()] * len(media))
        for sample, reject in zip(samples, rejects, strict=True):
            if reject:
                raise undecodable(self._examples, int(group.key[sample]), reject)
