"""Filters of a convolution that are learned from patches of its input, without labels and without the layers behind it.

Letters: P patches, D numbers of a patch, M filters, B patches of a batch.
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np

from raylabel.compute.watchdog import heartbeat

Method = Literal["kmeans", "pca", "rbm", "autoencoder"]
METHODS: tuple[Method, ...] = get_args(Method)

CONTRAST = 0.01
"""Added to the variance of each patch, as a share of the mean variance. Coates & Ng add 10 to that of pixels of 0 to
255, which is about as much."""
FLAT = 0.1
"""Added to the variance of each direction before it is whitened, as a share of the mean variance (Coates & Ng)."""
ITERATIONS = 10
"""Of k-means."""
RANK = 1e-6
"""Directions with less variance than this share of the largest are no components."""
BATCH, PASSES = 100, 5
"""Of SGD, by which the restricted Boltzmann machine and the autoencoder are trained."""
MASKED = 0.25
"""Share of the numbers of a patch that the autoencoder has to restore."""
RBM_RATE, MOMENTUM, AUTOENCODER_RATE = 1e-2, 0.9, 1e-3
"""Learning rates with which the errors of reconstruction on patches of CIFAR-10 are low; no labels were used."""


def learn_filters(method: Method, patches: Any, drawn: Any, seed: int) -> Any:
    """Filters float32 [M, D] for patches float32 [P, D], on their device. `drawn` [M, D]: random filters, which stay if
    the method has fewer than M.

    kmeans: Coates & Ng 2012 ("Learning Feature Representations with K-means", §2 and §3): patches of equal contrast,
    whitened by ZCA; the centroids of spherical k-means; a filter is the whitening times a centroid. We differ: a point
    does not belong to the negative of a centroid. pca: the principal components, the one with the largest variance
    first, then the negatives of these, since a ReLU follows; the rest stays random. rbm: a restricted Boltzmann machine
    with Gaussian visible and binary hidden units (Hinton & Salakhutdinov 2006) of the same whitened patches (as
    Krizhevsky 2009). autoencoder: a denoising autoencoder with rectified units and tied weights, whose noise is masked
    numbers (Vincent et al. 2010, §3 and §4).

    Each filter has the length with which its output has variance 1 over the patches. A convolution has no normalisation
    of contrast, so that the outputs are those of the method for patches of equal contrast alone.
    """
    import torch

    learn: Callable[..., Any] = {"kmeans": _kmeans, "pca": _pca, "rbm": _rbm, "autoencoder": _autoencoder}[method]
    found = learn(patches, len(drawn), seed)
    filters = torch.cat([found, drawn[len(found) :]])
    deviation = (patches @ filters.T).std(0, correction=0)[:, None]
    # Where the input is always zero, a filter of any length has no output.
    return torch.where(deviation > 0, filters / deviation.clamp(min=torch.finfo(deviation.dtype).tiny), drawn)


def _whitened(patches: Any) -> tuple[Any, Any]:
    """(patches of equal contrast, whitened; the whitening [D, D], which is symmetric)"""
    centered = patches - patches.mean(1, keepdim=True)
    variance = centered.var(1, correction=0, keepdim=True)
    equal = centered / (variance + CONTRAST * variance.mean()).clamp(min=1e-12).sqrt()
    equal = equal - equal.mean(0)
    values, vectors = _directions(equal)
    whitening = vectors * (values + FLAT * values.mean()).clamp(min=1e-12).rsqrt() @ vectors.T
    return equal @ whitening, whitening


def _directions(centered: Any) -> tuple[Any, Any]:
    """(variances [D], ascending; directions [D, D], a column for each) of patches with mean 0. Many of the variances
    may be 0 or equal, with which the search for them does not always end in float32."""
    import torch

    values, vectors = torch.linalg.eigh((centered.T @ centered / len(centered)).double())
    return values.clamp(min=0).to(centered.dtype), vectors.to(centered.dtype)


def _of_patches(filters: Any, whitening: Any) -> Any:
    """Filters [M, D] of whitened patches as filters of the patches themselves: they do not see the mean of a patch."""
    found = filters @ whitening
    return found - found.mean(1, keepdim=True)


def _kmeans(patches: Any, count: int, seed: int) -> Any:
    import faiss
    import torch

    white, whitening = _whitened(patches)
    faiss.omp_set_num_threads(1)  # a worker has one CPU; and the sums do not depend on the number of threads
    means = faiss.Kmeans(
        white.shape[1],
        min(count, len(white)),
        niter=ITERATIONS,
        seed=seed,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=len(white),
    )
    means.train(np.ascontiguousarray(white.cpu().numpy()))
    heartbeat()
    centroids = torch.from_numpy(np.array(means.centroids).reshape(-1, white.shape[1]))
    return _of_patches(centroids.to(patches.device), whitening)


def _pca(patches: Any, count: int, _: int) -> Any:
    import torch

    centered = patches - patches.mean(0)
    values, vectors = _directions(centered)
    components = vectors.T.flip(0)[: int((values > RANK * values.max()).sum())]
    # The sign is arbitrary: the largest number of a component is positive.
    largest = components.gather(1, components.abs().argmax(1, keepdim=True))
    components = components * largest.sign()
    return torch.cat([components, -components])[:count]


def _rbm(patches: Any, count: int, seed: int) -> Any:
    white, whitening = _whitened(patches)
    weights, *_ = train_rbm(white, count, seed, PASSES)
    return _of_patches(weights.T, whitening)


def train_rbm(visible: Any, count: int, seed: int, passes: int) -> tuple[Any, Any, Any]:
    """(weights [D, M], biases of the hidden units [M], of the visible ones [D]) of a restricted Boltzmann machine with
    Gaussian visible units of variance 1 and binary hidden ones, by contrastive divergence with one step (Hinton 2002;
    "A Practical Guide to Training Restricted Boltzmann Machines", 2010, §3, §9 and §13.2). `visible`: [P, D]."""
    import torch

    generator = torch.Generator(visible.device).manual_seed(seed)
    weights = 0.01 * torch.randn(visible.shape[1], count, generator=generator, device=visible.device)
    hidden_bias, visible_bias = visible.new_zeros(count), visible.new_zeros(visible.shape[1])
    parameters = [weights, hidden_bias, visible_bias]
    optimizer = torch.optim.SGD(parameters, lr=RBM_RATE, momentum=MOMENTUM)
    for data in _batches(visible, passes, generator):
        hidden = (data @ weights + hidden_bias).sigmoid()
        state = torch.bernoulli(hidden, generator=generator)
        model = state @ weights.T + visible_bias  # its mean, without noise
        again = (model @ weights + hidden_bias).sigmoid()
        rises = data.T @ hidden - model.T @ again, (hidden - again).sum(0), (data - model).sum(0)
        for parameter, rise in zip(parameters, rises, strict=True):
            parameter.grad = -rise / len(data)
        optimizer.step()
    return weights, hidden_bias, visible_bias


def _autoencoder(patches: Any, count: int, seed: int) -> Any:
    deviation = patches.std(0, correction=0)
    scale = 1 / deviation.clamp(min=1e-6 * float(deviation.max()) + 1e-12)
    weights, *_ = train_autoencoder((patches - patches.mean(0)) * scale, count, seed, PASSES)
    return weights.T * scale


def train_autoencoder(clean: Any, count: int, seed: int, passes: int) -> tuple[Any, Any, Any]:
    """(weights [D, M], biases of the hidden units [M], of the output [D]) of a denoising autoencoder for [P, D]: its
    output relu(x W + b) W^T + c, for x with masked numbers, is as near to x itself as it can be. By Adam, whose steps
    do not depend on the scale."""
    import torch

    generator = torch.Generator(clean.device).manual_seed(seed)
    weights = torch.randn(clean.shape[1], count, generator=generator, device=clean.device) / clean.shape[1] ** 0.5
    parameters = [weights, clean.new_zeros(count), clean.new_zeros(clean.shape[1])]
    for parameter in parameters:
        parameter.requires_grad_()
    optimizer = torch.optim.Adam(parameters, lr=AUTOENCODER_RATE)
    for data in _batches(clean, passes, generator):
        kept = torch.rand(data.shape, generator=generator, device=data.device) >= MASKED
        loss = (restored(data * kept, *parameters) - data).square().sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    weights, hidden_bias, bias = (parameter.detach() for parameter in parameters)
    return weights, hidden_bias, bias


def restored(x: Any, weights: Any, hidden_bias: Any, bias: Any) -> Any:
    """The output [B, D] of an autoencoder for x [B, D]."""
    return (x @ weights + hidden_bias).relu() @ weights.T + bias


def _batches(data: Any, passes: int, generator: Any) -> Any:
    """All of the data in another order in each pass, in batches [B, D]."""
    import torch

    for _ in range(passes):
        order = torch.randperm(len(data), generator=generator, device=data.device)
        for some in order.split(BATCH):
            heartbeat()
            yield data[some]
