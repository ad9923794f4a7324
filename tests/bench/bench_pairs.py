"""What the search for near-duplicates costs beside a scoring pass of ResNet-18, on one core.

    python tests/bench/bench_pairs.py --data DIR     # DIR: the folder of cifar10
    python tests/bench/bench_pairs.py --data DIR --quick

The pictures are real, since the number of candidates depends on them: 46,000 of a corpus, and test sets of 1,000 to
50,000: the 10,000 test pictures, and these mirrored or turned by a right angle, which are other pictures. Rounds of all
arms are interleaved; each arm is a rate in samples per second.
"""

import argparse
import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from figures import interleave, print_value
from PIL import Image

from raylabel.compute.resources import Cluster, Node
from raylabel.features.search import References
from raylabel.features.thumbnails import SIDE, descriptors, thumbnails
from raylabel.inference.network import rank_classes
from raylabel.media.view import View
from raylabel.models import Model
from raylabel.models.build import build, memory_format
from raylabel.selection.compare import CANDIDATE, Sets, pairs_of
from raylabel.selection.pairs import ROWS, THRESHOLD
from raylabel.selection.samples import Samples

SETS = (1_000, 10_000, 50_000)
IMAGES = 64  # of a forward pass at 224 px


def load(path: Path) -> np.ndarray:
    """Thumbnails of the pictures in a table."""
    media = pq.read_table(path, columns=["image"]).column("image").to_pylist()
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(one)).convert("RGB")) for one in media])
    return np.concatenate([thumbnails(some).numpy() for some in torch.from_numpy(pixels).split(512)])


def turned(pictures: np.ndarray) -> np.ndarray:
    """Them, and them mirrored and turned, one kind after the other."""
    square = pictures.reshape(-1, SIDE, SIDE, 3)
    kinds = [square, square[:, :, ::-1], *(np.rot90(square, turns, (1, 2)) for turns in (1, 2, 3))]
    return np.concatenate([kind.reshape(len(pictures), -1) for kind in kinds])


def samples(pictures: np.ndarray) -> Samples:
    count = len(pictures)
    digest = np.arange(count).astype("S16")
    return Samples(np.arange(count), digest, np.zeros(count, int), pictures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=str(Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar10"))
    parser.add_argument("--quick", action="store_true", help="one round")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder, precision = Path(arguments.data), Cluster((Node(1, 0),)).precision("auto")
    corpus, others = load(folder / "unlabeled-0.parquet"), turned(load(folder / "test.parquet"))
    view, module = View(), build(Model(arch="resnet18"), 1000).eval()
    module = module.to(memory_format=memory_format(module))  # pyright: ignore[reportCallIssue]
    images = torch.randint(0, 256, (IMAGES, 224, 224, 3), dtype=torch.uint8)

    def network() -> float:
        begin = time.perf_counter()
        rank_classes(module, images, view, precision, 10)
        return IMAGES / (time.perf_counter() - begin)

    def small() -> float:
        begin = time.perf_counter()
        for _ in range(4):
            thumbnails(images)
        return 4 * IMAGES / (time.perf_counter() - begin)

    def search(count: int) -> Callable[[], float]:
        sets = Sets(("test",), np.zeros(count, int), samples(others[:count]))
        known = References(descriptors(others[:count]), CANDIDATE, precision)

        def run() -> float:
            mine = samples(corpus[:ROWS])
            begin = time.perf_counter()
            pairs_of(mine, sets, known, THRESHOLD)
            return ROWS / (time.perf_counter() - begin)

        return run

    arms = {"network": network, "thumbnails": small} | {f"against {n:,}": search(n) for n in SETS}
    rates = interleave(arms, 1 if arguments.quick else 3)
    for arm, values in rates.items():
        print_value("pairs", f"{arm}, {precision}, one core", [1e6 / value for value in values], "us a sample")
        if arm != "network":
            shares = [100 * own / value for own, value in zip(rates["network"], values, strict=True)]
            print_value("pairs", f"{arm}: of the time of ResNet-18 at 224 px", shares, "%")


if __name__ == "__main__":
    main()
