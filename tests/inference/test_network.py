"""Ranking in bfloat16 compared with the same network in float32."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import DIGITS_VIEW, digit_images, random_model
from scipy.stats import kendalltau

from raylabel.inference.network import Network
from raylabel.media.image_views import eval_pixels
from raylabel.store.artifact import Root


@pytest.fixture
def one_thread():
    """`start` sets the number of threads of its process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_logits_in_bf16_are_distinct_and_in_the_order_of_float32(one_thread: None, tmp_path: Path) -> None:
    """A list of picks is the order of the logits of a class, so those must differ where those in float32 differ."""
    media, _ = digit_images()
    pixels = np.stack([eval_pixels(one, DIGITS_VIEW) for one in media])
    model, logits = random_model(Root.open(str(tmp_path))), {}
    for name, precision, head in (("float32", "fp32", True), ("now", "bf16", True), ("before", "bf16", False)):
        ((classes, _, found),) = Network(model, DIGITS_VIEW, precision, 10, head).start(gpu=False)([pixels])
        logits[name] = np.take_along_axis(found, np.argsort(classes, 1), 1)  # [N, C]

    for c in range(10):
        exact, now, before = (logits[name][:, c] for name in ("float32", "now", "before"))
        assert len(np.unique(now)) > 0.99 * len(np.unique(exact)) > 0.98 * len(media)
        assert len(np.unique(before)) < 0.6 * len(media)  # otherwise the last layer would not matter
        assert kendalltau(exact, now).statistic > 0.98  # the other layers are in bf16
