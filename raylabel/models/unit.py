"""A last layer on features of unit length. Programs without raylabel use a copy of this file."""

import torch
from torch import Tensor, nn


class UnitLinear(nn.Linear):
    """A linear layer that scales its input [B, D] to unit length and rounds it to float16, and computes in float32.

    These are the features that FEATURES store, so that the logits computed from stored features have the same bits.
    """

    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            unit = unit_features(input.float())[0]
            return nn.functional.linear(unit.float(), self.weight.float(), self.bias.float())


def unit_features(features: Tensor) -> tuple[Tensor, Tensor]:
    """(float16 [B, D] of unit length, their norms before float32 [B]) of float32 [B, D]. A feature that is zero stays
    so."""
    norm = torch.linalg.vector_norm(features, dim=1)
    return (features / norm.clamp_min(torch.finfo(torch.float32).tiny)[:, None]).half(), norm
