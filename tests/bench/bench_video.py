"""Clips per second on one core: raylabel's reading of videos, through the sandbox, against decord as documented.

The work: videos of 10 s, 320 x 240 at 25 frames per second, H.264 with a keyframe every 250 or 50 frames; from each
video 10 uniformly spaced clips of 8 or 32 frames, resized to a short side of 128 and cropped to the central 112 x 112.
The peer opens a VideoReader, reads each clip by get_batch and resizes it by torch, in uint8 or in floats, whichever is
faster here. The floor is PyAV, which decodes all frames and drops them. At the end, the memory growth of a sandbox
child over 500 videos.
"""

import argparse
import functools
import io
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import decord
import numpy as np
import torch
from figures import interleave, print_ratio, print_value
from panning import FPS, HEIGHT, SECONDS, WIDTH, encode

from raylabel.media.parsers import eval_parser
from raylabel.media.sandbox.sandbox import Parser, Sandbox
from raylabel.media.video_views import eval_indices
from raylabel.media.view import Clip, View

BARS = {8: 1.2, 32: 2.3}
VIDEOS = 8


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--repeats", type=int, default=7)
    arguments = options.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    slow, media, view = [], [], View()
    for gop in (250, 50):
        media = [encode(seed, gop) for seed in range(VIDEOS)]
        for frames, bar in BARS.items():
            view = View(size=112, resize=128, clip=Clip(frames=frames))
            name = f"10 clips of {frames} frames, keyframe every {gop}"
            if compare(name, media, view, arguments.repeats) < bar:
                slow.append(name)
    print_value("video", "child's memory after 500 videos, beyond that after 50", [memory_growth(media, view)], "MB")
    if slow:
        raise SystemExit(f"below their bars: {', '.join(slow)}")


def compare(name: str, media: Sequence[bytes], view: View, repeats: int) -> float:
    """Prints the figures; returns the ratio to the faster form of the peer."""
    clip = view.clip
    assert clip
    out = np.empty((len(media), *view.eval_shape), np.uint8)
    indices = eval_indices(FPS * SECONDS, clip)
    with Sandbox(Parser.of(eval_parser, cpu_seconds=view.cpu_seconds, view=view)) as sandbox:

        def mine() -> None:
            assert not any(sandbox.fill(out, media))

        def peer(dtype: torch.dtype) -> list[torch.Tensor]:
            return [documented(data, indices, view, dtype) for data in media]

        mine()
        theirs = torch.stack(peer(torch.float32)).numpy()
        # The filters differ, but frames and crops must be the same for a fair comparison.
        difference = abs(theirs - out.astype(np.float32)).mean()
        if difference > 4:
            raise SystemExit(f"{name}: the peer's pixels differ by {difference:.1f} on average")
        arms: dict[str, Callable[[], object]] = {
            "raylabel": mine,
            "uint8": lambda: peer(torch.uint8),
            "float": lambda: peer(torch.float32),
            "floor": lambda: [decode(data) for data in media],
        }
        clips = len(media) * clip.count
        rates = interleave({arm: functools.partial(rate, work, clips) for arm, work in arms.items()}, repeats)
    print_value("video", f"{name}: raylabel", rates["raylabel"], "clips/s")
    faster = max(("uint8", "float"), key=lambda arm: np.median(rates[arm]))
    print_value("video", f"{name}: decord as documented, resized in {faster}", rates[faster], "clips/s")
    print_ratio("video", name, "decoding all frames, PyAV", rates["raylabel"], rates["floor"])
    return print_ratio("video", name, f"decord as documented, {faster}", rates["raylabel"], rates[faster])


def documented(data: bytes, indices: np.ndarray, view: View, dtype: torch.dtype) -> torch.Tensor:
    """The clips [M, T, S, S, 3] of a video, read by decord as documented."""
    reader = decord.VideoReader(io.BytesIO(data), ctx=decord.cpu(0), num_threads=1)
    height, width = view.resize, view.resize * WIDTH // HEIGHT
    top, left = (height - view.size) // 2, (width - view.size) // 2
    clips = []
    for wanted in indices:
        frames = torch.from_numpy(reader.get_batch(wanted).asnumpy()).permute(0, 3, 1, 2).to(dtype)
        frames = torch.nn.functional.interpolate(frames, size=(height, width), mode="bilinear", antialias=True)
        clips.append(frames[:, :, top : top + view.size, left : left + view.size].permute(0, 2, 3, 1))
    return torch.stack(clips)


def decode(data: bytes) -> None:
    with av.open(io.BytesIO(data), "r") as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for _ in container.decode(stream):
            pass


def rate(work: Callable[[], object], clips: int) -> float:
    begin = time.perf_counter()
    work()
    return clips / (time.perf_counter() - begin)


def memory_growth(media: Sequence[bytes], view: View) -> float:
    """Growth of a child's memory from 50 to 500 videos, MB."""
    out = np.empty((10, *view.eval_shape), np.uint8)
    held = []
    with Sandbox(Parser.of(eval_parser, cpu_seconds=view.cpu_seconds, view=view)) as sandbox:
        for i in range(50):
            sandbox.fill(out, [media[(10 * i + j) % len(media)] for j in range(10)])
            if i in (4, 49):
                (child,) = sandbox._idle.queue
                assert child
                status = Path(f"/proc/{child._pid}/status").read_text()
                held.append(int(status.partition("VmRSS:")[2].split()[0]) / 1024)
    return held[1] - held[0]


if __name__ == "__main__":
    main()
