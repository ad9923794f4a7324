"""The speed of labeling and training on one GPU, over the same network without raylabel around it.

    python tests/bench/bench_gpu.py                           all figures: about 8 minutes on one H100 with 16 cores
    python tests/bench/bench_gpu.py label-resnet50 train      some of them
    python tests/bench/bench_gpu.py --dry-run                 tiny and on a CPU: shows that the bench runs

Each figure is printed when it is had, so that a run that is cut off keeps the others; none is begun after --seconds.
Needs scikit-image for its photographs (without it, scikit-learn's two), and no network.

- label-*: images (clips of videos) per second of labeling a corpus through Ray, committed SCORES included, over the
  compiled network alone on pixels that are on the GPU. The bar is 0.90 where decoding on all cores is as fast as the
  network; elsewhere the number of cores that it would take is printed. The steady state is timed from batch to batch.
- train: ResNet-50 trained from the stream, over the same step on pixels that are on the GPU.
- settings: that step with cudnn.benchmark, torch.compile, and without channels_last.
- nvjpeg: decoding by the GPU, a trial: speed beside the sandbox on all cores, difference of pixels and of top-1.
"""

import argparse
import contextlib
import functools
import io
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from bench_examples import make_examples, photograph
from figures import print_ratio, print_value
from gpu_arms import WARM, Timed, batches_per_second, run_trainings
from panning import encode
from processes import CORES, connect

from raylabel.compute.progress import make_board
from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus, index_corpus
from raylabel.inference.network import Network
from raylabel.inference.scores import Scoring, make_scores
from raylabel.media.image_views import eval_pixels, normalise
from raylabel.media.parsers import eval_parser
from raylabel.media.sandbox.sandbox import Parser, Sandbox
from raylabel.media.view import Clip, View
from raylabel.models import Model
from raylabel.models.build import build
from raylabel.models.head import float32_head
from raylabel.models.trained import WEIGHTS, describe, load_model
from raylabel.models.weights import save_weights
from raylabel.store.artifact import Artifact, Built, Draft, Root, write_bytes
from raylabel.training.config import Train
from raylabel.training.ray_train import fit
from raylabel.training.schedule import Schedule
from raylabel.training.task import TrainingTask

BAR = 0.90
CLASSES = 1000
ROWS = 1024  # of a shard: no batch crosses a shard


@dataclass(frozen=True)
class Size:
    images: int
    """Different photographs."""
    videos: int
    """Different videos."""
    batch: int
    """Images in a batch."""
    videos_batch: int
    """Videos in a batch: those of a unit, which no batch crosses."""
    seconds: float
    """Of labeling in the steady state, and of the network alone."""
    steps: int
    """Timed steps of a training."""
    repeats: int


FULL = Size(images=2048, videos=48, batch=256, videos_batch=32, seconds=10, steps=40, repeats=3)
TINY = Size(images=16, videos=2, batch=8, videos_batch=2, seconds=0.2, steps=2, repeats=1)

IMAGES, CLIPS = View(), View(size=112, resize=128, clip=Clip(frames=8, count=10))
NETWORKS = {
    "label-resnet50": ("resnet50", IMAGES),
    "label-resnext101": ("resnext101_32x8d", IMAGES),
    "label-r2plus1d18": ("r2plus1d_18", CLIPS),
}
SMALL = {"resnet50": "resnet8x1", "resnext101_32x8d": "resnet8x1", "r2plus1d_18": "r2plus1d8x1"}


