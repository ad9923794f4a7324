"""The score that orders samples as softmax does, without saturation.

Letters: B batch, M clips of a video, C classes, P classes kept per sample.

Near p = 1 a float32 softmax has at most 2^24 values for each factor of two, and then only 1.0, so the best samples of a
long list all tie. log p / (1 - p) increases with p and keeps its resolution there. For a video, p is the mean of the
softmax over its clips (Yalniz et al. 2019, section 5.1).
"""

import torch

CACHED = 1 << 18  # logits that are ranked together on a CPU: their float64 copy is 2 MB and stays in its caches


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


def _log_sums(
    logits: torch.Tensor, best: torch.Tensor | None = None, classes: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The logarithms of exp x_c, of the sum of the other terms, and of the whole sum, relative to exp of the largest x.

    logits: [..., C]. `best`: int64 [..., 2 or more], the classes with the largest logits, descending; they are searched
    if it is None. `classes`: int64 [..., P], those that are wanted; None for all. Returns float64 [..., P] twice, and
    [..., 1]. The sum of the other terms is never computed by subtracting a term that dominates it: all terms are
    relative to the second best class, and that of the best class is not among them. Classes that tie for the best have
    the same bits.
    """
    if logits.shape[-1] < 2:
        raise ValueError(f"log-odds need at least 2 classes, got logits {list(logits.shape)}")
    best = logits.topk(2).indices if best is None else best
    x, first = logits.to(torch.float64, copy=True), best[..., :1]
    top, second = x.gather(-1, first), x.gather(-1, best[..., 1:2])
    own = x.clone() if classes is None else x.gather(-1, classes)
    # In place: on a CPU, tensors of this size that are allocated for every step take longer than the arithmetic.
    terms = x.sub_(second).scatter_(-1, first, -torch.inf).exp_()
    total = terms.sum(-1, keepdim=True)  # at least 1, the term of the second best class
    if classes is None:
        of_first = torch.zeros_like(x, dtype=torch.bool).scatter_(-1, first, True)
    else:
        of_first, terms = classes == first, terms.gather(-1, classes)
    gap = second - top
    # For any other class, the 1 in log1p is the term of the best class. For the best class it is that of the second.
    others = torch.where(of_first, gap + (total - 1).log1p(), (gap.exp() * (total - terms)).log1p())
    return own - top, others, (gap.exp() * total).log1p()


def top_classes(logits: torch.Tensor, p: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The `p` best classes of every sample: logit descending (so log-odds descending), then class index ascending.

    logits: [B, C], as for `log_odds`. Returns classes int32 [B, P], log_odds float32 [B, P], logits float32 [B, P].
    ValueError if p is not in 1..C.
    """
    _check(p, logits.shape[-1])
    if not logits.is_cuda and len(logits) > (rows := max(1, CACHED // logits.shape[1])):
        some = [top_classes(part, p) for part in logits.split(rows)]
        return tuple(torch.cat(found) for found in zip(*some, strict=True))  # pyright: ignore[reportReturnType]
    logits = logits.float() + 0.0  # -0.0 becomes 0.0, so that equal values tie however the sort treats signed zeros
    best = _best(logits, max(p, 2))
    classes = best[:, :p]
    own, others, _ = _log_sums(logits, best, classes)
    return classes.int(), (own - others).float(), logits.gather(1, classes)


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


def _best(values: torch.Tensor, count: int) -> torch.Tensor:
    """The indices of the `count` largest values of each row, descending, ties by index."""
    if values.is_cuda or count >= values.shape[1]:  # to ask whether there are ties would wait for the GPU
        return _descending(values)[:, :count]
    found = values.topk(count + 1)
    best, tied = found.indices[:, :count], (found.values.diff(dim=1) == 0).any(1)
    if tied.any():  # topk does not specify which of equal values it returns
        best[tied] = _descending(values[tied])[:, :count]
    return best


def _descending(values: torch.Tensor) -> torch.Tensor:
    """The indices that sort each row, ties by index."""
    return values.sort(dim=1, descending=True, stable=True).indices
