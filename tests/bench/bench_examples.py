"""The training stream: images per second of the stream, and of a ResNet-18 at 224 trained from it and from memory.

Both trainings run raylabel's own training loop, `raylabel.training.loop.steps`, in one group of Ray Train workers of
the default size for this machine (one single-thread worker per core, or one per GPU), over the same steps from the same
weights. Only the source of the batches differs. The arms alternate within the same workers, so that none includes a
start, and must give exactly the same losses on a CPU. The measurement begins when the loop gets batch number WARM and
ends after the last step. By then the stream has filled its queue of batches ahead, so it decodes as many images as it
returns.
"""

import argparse
import gc
import io
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.train
import ray.train.torch
from figures import interleave, print_ratio, print_value
from PIL import Image

from raylabel.compute.progress import make_board
from raylabel.compute.resources import Cluster, Resources
from raylabel.corpus import Corpus, Shards, index_corpus
from raylabel.labels.truth import GivenLabels
from raylabel.media.view import View
from raylabel.models import Model
from raylabel.models.trained import CURVE
from raylabel.store.artifact import Artifact, Root
from raylabel.training.checkpoint import Checkpoint
from raylabel.training.config import Train
from raylabel.training.examples import materialize
from raylabel.training.media import Materialize, WritingTask
from raylabel.training.schedule import Schedule
from raylabel.training.stream import Stream
from raylabel.training.task import TrainingTask

BAR = 0.90
WARM = 3  # steps at the beginning of each run that are not timed
CLASSES = 10


@dataclass(frozen=True)
class Size:
    images: int
    """Different images in the corpus."""
    batch: int
    """Images in a global batch."""
    steps: int
    """Timed steps of a run of training."""
    alone: int
    """Timed batches of a run of the stream without training."""
    repeats: int


FULL = Size(images=1024, batch=128, steps=6, alone=40, repeats=5)
QUICK = Size(images=256, batch=64, steps=2, alone=8, repeats=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="a smoke test that takes a minute; its figures mean little"
    )
    size = QUICK if parser.parse_args().quick else FULL
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):  # stages print their progress
        with ProcessPoolExecutor() as pool:
            media = list(pool.map(photograph, range(size.images), chunksize=32))
        found = measure(make_examples(folder, media), size, folder)
    ray.shutdown()
    rates = {arm: [r[arm] for r in found["rounds"]] for arm in ("alone", "stream", "memory")}
    print_value("examples", "workers up, from the call to the loop", [found["start"]], "s")
    print_value("examples", "first batch of a stream", found["first"], "s")
    print_value("examples", "training stream alone", rates["alone"], "images/s")
    print_value("examples", "ResNet-18 trained from the stream", rates["stream"], "images/s")
    print_value("examples", "ResNet-18 trained from memory", rates["memory"], "images/s")
    print_ratio("examples", "stream alone", "training from memory", rates["alone"], rates["memory"])
    ratio = print_ratio("examples", "training from the stream", "from memory", rates["stream"], rates["memory"])
    if not found["equal"]:
        raise SystemExit("the losses of training from the stream and from memory differ, so the pixels differ")
    if ratio < BAR and size is FULL:
        raise SystemExit(f"training from the stream reaches {ratio:.3f} of training from memory, below {BAR}")


def make_examples(folder: str, media: Sequence[bytes]) -> Artifact:
    """EXAMPLES of a corpus of photographs, made by raylabel's own stages."""
    labels = pa.array(np.arange(len(media)) % CLASSES, pa.int32())
    pq.write_table(pa.table({"image": media, "label": labels}), Path(folder) / "photographs.parquet")
    root, corpus = Root.open(f"{folder}/root"), Corpus(uri=(f"{folder}/photographs.parquet",))
    shards = index_corpus(root, "photographs", corpus)
    return materialize(
        root,
        "bench",
        GivenLabels().label(root, corpus, shards),
        WritingTask(shards=Shards(shards), corpus=corpus, config=Materialize()),
        0,
    )


def photograph(number: int) -> bytes:
    """A JPEG of about 500 x 375 and 70 KB: a random crop, with this seed, of one of scikit-learn's two photographs."""
    rng = np.random.default_rng(number)
    whole = _photographs()[number % 2]
    width, height = (round(side * rng.uniform(0.9, 1.1)) for side in (500, 375))
    scale = rng.uniform(0.75, 1) * min(whole.width / width, whole.height / height)
    left, top = rng.uniform(0, whole.width - width * scale), rng.uniform(0, whole.height - height * scale)
    box = (left, top, left + width * scale, top + height * scale)
    out = io.BytesIO()
    whole.resize((width, height), Image.Resampling.BICUBIC, box=box).save(out, "JPEG", quality=90)
    return out.getvalue()


