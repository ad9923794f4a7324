"""The parsers of pixels that run in the sandbox."""

from collections.abc import Callable, Sequence

import numpy as np

from raylabel.media.image_views import eval_pixels, resize, train_pixels
from raylabel.media.video_views import eval_clips, part_of, train_clip
from raylabel.media.view import Clip, View
from raylabel.rng import rng


def eval_parser(view: dict) -> Callable[[bytes, Sequence[float]], np.ndarray]:
    """`eval_pixels` of a view, given by its fields, for the sandbox; of a view with a clip `eval_clips`, a sample's
    numbers being none, or the start and end of its part in seconds."""
    config = _view_of(view)
    if config.clip:
        from raylabel.media.video import warm_up

        warm_up()
        return lambda data, numbers: eval_clips(data, config, part_of(numbers))

    import torch

    torch.set_num_threads(1)
    # At its first call torch looks in a file what the processor can do. A child opens none, and would take slow ways.
    resize(np.zeros((2, 2, 3), np.uint8), (2, 2), (4, 4))
    return lambda data, _: eval_pixels(data, config)


def train_parser(view: dict) -> Callable[[bytes, Sequence[int]], np.ndarray]:
    """`train_pixels` of a view, or `train_clip`, for the sandbox; a sample's numbers are those of `rng`."""
    config = _view_of(view)
    if config.clip:
        from raylabel.media.video import warm_up

        warm_up()
        return lambda data, numbers: train_clip(data, config, rng(*numbers))
    return lambda data, numbers: train_pixels(data, config, rng(*numbers))


def _view_of(fields: dict) -> View:
    clip = fields.get("clip")
    return View(**{**fields, "clip": Clip(**clip) if clip else None})
