"""raylabel's arm of `bench_label.py`, and the upper limit of any arm on these cores with this network."""

import hashlib
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import torch
from label_networks import load
from label_peers import Found as Answer
from label_peers import P
from photographs import Photographs
from processes import CORES

from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus, index_corpus
from raylabel.inference.network import CACHED, Network
from raylabel.inference.scorer import Found, Run
from raylabel.inference.scores import Scoring, make_scores
from raylabel.media.image_views import eval_pixels
from raylabel.media.view import View
from raylabel.models.head import float32_head
from raylabel.schema import SCORES, split_key
from raylabel.store.artifact import Root

BATCH = 64  # as the peers'; on a CPU the network processes a batch in smaller pieces anyway


@dataclass(frozen=True)
class FileNetwork(Network):
    """A network of `label_networks` as a scorer. It differs from a teacher only in how its weights are loaded."""

    path: str = ""

    def start(self, gpu: bool) -> Run:
        torch.set_num_threads(1)
        module = float32_head(load(self.path).to(memory_format=torch.channels_last))  # pyright: ignore[reportCallIssue]

        def run(batches: Iterable[np.ndarray]) -> Iterator[Found]:
            for batch in batches:
                classes, log_odds, logits = (x.numpy() for x in self._forward(module, torch.from_numpy(batch)))
                yield classes, log_odds, logits

        return run


def raylabel(network: str, shards: list[str], photographs: Photographs, precision: str) -> tuple[Answer, str]:
    """Shards on disk → committed SCORES: indexes, reads, decodes, scores, writes and syncs, in a new root.

    Returns the best classes, and a hash of all rows of SCORES. The caller has connected to Ray.
    """
    folder = tempfile.mkdtemp(dir=photographs.folder)
    try:
        root, corpus = Root.open(folder), Corpus(uri=tuple(shards))
        source = {"network": hashlib.sha256(Path(network).read_bytes()).hexdigest()}
        scorer = FileNetwork(None, View(), precision, P, path=network)  # pyright: ignore[reportArgumentType]
        scoring = Scoring(
            scorer=scorer,
            source=source,
            shards=index_corpus(root, "bench", corpus),
            corpus=corpus,
            batch=BATCH,
            reject_limit=0.0,
            resources=Resources(),
        )
        made = make_scores(root, scoring)
        table = made.table("scores-", SCORES, ["key", "classes"])
        content = hashlib.sha256("".join(file.sha256 for file in made.files("scores-")).encode()).hexdigest()
    finally:
        shutil.rmtree(folder)
    shard, row = split_key(table["key"].to_numpy())  # pyright: ignore[reportArgumentType]
    best = table["classes"].combine_chunks().flatten().to_numpy().reshape(-1, P)[:, 0]
    return (photographs.image_id(np.asarray(shard), np.asarray(row)), best), content


def limit(network: str, photographs: Photographs, seconds: float, precision: str) -> dict[str, float]:
    """Images per second of only decoding, of only the model, and 1 / (1/decode + 1/model); one process per core."""
    rates = {stage: _on_all_cores(stage, network, photographs, seconds, precision) for stage in ("decode", "model")}
    return {**rates, "limit": 1 / sum(1 / rate for rate in rates.values())}


def _on_all_cores(stage: str, network: str, photographs: Photographs, seconds: float, precision: str) -> float:
    context = get_context("spawn")
    with context.Manager() as manager, ThreadPoolExecutor(CORES) as threads:
        barrier: Any = manager.Barrier(CORES)
        tasks = [(stage, network, photographs.read(256), seconds, precision, barrier)] * CORES
        return sum(threads.map(lambda task: _in_process(context, task), tasks))


def _in_process(context: Any, task: tuple[Any, ...]) -> float:
    with context.Pool(1) as pool:
        return pool.apply(_rate, task)


def _rate(stage: str, network: str, media: list[bytes], seconds: float, precision: str, barrier: Barrier) -> float:
    """Images per second of one single-threaded process, while one on each other core does the same."""
    torch.set_num_threads(1)
    view = View()
    module = float32_head(load(network).to(memory_format=torch.channels_last))  # pyright: ignore[reportCallIssue]
    pixels = np.stack([eval_pixels(data, view) for data in media])

    def decode() -> None:
        for slot, data in enumerate(media):
            pixels[slot] = eval_pixels(data, view)

    scorer = FileNetwork(None, view, precision, P, path=network)  # pyright: ignore[reportArgumentType]
    step_images = max(1, CACHED // view.size**2)

    def model() -> None:
        for some in torch.from_numpy(pixels).split(step_images):
            scorer.logits(module, some)

    step = decode if stage == "decode" else model
    step()
    barrier.wait()
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        step()
        steps += 1
    return steps * len(media) / (time.perf_counter() - start)
