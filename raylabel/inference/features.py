"""The trunk of a network as a scorer: the feature of each sample → FEATURES.

Letters: B batch, D numbers of a feature, M clips of a video, T frames of a clip, H W pixels.
"""

from dataclasses import dataclass
from typing import Any

from raylabel.features.thumbnails import thumbnails
from raylabel.inference.network import Network, outputs_of
from raylabel.inference.scorer import Kept
from raylabel.media.view import View
from raylabel.models import Model
from raylabel.models.init import PENULTIMATE, TRUNK, Init
from raylabel.schema import features_schema


@dataclass(frozen=True)
class FeatureNetwork(Network):
    """A network that gives the feature of an image, or of a video the mean of its clips' features. `model` has at least
    the weights of its trunk, and `p` is D."""

    arch: Model = Model()
    """The architecture."""
    layer: str = PENULTIMATE
    """See models/trunk.py."""

    @property
    def kept(self) -> Kept:
        return Kept("features", features_schema(self.p), self.thumbnails)

    def _load(self) -> Any:
        from raylabel.models.start import start_network
        from raylabel.models.trunk import trunk

        return trunk(start_network(self.arch, 1, Init(take=(TRUNK,)), self.model), self.layer)

    def _forward(self, module: Any, pixels: Any) -> tuple[Any, ...]:
        found = features_of(module, pixels, self.view, self.precision)
        return (*found, thumbnails(pixels)) if self.thumbnails else found


def features_of(module: Any, pixels: Any, view: View, precision: str) -> tuple[Any, ...]:
    """(features float16 [B, D] of unit length, their norms before float32 [B]) of pixels uint8 [B, H, W, 3] or
    [B, M, T, H, W, 3], on their device. A feature that is zero stays so."""
    import torch

    from raylabel.models.unit import unit_features

    with torch.inference_mode():
        found = outputs_of(module, pixels, view, precision)
        if view.clip:
            found = found.unflatten(0, pixels.shape[:2]).mean(1)
        return unit_features(found)
