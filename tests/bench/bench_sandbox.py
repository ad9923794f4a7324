"""The cost of the sandbox: images per second through it, divided by those of the same function called in process.

On one core, on which the parent and its child run in turn, as on a machine without a GPU. Both arms are checked to give
the same pixels. The images: JPEG photographs of about 500 x 375, to 224 (evaluation) and to random crops of 224
(training); JPEGs of 32 x 32, each of which is decoded in about 20 µs.
"""

import argparse
import functools
import io
import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from bench_examples import photograph
from figures import interleave, print_ratio, print_value
from PIL import Image

from raylabel.media.parsers import eval_parser, train_parser
from raylabel.media.sandbox.child import load
from raylabel.media.sandbox.sandbox import Parser, Sandbox
from raylabel.media.view import View
from raylabel.rng import AUGMENT

BAR = 1 / 1.15  # at most 15% slower
BATCH = 256


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--repeats", type=int, default=7)
    options.add_argument("--seconds", type=float, default=3.0, help="duration of each arm in each repeat")
    arguments = options.parse_args()
    with ProcessPoolExecutor() as pool:
        photographs = list(pool.map(photograph, range(BATCH), chunksize=16))
    tiny = [small(data) for data in photographs]
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    view, little = View(), View(size=32, resize=32, crop="padded")
    cases = [
        ("500 x 375 to 224, evaluation", Parser.of(eval_parser, view=view), photographs, 224),
        ("500 x 375 to 224, training", Parser.of(train_parser, view=view), photographs, 224),
        ("32 x 32, evaluation", Parser.of(eval_parser, view=little), tiny, 32),
        ("32 x 32, training", Parser.of(train_parser, view=little), tiny, 32),
    ]
    slow = []
    for name, parser, media, side in cases:
        sandboxed, plain = compare(parser, media, side, arguments.repeats, arguments.seconds)
        print_value("sandbox", f"{name}: in process", plain, "images/s")
        if print_ratio("sandbox", name, "in process", sandboxed, plain) < BAR:
            slow.append(name)
    if slow:
        raise SystemExit(f"more than 15% slower than in process: {', '.join(slow)}")


def small(data: bytes) -> bytes:
    out = io.BytesIO()
    Image.open(io.BytesIO(data)).resize((32, 32)).save(out, "JPEG", quality=90)
    return out.getvalue()


def compare(
    parser: Parser, media: Sequence[bytes], side: int, repeats: int, seconds: float
) -> tuple[list[float], list[float]]:
    """Images per second (sandboxed, in process) of each repeat."""
    parse = load(parser.function, json.loads(parser.settings))
    numbers = [(1, AUGMENT, i) for i in range(len(media))]
    out = {arm: np.empty((len(media), side, side, 3), np.uint8) for arm in ("sandbox", "plain")}
    with Sandbox(parser) as sandbox:

        def sandboxed() -> None:
            sandbox.fill(out["sandbox"], media, numbers)

        def plain() -> None:
            for slot, data in enumerate(media):
                out["plain"][slot] = parse(data, numbers[slot])

        sandboxed()
        plain()
        if not (out["sandbox"] == out["plain"]).all():
            raise SystemExit("the pixels from the sandbox differ")
        works = {"sandbox": sandboxed, "plain": plain}
        arms = {name: functools.partial(rate, work, len(media), seconds) for name, work in works.items()}
        rates = interleave(arms, repeats)
    return rates["sandbox"], rates["plain"]


def rate(work: Callable[[], None], images: int, seconds: float) -> float:
    begin, done = time.perf_counter(), 0
    while (now := time.perf_counter() - begin) < seconds:
        work()
        done += images
    return done / now


if __name__ == "__main__":
    main()
