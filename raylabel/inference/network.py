"""A trained network as a scorer: single-threaded on a CPU; compiled, and overlapped with copying, on a GPU.

Letters: B batch, C classes, P classes kept per sample, M clips of a video, T frames of a clip, H W pixels.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from raylabel.compute.gpu import check_compiler, use_full_float32
from raylabel.features.thumbnails import thumbnails
from raylabel.inference.scorer import RANKED, Found, Kept, Run
from raylabel.media.parsers import eval_parser
from raylabel.media.sandbox.sandbox import Parser
from raylabel.media.view import View
from raylabel.store.artifact import Artifact

# Pixels of a forward pass on a CPU, 16 images at 224 px: with more, the activations do not fit in its caches. ResNet-18
# is 1.27 times as fast as with 256 images, ResNet-50 1.2 times (one Zen 5 core, bf16); the logits had the same bits.
CACHED = 16 * 224 * 224
# Of all frames: 4 clips of 8 frames at 112 px. With 16 clips R(2+1)D-18 is 0.85 times as fast.
CACHED_CLIPS = CACHED // 4


@dataclass(frozen=True)
class Network:
    """A trained network that ranks its classes for an image, or for a video by the mean of its clips' softmax."""

    model: Artifact
    view: View
    precision: str
    p: int
    float32_head: bool = True
    """Whether the last layer computes in float32 also if `precision` is 'bf16'. In earlier versions of raylabel it did
    not, and the SCORES that they began are completed in the same arithmetic."""
    thumbnails: bool = False
    """Whether thumbnails are kept too."""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.view.eval_shape

    @property
    def kept(self) -> Kept:
        return replace(RANKED, thumbnails=self.thumbnails)

    @property
    def parser(self) -> Parser:
        return Parser.of(eval_parser, self.view.cpu_seconds, view=self.view)

    def start(self, gpu: bool) -> Run:
        import torch

        from raylabel.models.build import memory_format

        torch.set_num_threads(1)  # one single-threaded actor per core is faster than threads, and sums in one order
        device = torch.device("cuda" if gpu else "cpu")
        module = self._load().eval().to(device)
        module = module.to(memory_format=memory_format(module))  # pyright: ignore[reportCallIssue]
        if not gpu:
            return lambda batches: (_to_numpy(self._forward(module, torch.from_numpy(b))) for b in batches)
        check_compiler()
        use_full_float32()
        torch.backends.cudnn.deterministic = True
        # PyTorch keeps what it compiles in a folder of this machine, by architecture and shape: other weights, the next
        # stage and the next run load it in seconds.
        # Twice as fast as eager mode (on a CPU 1.1 times, after a minute of compiling). Deterministic means without
        # autotuning, with which two actors could choose kernels that sum in different orders.
        module = torch.compile(module, options={"deterministic": True})
        return lambda batches: self._run_on_gpu(module, batches)

    def _load(self) -> Any:
        from raylabel.models.head import float32_head, head_of
        from raylabel.models.trained import load_model
        from raylabel.models.trunk import Headed
        from raylabel.models.unit import UnitLinear

        module = load_model(self.model)
        if isinstance(module.get_submodule(head_of(module)), UnitLinear):
            return Headed(module)
        return float32_head(module) if self.precision == "bf16" and self.float32_head else module

    def _forward(self, module: Any, pixels: Any) -> tuple[Any, ...]:
        found = rank_classes(module, pixels, self.view, self.precision, self.p)
        if not self.thumbnails:
            return found
        clips = found[3:] or (found[0][:, :0],)  # pictures have none
        return *found[:3], *clips, thumbnails(pixels)

    def logits(self, module: Any, pixels: Any) -> Any:
        """`logits_of` in the view and the precision of the network."""
        return logits_of(module, pixels, self.view, self.precision)

    def _run_on_gpu(self, module: Any, batches: Iterable[np.ndarray]) -> Iterator[Found]:
        """Yields each result one batch late: while the GPU works on a batch, the next is decoded and copied to it."""
        import torch

        copying, waiting = torch.cuda.Stream(), deque()
        for batch in batches:
            staged = torch.from_numpy(batch).pin_memory()  # a copy, because the caller may overwrite its array
            with torch.cuda.stream(copying):
                pixels = staged.to("cuda", non_blocking=True)
            torch.cuda.current_stream().wait_stream(copying)
            pixels.record_stream(torch.cuda.current_stream())  # otherwise its memory could be reused while it is read
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


def rank_classes(module: Any, pixels: Any, view: View, precision: str, p: int) -> tuple[Any, ...]:
    """What SCORES keep of pixels uint8 [B, H, W, 3] or [B, M, T, H, W, 3], on their device, by a module in evaluation
    mode."""
    import torch

    from raylabel.inference.log_odds import top_classes, top_classes_of_clips

    with torch.inference_mode():
        logits = outputs_of(module, pixels, view, precision)
        if view.clip:
            return top_classes_of_clips(logits.unflatten(0, pixels.shape[:2]), p)
        return top_classes(logits, p)


def outputs_of(module: Any, pixels: Any, view: View, precision: str) -> Any:
    """What a module in evaluation mode gives, float32, for pixels uint8 [B, H, W, 3], or for each clip of
    [B, M, T, H, W, 3], on their device.

    On a CPU a network computes a few images at a time. A head on features of unit length gets those of the whole batch,
    as it does in stored.py: the bits of a matrix product may depend on its number of rows.
    """
    import torch

    from raylabel.models.trunk import Headed

    if isinstance(module, Headed):
        return module.head(outputs_of(module.trunk, pixels, view, precision))
    inputs = pixels.flatten(0, 1) if view.clip else pixels
    cached = CACHED_CLIPS if view.clip else CACHED
    step = len(inputs) if pixels.is_cuda else max(1, cached // (inputs[0].numel() // 3))
    return torch.cat([logits_of(module, some, view, precision) for some in inputs.split(step)])


def logits_of(module: Any, pixels: Any, view: View, precision: str) -> Any:
    """float32 [B, C] of pixels uint8 [B, H, W, 3], or [B, T, H, W, 3] of clips, in one pass. In bf16, the last layer is
    computed in float32 if `module` is one of `float32_head`."""
    import torch

    from raylabel.media.image_views import normalise
    from raylabel.models.build import input_dtype

    bf16 = precision == "bf16"
    with torch.inference_mode(), torch.autocast(pixels.device.type, torch.bfloat16, enabled=bf16):
        return module(normalise(pixels, view, input_dtype(module, bf16))).float()


def _when_done(done: Any, staged: Any, back: tuple[Any, ...]) -> Found:
    """Waits for a result. `staged` is the memory that the GPU copies from, so it must be kept until then."""
    done.synchronize()
    return _to_numpy(back)


def _to_numpy(found: tuple[Any, ...]) -> Found:
    return tuple(x.numpy() for x in found)
