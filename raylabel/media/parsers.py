"""The parsers that the sandbox runs to make a model's input from encoded media. Each is created from a view.

A child of the sandbox cannot open files, so a parser loads all that it needs when it is created, before the fork.
"""

from collections.abc import Callable, Sequence

import numpy as np

from raylabel.media import augment
from raylabel.media.image_views import eval_pixels, resize, train_pixels
from raylabel.media.video_views import eval_clips, segment_of, train_clip
from raylabel.media.view import Clip, View
from raylabel.rng import rng


def eval_parser(view: dict) -> Callable[[bytes, Sequence[float]], np.ndarray]:
    """`eval_pixels` for the view with these fields, or `eval_clips` if the view has a clip. A sample's numbers are the
    start and end of its segment in seconds, or none."""
    config = _view_of(view)
    if config.clip:
        from raylabel.media.video import warm_up

        warm_up()
        return lambda data, numbers: eval_clips(data, config, segment_of(numbers))

    _warm_up_resize()
    return lambda data, _: eval_pixels(data, config)


def train_parser(view: dict) -> Callable[[bytes, Sequence[int]], np.ndarray]:
    """`train_pixels` for the view with these fields, or `train_clip` if the view has a clip. A sample's numbers are the
    arguments of `rng`."""
    config = _view_of(view)
    augment.warm_up(config)
    if config.clip:
        from raylabel.media.video import warm_up

        warm_up()
        return lambda data, numbers: train_clip(data, config, rng(*numbers))
    if config.crop == "center":
        _warm_up_resize()
    return lambda data, numbers: train_pixels(data, config, rng(*numbers))


def _warm_up_resize() -> None:
    import torch

    torch.set_num_threads(1)
    # In its first call torch reads the processor's features from a file. A child cannot, and would use slower code.
    resize(np.zeros((2, 2, 3), np.uint8), (2, 2), (4, 4))


def _view_of(fields: dict) -> View:
    clip = fields.get("clip")
    return View(**{**fields, "clip": Clip(**clip) if clip else None})