@cache
def _photographs() -> list[Image.Image]:
    from sklearn.datasets import load_sample_image

    return [Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]


def measure(examples: Artifact, size: Size, folder: str) -> dict[str, Any]:
    """The results of rank 0: {start, first, rounds: [{arm: images per second}], equal}."""
    cluster = Cluster.now()
    workers = cluster.workers(Resources(), size.batch)
    config = Train(images=(WARM + size.steps) * size.batch, batch=size.batch, schedule=Schedule(lr=0.05, warmup=0))
    model = Model(arch="resnet18")
    task = TrainingTask(
        model=model,
        classes=CLASSES,
        examples=examples,
        config=config,
        view=View(),
        seed=0,
        precision=cluster.precision("auto"),
        board=make_board(),
    )
    path = f"{folder}/found.json"
    trainer = ray.train.torch.TorchTrainer(
        _measure,
        train_loop_config={"task": task, "size": size, "path": path, "called": time.time()},
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers, use_gpu=bool(cluster.gpus), resources_per_worker={"CPU": 1}
        ),
        run_config=ray.train.RunConfig(name="bench", storage_path=f"{folder}/ray_train"),
    )
    trainer.fit()
    return json.loads(Path(path).read_text())


def _measure(settings: dict[str, Any]) -> None:
    """The function of each worker: all rounds of all arms, synchronised with the other workers."""
    start = time.time() - settings["called"]
    import torch
    import torch.distributed

    task, size = settings["task"], settings["size"]
    from raylabel.training import loop

    device = ray.train.torch.get_device()
    context = ray.train.get_context()
    from_stream = Stream.batches
    memory: list[tuple[np.ndarray, np.ndarray]] = []
    curves: list[bytes] = []
    first: list[float] = []

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    def rate(batches: Iterable, keep: bool, use) -> float:
        """Global images per second from batch WARM on; `use` consumes the batches."""
        begun, times = 0.0, []

        def watched() -> Iterator:
            for step, batch in enumerate(batches):
                if step == 0 and not keep and batches is not memory:
                    first.append(time.perf_counter() - begun)
                times.append(now() if step == WARM else 0.0)
                if keep:
                    memory.append(batch)
                yield batch
            times.append(now())

        gc.collect()  # frees the network of the last run before the next one
        torch.distributed.barrier()
        begun = time.perf_counter()
        use(watched())
        return (len(times) - 1 - WARM) * size.batch / (times[-1] - times[WARM])

    def fit(batches: Iterator) -> None:
        Stream.batches = lambda *_: batches  # pyright: ignore[reportAttributeAccessIssue]
        for _ in loop.steps(task, _Curves(curves)):  # pyright: ignore[reportArgumentType]
            pass

    def drain(batches: Iterator) -> None:
        for _ in batches:
            pass
        torch.distributed.barrier()

    def stream(steps: int) -> Iterator:
        whole = Stream(task.examples, task.seed)
        rank, world = context.get_world_rank(), context.get_world_size()
        memory_of, threads = loop._memory(device), loop._loaders()
        return from_stream(whole, task.view, size.batch, 0, steps * size.batch, rank, world, threads, memory_of)

    rate(stream(task.config.steps), True, fit)  # warm-up, which also fills `memory`
    arms = {
        "alone": lambda: rate(stream(WARM + size.alone), False, drain),
        "stream": lambda: rate(stream(task.config.steps), False, fit),
        "memory": lambda: rate(memory, False, fit),
    }
    found = interleave(arms, size.repeats)
    if context.get_world_rank() == 0:
        rounds = [{arm: rates[i] for arm, rates in found.items()} for i in range(size.repeats)]
        equal = device.type == "cuda" or all(curve == curves[0] for curve in curves)
        result = {"start": start, "first": first, "rounds": rounds, "equal": equal}
        Path(settings["path"]).write_text(json.dumps(result))


class _Curves:
    """Checkpoints that keep only the curves, so that no arm writes files."""

    def __init__(self, curves: list[bytes]):
        self.curves = curves

    def newest(self) -> Checkpoint:
        return Checkpoint(0, {}, ())

    def save(self, step: int, files: Mapping[str, bytes], confirm: Callable[[], object]) -> None:
        self.curves.append(files[CURVE])


if __name__ == "__main__":
    main()
