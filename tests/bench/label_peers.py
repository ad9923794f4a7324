"""The peers of `bench_label.py`: each is written as its users write it, and runs with the best settings found for it.

A peer reads the shards (or files), runs every image through the network of `label_networks.py` and returns the image's
number with its ten best classes and their probabilities, in memory. This is less than raylabel does, which writes them
with digests and log-odds, synced to the disk. Letters: B batch, P classes kept per sample.
"""

import io
import itertools
import os
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from label_networks import load
from PIL import Image
from processes import CORES
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from torchvision import transforms

P = 10
SMALL_BATCH = 16  # images whose activations in ResNet-18 fit into a CPU's caches; tried with the best settings
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Found = tuple[np.ndarray, np.ndarray]  # image numbers int64 [N], best class of each int64 [N]


def _transform() -> Callable[[Image.Image], torch.Tensor]:
    steps = [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    return transforms.Compose(steps)


def _best(module: torch.nn.Module, images: torch.Tensor, bf16: bool) -> tuple[np.ndarray, np.ndarray]:
    """Ten best classes and their probabilities, [B, P], of normalised images [B, 3, H, W]."""
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        top = module(images).float().softmax(1).topk(P)
    return top.indices.numpy(), top.values.numpy()


def timed(arm: str, network: str, paths: list[str], settings: dict[str, Any]) -> tuple[float, Found]:
    """Seconds of one run without imports, and its result."""
    function = {"dataloader": dataloader, "daft": daft, "daft_documented": daft, "ray_docs": ray_docs}[arm]
    start = time.perf_counter()
    found = function(network, paths, **settings)
    return time.perf_counter() - start, found


def torch_beside_daft() -> str:
    """The version of PyTorch where Daft is installed."""
    # That it can be imported is the check.
    import daft  # noqa: F401  # pyright: ignore[reportMissingImports]

    return version("torch")


# A plain PyTorch DataLoader loop.


class _Rows(IterableDataset):
    """(image number, normalised image [3, 224, 224]) of every row of the shards, which are divided over the workers."""

    def __init__(self, shards: list[str]):
        self.shards = shards

    def __iter__(self) -> Iterator[tuple[int, torch.Tensor]]:
        worker, transform = get_worker_info(), _transform()
        mine = self.shards[worker.id :: worker.num_workers] if worker else self.shards
        for path in mine:
            for batch in pq.ParquetFile(path).iter_batches(64, use_threads=False):
                for number, media in zip(batch["id"].to_pylist(), batch["image"].to_pylist(), strict=True):
                    yield number, transform(Image.open(io.BytesIO(media)).convert("RGB"))


def _loop(
    network: str, shards: list[str], workers: int, threads: int, batch: int, bf16: bool
) -> Iterator[tuple[np.ndarray, ...]]:
    torch.set_num_threads(threads)
    module = load(network).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    for ids, images in DataLoader(_Rows(shards), batch_size=batch, num_workers=workers):
        yield ids.numpy(), *_best(module, images.to(memory_format=torch.channels_last), bf16)


def dataloader(network: str, shards: list[str], workers: int, threads: int, batch: int, bf16: bool) -> Found:
    """A DataLoader with `workers` processes. The model runs in this process, with `threads` and channels_last."""
    found = [(ids, classes[:, 0]) for ids, classes, _ in _loop(network, shards, workers, threads, batch, bf16)]
    return np.concatenate([ids for ids, _ in found]), np.concatenate([best for _, best in found])


def dataloader_settings(kind: str, bf16: bool) -> list[dict[str, Any]]:
    """Numbers of workers and threads that use every core at least once (a null network needs only one thread)."""
    pairs = itertools.product(range(CORES + 1), range(1, CORES + 1) if kind != "null" else [1])
    return [{"workers": w, "threads": t, "batch": 64, "bf16": bf16} for w, t in pairs if w + t >= CORES]


def sweep_dataloader(network: str, shards: list[str], seconds: float, bf16: bool) -> dict[str, Any]:
    """The settings with the most images per second. Each runs for `seconds` after its pipeline is full."""

    def rate(settings: dict[str, Any]) -> float:
        batches = _loop(network, shards, **settings)
        for _ in range(3 * max(1, settings["workers"])):  # the pipeline holds two batches of each worker
            next(batches)
        start, images = time.perf_counter(), 0
        for ids, _, _ in batches:
            images += len(ids)
            if time.perf_counter() - start > seconds:
                break
        return images / (time.perf_counter() - start)

    best = max(dataloader_settings(Path(network).stem, bf16), key=rate)
    return max(best, best | {"batch": SMALL_BATCH}, key=rate)


# Daft: its own decoder, then a class that transforms and scores a batch.


def daft(
    network: str,
    shards: list[str],
    concurrency: int | None,
    threads: int,
    batch: int,
    processes: bool | None,
    rows: int | None,
    documented: bool,
    bf16: bool,
) -> Found:
    """read_parquet, decode_image, then `concurrency` instances of a class that scores batches of images with `threads`.

    `documented`: torchvision's float transforms and an fp32 network. Otherwise its transforms on uint8 and
    channels_last. `rows`: rows per task of Daft's engine.
    """
    import daft  # pyright: ignore[reportMissingImports]
    from daft import DataType  # pyright: ignore[reportMissingImports]

    class Network:
        def __init__(self):
            torch.set_num_threads(threads)
            module = load(network)
            self.module = module if documented else module.to(memory_format=torch.channels_last)  # pyright: ignore
            resize = [transforms.Resize(256), transforms.CenterCrop(224)]
            to_tensor = [transforms.ToTensor(), *resize, transforms.Normalize(MEAN, STD)]
            self.transform = transforms.Compose(to_tensor if documented else resize)
            self.mean, self.std = (torch.tensor(x).view(3, 1, 1) * 255 for x in (MEAN, STD))

        def best(self, images):
            if documented:
                views = torch.stack([self.transform(image) for image in images.to_pylist()])
            else:
                views = [self.transform(torch.from_numpy(image).permute(2, 0, 1)) for image in images.to_pylist()]
                pixels = torch.stack(views).to(memory_format=torch.channels_last)
                views = (pixels - self.mean) / self.std
            classes, odds = _best(self.module, views, bf16)
            return [{"classes": c, "odds": o} for c, o in zip(classes.tolist(), odds.tolist(), strict=True)]

    kind = DataType.struct({"classes": DataType.list(DataType.int64()), "odds": DataType.list(DataType.float32())})
    Network.best = daft.method.batch(return_dtype=kind, batch_size=batch)(Network.best)
    scorer = daft.cls(Network, max_concurrency=concurrency, use_process=processes)()
    if rows:
        daft.set_execution_config(default_morsel_size=rows)
    frame = daft.read_parquet(shards)
    frame = frame.with_column("pixels", frame["image"].decode_image(mode="RGB"))
    frame = frame.select(frame["id"], scorer.best(frame["pixels"]).alias("best"))
    table = frame.to_arrow()
    best = table["best"].combine_chunks().field("classes").flatten().to_numpy().reshape(-1, P)[:, 0]
    return table["id"].to_numpy(), best


# One instance with all threads of torch, which is the default; batches of 100 as in Daft's own image benchmark.
DAFT_DOCUMENTED: dict[str, Any] = {
    "concurrency": 1,
    "threads": CORES,
    "batch": 100,
    "processes": None,
    "rows": None,
    "documented": True,
    "bf16": False,
}


def daft_settings(kind: str, bf16: bool) -> list[dict[str, Any]]:
    """Few instances with many threads (not for a null network) and many with one; in this process and in others."""
    many = [(1, CORES), (max(1, CORES // 2), 2)] if kind != "null" else []
    shapes = dict.fromkeys([*many, (max(1, CORES - 1), 1), (CORES, 1)])
    return [
        {"concurrency": c, "threads": t, "batch": 64, "processes": p, "rows": 256, "documented": False, "bf16": bf16}
        for (c, t), p in itertools.product(shapes, (True, False))
    ]


# Ray Data, as in its documentation of batch inference on images.


def ray_docs(network: str, files: list[str]) -> Found:
    """read_images, a map of torchvision's transforms on PIL images, and a pool of fp32 networks; one CPU reads."""
    import ray
    import ray.data

    def preprocess(row: dict[str, Any]) -> dict[str, Any]:
        return {"path": row["path"], "image": transform(Image.fromarray(row["image"])).numpy()}

    class Network:
        def __init__(self):
            self.module = load(network)

        def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            classes, odds = _best(self.module, torch.from_numpy(np.array(batch["image"])), bf16=False)
            return {"path": batch["path"], "classes": classes, "odds": odds}

    transform = _transform()
    pool = ray.data.ActorPoolStrategy(size=max(1, CORES - 1))
    dataset = ray.data.read_images(files, mode="RGB", include_paths=True).map(preprocess)
    dataset = dataset.map_batches(Network, batch_size=64, num_cpus=1, compute=pool)
    rows = [(os.path.basename(row["path"]), row["classes"][0]) for row in dataset.iter_rows()]
    return np.array([int(name.partition(".")[0]) for name, _ in rows]), np.array([best for _, best in rows])
