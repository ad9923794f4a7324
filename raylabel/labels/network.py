"""A trained network as a scorer: on a CPU in a single thread, on a GPU compiled and a batch behind."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from raylabel.artifact import Artifact
from raylabel.labels.scorer import Ranked, Run
from raylabel.media.sandbox import Parser
from raylabel.media.views import View, eval_parser

# Pixels of a forward pass on a CPU, 16 images at 224: the activations of more leave its caches. ResNet-18 is 1.27 times
# as fast as with 256 images, ResNet-50 1.2 times (one Zen 5 core, bf16); the logits were the same bits.
CACHED = 16 * 224 * 224


@dataclass(frozen=True)
class Network:
    """A trained network that ranks its classes for an image."""

    model: Artifact
    view: View
    precision: str
    p: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.view.size, self.view.size, 3

    @property
    def parser(self) -> Parser:
        return Parser.of(eval_parser, view=self.view)

    def start(self, gpu: bool) -> Run:
        import torch

        from raylabel.models import load_model

        torch.set_num_threads(1)  # one single-threaded actor per core beats threads (and sums in one order)
        device = torch.device("cuda" if gpu else "cpu")
        module = load_model(self.model).eval().to(device).to(memory_format=torch.channels_last)  # pyright: ignore
        if not gpu:
            return lambda batches: (_to_numpy(self._forward(module, torch.from_numpy(b))) for b in batches)
        torch.backends.cudnn.deterministic = True
        # Twice as fast as eager (on a CPU 1.1 times, after a minute of compiling). Deterministic: no autotuning, which
        # would let two actors choose kernels that sum in another order.
        module = torch.compile(module, options={"deterministic": True})
        return lambda batches: self._run_on_gpu(module, batches)

    def _forward(self, module: Any, pixels: Any) -> tuple[Any, ...]:
        """classes, log-odds and logits, each [B, P], of pixels uint8 [B, H, W, 3], on their device."""
        import torch

        from raylabel.labels.log_odds import top_classes

        step = len(pixels) if pixels.is_cuda else max(1, CACHED // self.view.size**2)
        with torch.inference_mode():
            logits = torch.cat([self.logits(module, some) for some in pixels.split(step)])
            return top_classes(logits, self.p)

    def logits(self, module: Any, pixels: Any) -> Any:
        """float32 [B, C] of pixels uint8 [B, H, W, 3], in one pass."""
        import torch

        from raylabel.media.views import normalise

        bf16 = self.precision == "bf16"
        with torch.inference_mode(), torch.autocast(pixels.device.type, torch.bfloat16, enabled=bf16):
            return module(normalise(pixels, self.view)).float()

    def _run_on_gpu(self, module: Any, batches: Iterable[np.ndarray]) -> Iterator[Ranked]:
        """One batch behind: while the GPU works on a batch, the caller decodes the next and its copy is under way."""
        import torch

        copying, waiting = torch.cuda.Stream(), deque()
        for batch in batches:
            staged = torch.from_numpy(batch).pin_memory()  # a copy: the caller may fill its own again
            with torch.cuda.stream(copying):
                pixels = staged.to("cuda", non_blocking=True)
            torch.cuda.current_stream().wait_stream(copying)
            pixels.record_stream(torch.cuda.current_stream())  # or its memory would be given out again while it is read
            found = self._forward(module, pixels)
            back = tuple(
                torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True) for x in found
            )
            done = torch.cuda.Event()
            done.record()
            waiting.append((done, staged, back))
            if len(waiting) > 1:
                yield _when_done(*waiting.popleft())
        while waiting:
            yield _when_done(*waiting.popleft())


def _when_done(done: Any, staged: Any, back: tuple[Any, ...]) -> Ranked:
    """`staged` is what the GPU copies from: it must live until then."""
    done.synchronize()
    return _to_numpy(back)


def _to_numpy(found: tuple[Any, ...]) -> Ranked:
    classes, log_odds, logits = (x.numpy() for x in found)
    return classes, log_odds, logits
