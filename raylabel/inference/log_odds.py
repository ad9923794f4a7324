"""The score that orders samples as softmax does, without saturation.

Letters: B batch, M clips of a video, C classes, P classes kept per sample.

Near p = 1 a float32 softmax has at most 2^24 values for each factor of two, and then only 1.0, so the best samples of a
long list all tie. log p / (1 - p) increases with p and keeps its resolution there. For a video, p is the mean of the
softmax over its clips (Yalniz et al. 2019, section 5.1).
"""

import torch


def log_odds(logits: torch.Tensor) -> torch.Tensor:
    """log p / (1 - p) of every class, p = softmax(logits): x_c - logsumexp_{j != c} x_j.

    logits: [B, C], C >= 2, finite, any float type. Returns float32 [B, C], on the same device. A row with a NaN or an
    infinite logit gives NaN in that row. ValueError if there are fewer than 2 classes.

    Computed in float64 and rounded once, so that the order is that of the exact values wherever float32 distinguishes
    them.
    """
    if logits.ndim != 2:
        raise ValueError(f"log-odds need logits [B, C] with at least 2 classes, got {list(logits.shape)}")
    own, others, _ = _log_sums(logits)
    return (own - others).float()


def mean_log_odds(logits: torch.Tensor) -> torch.Tensor:
    """log p / (1 - p) of every class, p = the mean over clips of softmax(logits).

    logits: [B, M, C], M >= 1, otherwise as for `log_odds`. Returns float32 [B, C]; for M = 1 these are the same bits as
    those of `log_odds`.

    The means of p and of 1 - p are computed separately, each from its logarithms. Neither is computed as 1 minus the
    other, so their quotient keeps its resolution where one of them is almost 0.
    """
    if logits.ndim != 3 or not logits.shape[1]:
        raise ValueError(f"log-odds of clips need logits [B, M, C] with at least 1 clip, got {list(logits.shape)}")
    own, others, whole = _log_sums(logits)
    # The terms of each clip are divided by its sum of exponentials. Only the ratios of these sums matter, so they are
    # taken relative to the sum of the first clip. That of a single clip is then exactly 1.
    whole = whole - whole[:, :1]
    return ((own - whole).logsumexp(1) - (others - whole).logsumexp(1)).float()


def _log_sums(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The logarithms of exp x_c, of the sum of the other terms, and of the whole sum, relative to exp of the largest x.

    logits: [..., C]. Returns float64 [..., C] twice, and [..., 1]. The sum of the other terms is never computed by
    subtracting a term that dominates it: for the best class the others are summed directly, and for any other class the
    sum contains exp(0) of the best class.
    """
    if logits.shape[-1] < 2:
        raise ValueError(f"log-odds need at least 2 classes, got logits {list(logits.shape)}")
    x = logits.double()
    top, best = x.max(dim=-1, keepdim=True)
    x = x - top  # [..., C], 0 at the best class
    others = x.scatter(-1, best, -torch.inf)
    terms = others.exp()
    total = terms.sum(-1, keepdim=True)  # without the term of the best class, which is 1
    second = others.amax(-1, keepdim=True)
    # For the best class: the sum relative to the second best class, whose own term is the 1 that is subtracted here and
    # that log1p adds back. In this form, classes that tie for the best have the same bits.
    tail = (others - second).exp().sum(-1, keepdim=True) - 1
    return x, (total - terms).log1p().scatter(-1, best, second + tail.log1p()), total.log1p()


def top_classes(logits: torch.Tensor, p: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The `p` best classes of every sample: logit descending (so log-odds descending), then class index ascending.

    logits: [B, C], as for `log_odds`. Returns classes int32 [B, P], log_odds float32 [B, P], logits float32 [B, P].
    ValueError if p is not in 1..C.
    """
    _check(p, logits.shape[-1])
    logits = logits.float() + 0.0  # -0.0 becomes 0.0, so that equal values tie however the sort treats signed zeros
    best = _descending(logits)[:, :p]
    return best.int(), log_odds(logits).gather(1, best), logits.gather(1, best)


def top_classes_of_clips(logits: torch.Tensor, p: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The `p` best classes of every video: log-odds of the mean softmax descending, then mean logit descending, then
    class index ascending.

    logits: [B, M, C], as for `mean_log_odds`. Returns classes int32 [B, P], log_odds float32 [B, P], logits float32
    [B, P], the mean over clips, and clips int32 [B, M], the best class of each clip (the first of equals). For M = 1
    the first three are those of `top_classes`. ValueError if p is not in 1..C.
    """
    _check(p, logits.shape[-1])
    logits = logits.float()
    odds, mean = mean_log_odds(logits), logits.double().mean(1).float() + 0.0
    best = _descending(mean)
    best = best.gather(1, _descending(odds.gather(1, best)))[:, :p]  # a stable sort keeps the order of ties
    return best.int(), odds.gather(1, best), mean.gather(1, best), logits.argmax(2).int()


def _check(p: int, classes: int) -> None:
    if not 1 <= p <= classes:
        raise ValueError(f"cannot keep {p} of {classes} classes per sample")


def _descending(values: torch.Tensor) -> torch.Tensor:
    """The indices that sort each row, ties by index. torch.topk does not specify which of equal values it returns."""
    return values.sort(dim=1, descending=True, stable=True).indices
