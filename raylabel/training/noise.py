"""Noise in training: features that are dropped, and labels that are replaced.

The random numbers are those of torch's default generator.
"""

from typing import Any


def drop_features(network: Any, share: float) -> None:
    """From now on, in training mode, this share of what the last layer takes is zero, and the rest is scaled so that
    its mean stays (Srivastava et al. 2014). The names of weights are as before."""
    if not share:
        return
    from torch.nn import functional

    from raylabel.models.head import head_of  # imports PyTorch, which a command line is parsed without

    def drop(layer: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return functional.dropout(given[0], share, layer.training), *given[1:]

    network.get_submodule(head_of(network)).register_forward_pre_hook(drop)


def replace_labels(labels: Any, share: float, classes: int) -> Any:
    """Labels int64 [B], of which this share, on average, is a random class, each with the same probability."""
    if not share:
        return labels
    import torch

    chosen = torch.rand(len(labels), device=labels.device) < share
    return torch.where(chosen, torch.randint_like(labels, classes), labels)
