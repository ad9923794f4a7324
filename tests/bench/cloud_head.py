"""Row 9 of issue 14: the last layer in float32 while the others compute in bf16. See cloud_tables.py.

It is a module of its own because it imports PyTorch, which takes more memory than what `row_13` measures.
"""

import functools
import tempfile
import time

import numpy as np
import torch
from figures import interleave, print_ratio, print_value
from helpers import DIGITS_VIEW, as_artifact, digit_images
from scipy.stats import kendalltau

from raylabel.inference.network import CACHED, Network
from raylabel.media.image_views import eval_pixels, normalise
from raylabel.media.view import View
from raylabel.models import Model
from raylabel.models.build import build
from raylabel.models.head import Float32
from raylabel.store.artifact import Root


def row_9(rounds: int = 5) -> None:
    """The last layer in float32 while the others compute in bf16: distinct logits, their order, and the cost.

    The network is trained on half of scikit-learn's digits and ranks the other half. The cost is measured with the last
    layer alone, since a CPU without bf16 takes minutes for an image in bf16, and is compared with the whole network in
    fp32.
    """
    torch.set_num_threads(1)
    pixels = np.stack([eval_pixels(media, DIGITS_VIEW) for media in digit_images()[0]])
    with tempfile.TemporaryDirectory() as folder:
        model = as_artifact(
            Root.open(folder), Model(arch="resnet8x1"), 10, _trained(pixels[::2], digit_images()[1][::2])
        )
        arms = {"fp32": ("fp32", True), "bf16": ("bf16", False), "bf16, head in fp32": ("bf16", True)}
        logits = {name: _logits(Network(model, DIGITS_VIEW, *arm), pixels[1::2]) for name, arm in _with_p(arms).items()}
    for name, found in logits.items():
        print_value("row 9", f"{name}: distinct logits of a class among {len(found)} rows", _distinct(found), "logits")
        order = [float(kendalltau(a, b, variant="b").statistic) for a, b in zip(logits["fp32"].T, found.T, strict=True)]
        print_value("row 9", f"{name}: Kendall's tau-b of a class's order with fp32", order, "")
    for arch, classes in (("resnet18", 1000), ("resnet50", 1000), ("resnet50", 21_000)):
        _head_cost(arch, classes, rounds)


def _with_p(arms: dict[str, tuple[str, bool]]) -> dict[str, tuple[str, int, bool]]:
    return {name: (precision, 10, head) for name, (precision, head) in arms.items()}


def _trained(pixels: np.ndarray, labels: np.ndarray) -> torch.nn.Module:
    torch.manual_seed(0)
    module, labels_ = build(Model(arch="resnet8x1"), 10), torch.from_numpy(labels)
    images = normalise(torch.from_numpy(pixels), DIGITS_VIEW)
    optimizer = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    for _ in range(300):
        some = torch.randint(len(images), (64,))
        torch.nn.functional.cross_entropy(module(images[some]), labels_[some]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return module


def _logits(network: Network, pixels: np.ndarray) -> np.ndarray:
    ((classes, _, logits),) = network.start(gpu=False)([pixels])
    return np.take_along_axis(logits, np.argsort(classes, 1), 1)  # [N, C]


def _distinct(logits: np.ndarray) -> list[float]:
    return [float(len(np.unique(column))) for column in logits.T]


def _head_cost(arch: str, classes: int, rounds: int) -> None:
    """CPU ms an image of the last layer in bf16 and in fp32, interleaved, and of the whole network in fp32."""
    images = max(1, CACHED // 224**2)
    network = build(Model(arch=arch), classes).eval().to(memory_format=torch.channels_last)  # pyright: ignore
    features = torch.randn(images, network.fc.in_features).bfloat16()  # pyright: ignore
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (images, 224, 224, 3), np.uint8))
    scorer = Network(None, View(), "fp32", 10)  # pyright: ignore[reportArgumentType]

    def layer(module: torch.nn.Module) -> float:
        start = time.process_time()
        with torch.inference_mode():
            for _ in range(20):
                with torch.autocast("cpu", torch.bfloat16):  # as for each batch, which casts the weights again
                    module(features)
        return 20 * images / (time.process_time() - start)

    def whole() -> float:
        start = time.process_time()
        scorer.logits(network, pixels)
        return images / (time.process_time() - start)

    head = network.fc
    arms = {
        "last layer in bf16": functools.partial(layer, head),  # pyright: ignore
        "last layer in fp32": functools.partial(layer, Float32(head)),  # pyright: ignore
        "whole network in fp32": whole,
    }
    for arm in arms.values():
        arm()
    found = interleave(arms, rounds)
    what = f"{arch}, {classes} classes, one core"
    for name, rates in found.items():
        print_value("row 9", f"{what}, {name}: CPU ms an image", [1000 / r for r in rates], "ms")
    print_ratio(
        "row 9",
        f"{what}: speed of the last layer in fp32",
        "in bf16",
        found["last layer in fp32"],
        found["last layer in bf16"],
    )
