"""The score that orders samples as softmax does and does not saturate.

Letters: B batch, C classes, P classes kept per sample.

Near p = 1 a float32 softmax has no more than 2^24 values for each factor of two and then only 1.0: the head of a long
list is one tie. log p / (1 - p) grows with p and keeps its resolution there.
"""

import torch


def log_odds(logits: torch.Tensor) -> torch.Tensor:
    """log p / (1 - p) of every class, p = softmax(logits): x_c - logsumexp_{j != c} x_j.

    logits: [B, C], C >= 2, finite, any float type. Returns float32 [B, C], on the same device. A row with a NaN or an
    infinite logit gives NaN in that row. ValueError if there are fewer than 2 classes.

    Computed in float64 and rounded once, so that the order is that of the exact value wherever float32 can tell two
    values apart. The sum over the other classes never comes from subtracting a term that dominates it:
    the best class has its others summed directly, and for any other class that sum holds exp(0) of the best.
    """
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(f"log-odds need logits [B, C] with at least 2 classes, got {list(logits.shape)}")
    x = logits.double()
    top, best = x.max(dim=1, keepdim=True)
    x = x - top  # [B, C], 0 at the best class
    others = x.scatter(1, best, -torch.inf)
    terms = others.exp()
    rest = terms.sum(1, keepdim=True) - terms  # of c != best: all terms but its own and the best's, which is 1
    second = others.amax(1, keepdim=True)
    # Of the best class: the sum relative to the second best, whose own term is the 1 that log1p adds back. Written
    # like this, classes that tie for the best get the same bits.
    tail = (others - second).exp().sum(1, keepdim=True) - 1
    return (x - rest.log1p()).scatter(1, best, -second - tail.log1p()).float()


def top_classes(logits: torch.Tensor, p: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The `p` best classes of every sample: logit descending (so log-odds descending), then class index ascending.

    logits: [B, C], as for `log_odds`. Returns classes int32 [B, P], log_odds float32 [B, P], logits float32 [B, P].
    ValueError if p is not in 1..C.
    """
    if not 1 <= p <= logits.shape[1]:
        raise ValueError(f"cannot keep {p} of {logits.shape[1]} classes per sample")
    logits = logits.float() + 0.0  # -0.0 becomes 0.0: one value, one place in the order, whatever the sort makes of it
    # Not torch.topk: which of several equal logits it returns is unspecified.
    best = logits.sort(dim=1, descending=True, stable=True).indices[:, :p]
    return best.int(), log_odds(logits).gather(1, best), logits.gather(1, best)