class Bench:
    """The figures, by their names."""

    def __init__(self, folder: str, device: str, size: Size):
        self.folder, self.device, self.size = folder, device, size
        self.gpu = device == "cuda"
        self.root = Root.open(f"{folder}/root")
        self.figures: dict[str, Callable[[], None]] = {
            "label-resnet50": functools.partial(self.label, "label-resnet50"),
            "train": functools.partial(self.train, ["stream", "resident"] * size.repeats),
            "label-r2plus1d18": functools.partial(self.label, "label-r2plus1d18"),
            "nvjpeg": self.nvjpeg,
            "settings": functools.partial(
                self.train, ["resident", "cudnn.benchmark", "contiguous", "compiled", "compiled, cudnn.benchmark"]
            ),
            "label-resnext101": functools.partial(self.label, "label-resnext101"),
        }

    def ratio(self, figure: str, against: str, mine: Sequence[float], theirs: Sequence[float]) -> float:
        return print_ratio("gpu", self._name(figure), against, mine, theirs)

    def value(self, figure: str, values: Sequence[float], unit: str) -> float:
        return print_value("gpu", self._name(figure), values, unit)

    def _name(self, figure: str) -> str:
        return figure if self.gpu else f"{figure} (dry run: not a measurement)"

    def now(self) -> float:
        if self.gpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    # The corpora.

    @functools.cached_property
    def photographs(self) -> list[bytes]:
        """Encoded photographs of about 500 x 375."""
        make = photograph
        if self.gpu and find_spec("skimage"):
            from photographs import _jpeg as make
        if not self.gpu:
            return [make(i) for i in range(self.size.images)]
        with ProcessPoolExecutor(CORES, get_context("spawn")) as pool:
            return list(pool.map(make, range(self.size.images), chunksize=16))

    @functools.cached_property
    def videos(self) -> list[bytes]:
        if not self.gpu:
            return [encode(seed, 50) for seed in range(self.size.videos)]
        with ProcessPoolExecutor(CORES, get_context("spawn")) as pool:
            return list(pool.map(functools.partial(encode, gop=50), range(self.size.videos)))

    def corpus(self, kind: str, samples: int) -> Corpus:
        """A corpus of at least that many samples: links to a few different files."""
        folder = Path(self.folder, f"{kind}-{samples}")
        folder.mkdir()
        media = self.photographs if kind == "image" else self.videos
        if kind == "video":
            paths = [folder / f"{i:06d}.mp4" for i in range(samples)]
            for i, path in enumerate(paths):
                if i < len(media):
                    path.write_bytes(media[i])
                else:
                    os.link(paths[i % len(media)], path)
            return Corpus(uri=(str(folder),), kind="video")
        rows = min(ROWS, len(media))
        tables = [pa.table({"image": media[i : i + rows]}) for i in range(0, len(media) - rows + 1, rows)]
        paths = [folder / f"{i:06d}.parquet" for i in range(max(len(tables), -(-samples // rows)))]
        for i, path in enumerate(paths):
            if i < len(tables):
                pq.write_table(tables[i], path, row_group_size=64)
            else:
                os.link(paths[i % len(tables)], path)
        return Corpus(uri=(f"{folder}/*.parquet",))

    # The figures.

    def network(self, arch: str, view: View) -> Network:
        torch.manual_seed(0)
        arch = arch if self.gpu else SMALL[arch]
        module = build(Model(arch=arch), CLASSES)

        def write(draft: Draft) -> Built:
            files = [write_bytes(draft.uri, WEIGHTS, save_weights(module))]
            return Built(files, describe(Model(arch=arch), CLASSES))

        view = view if self.gpu else replace(view, size=32, resize=32)
        return Network(self.root.make("teacher", {"arch": arch}, write), view, "bf16", 10)

    def label(self, name: str) -> None:
        arch, view = NETWORKS[name]
        network, kind = self.network(arch, view), "clips/s" if view.clip else "images/s"
        each = view.clip.count if view.clip else 1
        batch = self.size.videos_batch if view.clip else self.size.batch
        module, start = self._started(network), time.perf_counter()
        alone = self._alone(network, module, batch)
        self.value(f"{arch}: compiling, and the first batches", [time.perf_counter() - start - self.size.seconds], "s")
        self.value(f"{arch}: the compiled network alone", [each * alone], kind)
        self._head(arch, batch * each, batch / alone)
        del module
        self._free()
        decoding = self._decoding(network.view)
        self.value(f"{arch}: decoding alone on all cores, in the sandbox", [each * decoding], kind)
        self.value(f"{arch}: CPU time of decoding, per {kind[:-3]}", [1e3 * CORES / decoding / each], "ms of a core")
        limit = min(alone, decoding)
        samples = batch * max(2 * WARM, round(limit * 1.6 * self.size.seconds / batch))
        rate = self._labeling(network, self.corpus("video" if view.clip else "image", samples), batch, arch)
        self.value(f"{arch}: labeling, corpus to SCORES", [each * rate], kind)
        ratio = self.ratio(f"{arch}: labeling", "the compiled network alone", [rate], [alone])
        self.ratio(f"{arch}: labeling", "the slower of decoding and the network", [rate], [limit])
        if ratio < BAR and decoding * BAR < alone:
            self.value(f"{arch}: cores that it takes to decode as fast as the network", [CORES * alone / decoding], "")

    def _started(self, network: Network) -> Any:
        """The compiled module of a started network."""
        if not self.gpu:
            return float32_head(load_model(network.model).eval())
        found, compile = [], torch.compile

        def kept(*arguments: Any, **options: Any) -> Any:
            found.append(compile(*arguments, **options))
            return found[-1]

        torch.compile = kept
        try:
            network.start(True)
        finally:
            torch.compile = compile
        return found[0]

    def _alone(self, network: Network, module: Any, batch: int) -> float:
        """Samples per second of the network on normalised pixels that are on the device."""
        pixels = torch.randint(0, 256, (batch, *network.view.eval_shape), dtype=torch.uint8, device=self.device)
        flat = pixels.flatten(0, 1) if network.view.clip else pixels
        images = normalise(flat, network.view)

        def run() -> None:
            with torch.inference_mode(), torch.autocast(self.device, torch.bfloat16):
                module(images)

        return batch * self._per_second(run)

    def _per_second(self, run: Callable[[], Any], seconds: float = 0) -> float:
        """Calls per second, over about `seconds`; the first calls are not timed."""
        for _ in range(3):
            run()
        begin = self.now()
        run()
        count = max(2, round((seconds or self.size.seconds) / (self.now() - begin)))
        begin = self.now()
        for _ in range(count):
            run()
        return count / (self.now() - begin)

    def _head(self, arch: str, rows: int, seconds: float) -> None:
        """What the last layer in float32 costs, as a share of the seconds that a batch of `rows` takes."""
        width = 512 if arch == "r2plus1d_18" else 2048
        for classes in (CLASSES, 21_000) if self.gpu else (CLASSES,):
            head = torch.nn.Linear(width, classes).to(self.device).eval()
            x = torch.randn(rows, width, device=self.device).bfloat16()

            def run(full: bool, head: torch.nn.Linear = head, x: torch.Tensor = x) -> None:
                with torch.inference_mode(), torch.autocast(self.device, torch.bfloat16, enabled=not full):
                    head(x.float() if full else x)

            times = [1 / self._per_second(functools.partial(run, full), 0.3) for full in (True, False)]
            more = 100 * (times[0] - times[1]) / seconds
            self.value(f"{arch}: the last layer in float32, {classes:,} classes, of the network's time", [more], "%")

    def _decoding(self, view: View) -> float:
        """Samples per second of the sandbox, with a process on each core."""
        media = self.videos if view.clip else self.photographs
        span = 2 if view.clip else 32
        spans = [media[i : i + span] for i in range(0, len(media), span)]
        with Sandbox(Parser.of(eval_parser, view.cpu_seconds, view=view), CORES) as sandbox:
            with ThreadPoolExecutor(CORES) as threads:

                def fill(some: list[bytes]) -> None:
                    out = np.empty((len(some), *view.eval_shape), np.uint8)
                    if any(sandbox.fill(out, some)):
                        raise SystemExit("a photograph cannot be decoded")

                def run() -> None:
                    for _ in threads.map(fill, spans):
                        pass

                return len(media) * self._per_second(run, self.size.seconds / 2)

    def _labeling(self, network: Network, corpus: Corpus, batch: int, arch: str) -> float:
        """Samples per second of the stage in its steady state."""
        path = f"{self.folder}/times-{arch}"
        fields = {name: getattr(network, name) for name in Network.__dataclass_fields__}
        scoring = Scoring(
            scorer=Timed(**fields, path=path, gpu=self.gpu),
            source={"network": network.model.digest},
            shards=index_corpus(self.root, arch, corpus),
            corpus=corpus,
            batch=batch,
            reject_limit=0.0,
            resources=Resources(teachers=1),
        )
        make_scores(self.root, scoring)
        return batch * batches_per_second(path)

    @functools.cached_property
    def examples(self) -> Artifact:
        folder = Path(self.folder, "examples")
        folder.mkdir()
        return make_examples(str(folder), self.photographs)

    def train(self, arms: list[str]) -> None:
        """Trains in a worker, and prints each arm's rate when it is there."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        batch = self.size.batch
        task = TrainingTask(
            model=Model(arch="resnet50" if self.gpu else "resnet8x1"),
            classes=CLASSES,
            examples=self.examples,
            config=Train(images=batch, batch=batch, schedule=Schedule(lr=0.01, warmup=0, drops=0), precision="bf16"),
            view=View() if self.gpu else View(size=32, resize=32),
            seed=0,
            precision="bf16",
            board=make_board(),
        )
        settings = {"task": task, "folder": str(folder), "size": self.size, "arms": arms, "here": not self.gpu}
        if not self.gpu:
            torch.distributed.init_process_group("gloo", f"file://{folder}/group", world_size=1, rank=0)
        outcome, shown = fit(run_trainings, settings, f"{folder}/ray_train", int(self.gpu), self.gpu), 0
        rates: dict[str, list[float]] = {}
        while True:
            over = outcome.done()  # before the last look
            lines = (folder / "figures").read_text().splitlines() if (folder / "figures").exists() else []
            for name, rate in map(json.loads, lines[shown:]):
                rates.setdefault(name, []).append(rate)
                self.value(f"ResNet-50 trained: {name}", [rate], "images/s")
            shown = len(lines)
            if over:
                break
            time.sleep(0.5)
        outcome.result()
        plain = rates.pop("resident")
        if mine := rates.pop("stream", None):
            if self.ratio("ResNet-50 trained from the stream", "resident pixels", mine, plain) < BAR and self.gpu:
                print(f"below the bar of {BAR}", file=sys.stderr)
        for name, found in rates.items():
            self.ratio(f"ResNet-50 trained: {name}", "as it is", found, plain[: len(found)])

    def nvjpeg(self) -> None:
        """Photographs decoded, resized and cropped on the GPU."""
        from torchvision.io import ImageReadMode, decode_jpeg

        view = IMAGES
        media = self.photographs[: 1024 if self.gpu else 4]
        encoded = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in media]
        groups = [encoded[i : i + 128] for i in range(0, len(encoded), 128)]

        def decode() -> list[torch.Tensor]:
            return [x for some in groups for x in decode_jpeg(some, mode=ImageReadMode.RGB, device=self.device)]

        def prepared() -> torch.Tensor:
            return torch.stack([_on_device(x, view) for x in decode()])

        decoding = len(media) * self._per_second(decode, self.size.seconds / 3)
        both = len(media) * self._per_second(prepared, self.size.seconds / 3)
        cores = self._decoding(view)
        self.value("JPEG decoded by the GPU, without resizing", [decoding], "images/s")
        self.value("JPEG decoded, resized and cropped by the GPU", [both], "images/s")
        self.ratio("JPEG decoded, resized and cropped by the GPU", "the sandbox on all cores", [both], [cores])
        some = media[:512]
        mine = np.stack([eval_pixels(data, view) for data in some])
        theirs = prepared()[: len(some)].cpu().numpy()
        away = np.abs(mine.astype(np.int16) - theirs)
        self.value("pixels decoded by the GPU: mean difference", [float(away.mean())], "of 255")
        self.value("pixels decoded by the GPU: largest difference", [float(away.max())], "of 255")
        module = self._classifier()
        best = []
        with torch.inference_mode():
            for pixels in (mine, theirs):
                tensors = torch.from_numpy(pixels).to(self.device).split(64)
                best.append(torch.cat([module(normalise(x, view)).argmax(1) for x in tensors]))
        changed = 100 * float((best[0] != best[1]).float().mean())
        self.value("another top-1 with the GPU's pixels, ResNet-18 that tells the photographs apart", [changed], "%")

    def _classifier(self) -> torch.nn.Module:
        if not (self.gpu and find_spec("skimage")):
            return build(Model(arch="resnet8x1"), CLASSES).eval().to(self.device)
        import label_networks
        from photographs import Photographs

        torch.set_num_threads(CORES)  # its readout is fitted to the first photographs, on the CPU
        files = Path(self.folder, "files")
        files.mkdir()
        for i, data in enumerate(self.photographs[: label_networks.FIT]):
            (files / f"{i:06d}.jpg").write_bytes(data)
        label_networks.make(
            "resnet18", path := f"{self.folder}/resnet18", Photographs(self.folder, len(self.photographs))
        )
        return label_networks.load(path).to(self.device)

    def _free(self) -> None:
        if self.gpu:
            torch._dynamo.reset()
            torch.cuda.empty_cache()


def _on_device(picture: torch.Tensor, view: View) -> torch.Tensor:
    """The evaluation view [S, S, 3] of a decoded picture uint8 [3, H, W], computed on its device."""
    height, width = picture.shape[1:]
    scale = view.resize / min(height, width)
    to = [view.resize if side == min(height, width) else int(scale * side) for side in (height, width)]
    out = torch.nn.functional.interpolate(
        picture[None].float(), size=to, mode="bilinear", antialias=True, align_corners=False
    )
    top, left = (round((side - view.size) / 2) for side in to)
    square = out[0, :, top : top + view.size, left : left + view.size]
    return square.round_().clamp_(0, 255).to(torch.uint8).permute(1, 2, 0)


def hardware(device: str) -> str:
    """The hardware and the versions, as one JSON line."""
    import platform

    import ray
    import torchvision

    found: dict[str, Any] = {"bench": "gpu", "python": platform.python_version(), "torch": torch.__version__}
    found |= {"torchvision": torchvision.__version__, "ray": ray.__version__, "cores": CORES}
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
        found["memory"] = torch.cuda.get_device_properties(0).total_memory
        found["cuda"], found["cudnn"] = torch.version.cuda, torch.backends.cudnn.version()
    return json.dumps(found)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", nargs="*", help="default: all, in an order that has the most important first")
    parser.add_argument("--seconds", type=float, default=420, help="no figure is begun later; default: %(default)s")
    parser.add_argument("--dry-run", action="store_true", help="tiny, on the CPU")
    options = parser.parse_args(arguments)
    begin, device = time.monotonic(), "cpu" if options.dry_run else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("no GPU on this machine (torch.cuda.is_available() is false): run it where there is one")
    import ray

    if mine := not ray.is_initialized():
        connect()
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        bench = Bench(folder, device, TINY if options.dry_run else FULL)
        if unknown := set(options.figures) - set(bench.figures):
            parser.error(f"no such figure: {', '.join(sorted(unknown))}; there are {', '.join(bench.figures)}")
        print(hardware(device), flush=True)
        for name in options.figures or bench.figures:
            spent = time.monotonic() - begin
            if spent > options.seconds:
                print(
                    json.dumps({"bench": "gpu", "figure": name, "not measured": f"{spent:.0f} s are over"}), flush=True
                )
                continue
            print(f"{name}: after {spent:.0f} s", file=sys.stderr, flush=True)
            try:
                with _progress_on_stderr():
                    bench.figures[name]()
            except Exception as error:  # the other figures are still worth having
                if options.dry_run:
                    raise
                line = {"bench": "gpu", "figure": name, "failed": f"{type(error).__name__}: {error}"[:2000]}
                print(json.dumps(line), flush=True)
        print(f"all after {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
    if mine:
        ray.shutdown()


class _Split(io.TextIOBase):
    """Figures, which are JSON, to stdout; the stages' progress lines to stderr."""

    def __init__(self, out: Any, err: Any):
        self.out, self.err, self.line = out, err, ""

    def write(self, text: str) -> int:
        self.line += text
        while "\n" in self.line:
            line, _, self.line = self.line.partition("\n")
            print(line, file=self.out if line.startswith("{") else self.err, flush=True)
        return len(text)


def _progress_on_stderr() -> Any:
    return contextlib.redirect_stdout(_Split(sys.stdout, sys.stderr))


if __name__ == "__main__":
    main()
