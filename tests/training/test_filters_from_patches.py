"""Filters that are learned from made-up patches, against known directions, scikit-learn and random filters."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from raylabel.training.filters_from_patches import (
    MASKED,
    METHODS,
    Method,
    learn_filters,
    restored,
    train_autoencoder,
    train_rbm,
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def correlated(count: int, width: int) -> Tensor:
    """Patches with directions of different variances, far from orthogonal to the axes."""
    basis, _ = torch.linalg.qr(random(width, width, seed=1))
    return random(count, width) * torch.linspace(3, 0.5, width) @ basis + 1


def bars(count: int, side: int = 5) -> Tensor:
    """Pictures of bars, each of the 2 `side` rows and columns with a probability of 1/5 (Földiák 1990), as 0 and 1."""
    on = torch.rand(count, 2 * side, generator=torch.Generator().manual_seed(2)) < 0.2
    return (on[:, :side, None] | on[:, None, side:]).float().flatten(1)


@pytest.mark.parametrize("method", METHODS)
def test_outputs_have_variance_one_and_the_seed_decides(method: Method):
    patches, drawn = correlated(2_000, 18), random(50, 18)
    found = learn_filters(method, patches, drawn, 0)
    assert found.shape == (50, 18) and found.dtype == torch.float32
    torch.testing.assert_close((patches @ found.T).var(0, correction=0), torch.ones(50), atol=1e-3, rtol=1e-3)
    assert torch.equal(found, learn_filters(method, patches, drawn, 0))
    assert torch.equal(found, learn_filters(method, patches, drawn, 1)) == (method == "pca")


@pytest.mark.parametrize("method", METHODS)
def test_filters_of_an_input_that_is_always_zero_stay_random(method: Method):
    patches, drawn = torch.zeros(200, 9), random(4, 9)
    assert torch.equal(learn_filters(method, patches, drawn, 0), drawn)


def test_kmeans_finds_the_directions_of_the_patches():
    """Patches of six directions, orthogonal and with mean 0, and of all lengths: whitening does not turn these."""
    directions = torch.linalg.qr(torch.cat([torch.ones(16, 1), random(16, 6)], 1))[0].T[1:]
    which = torch.randint(6, (3_000,), generator=torch.Generator().manual_seed(0))
    length = 1 + 4 * torch.rand(3_000, 1, generator=torch.Generator().manual_seed(1))
    patches = length * directions[which] + 0.02 * random(3_000, 16) + 7
    found = learn_filters("kmeans", patches, random(18, 16), 0)
    cosines = torch.nn.functional.normalize(found) @ directions.T
    # Three centroids for each direction: one of them alone would depend on the start. A centroid is a direction minus
    # the mean of all six, by contrast and whitening, so that it is only near it.
    assert cosines.max(0).values.min() > 0.85
    torch.testing.assert_close(found.sum(1), torch.zeros(18), atol=1e-4, rtol=0)


def test_filters_of_kmeans_whiten_their_input():
    """A centroid of white patches is as long in one direction as in another: its filter is longer where they vary
    less."""
    patches = correlated(4_000, 18)
    found = learn_filters("kmeans", patches, random(60, 18), 0)
    _, vectors = torch.linalg.eigh((patches - patches.mean(1, keepdim=True)).T.cov())
    energy = (found @ vectors).square().mean(0)  # from the least variance, that of the mean, to the most
    assert energy[1:6].mean() > 1.3 * energy[-5:].mean()


def test_components_are_those_of_scikit_learn_then_their_negatives_then_random_filters():
    patches, drawn = correlated(3_000, 12), random(30, 12)
    found = learn_filters("pca", patches, drawn, 0)
    oracle = PCA(svd_solver="full", whiten=True).fit(patches.numpy().astype(np.float64))
    wanted = torch.from_numpy(oracle.components_ / np.sqrt(oracle.explained_variance_)[:, None]).float()
    cosines = torch.nn.functional.cosine_similarity(found[:12], wanted)
    torch.testing.assert_close(cosines.abs(), torch.ones(12), atol=1e-4, rtol=0)
    torch.testing.assert_close(found[:12].norm(dim=1), wanted.norm(dim=1), atol=0, rtol=1e-3)
    torch.testing.assert_close(found[12:24], -found[:12])
    torch.testing.assert_close(torch.nn.functional.cosine_similarity(found[24:], drawn[24:]), torch.ones(6))
    assert torch.equal(learn_filters("pca", patches, drawn[:5], 0), found[:5])


def test_directions_without_variance_are_no_components():
    """Grey pictures: three equal channels."""
    patches, drawn = correlated(1_000, 4).repeat(1, 3), random(10, 12)
    found = learn_filters("pca", patches, drawn, 0)
    torch.testing.assert_close(found[4:8], -found[:4])
    torch.testing.assert_close(torch.nn.functional.cosine_similarity(found[8:], drawn[8:]), torch.ones(2))


def test_contrastive_divergence_lowers_the_reconstruction_error():
    data = bars(4_000)
    data = (data - data.mean(0)) / data.std()

    def error(weights: Tensor, hidden: Tensor, visible: Tensor) -> float:
        """Per number, of the mean of the visible units for the mean of the hidden ones."""
        again = (data @ weights + hidden).sigmoid() @ weights.T + visible
        return float((again - data).square().mean())

    begun, trained = train_rbm(data, 20, 0, passes=0), train_rbm(data, 20, 0, passes=20)
    scaled = random(25, 20) * trained[0].norm() / 500**0.5, trained[1], trained[2]
    assert error(*begun) > 0.95  # that of the mean is 1
    assert error(*trained) < 0.5 * error(*begun)
    assert error(*trained) < 0.5 * error(*scaled)


def test_contrastive_divergence_follows_the_gradient_of_one_step():
    """One batch: the change of the weights is the learning rate times the difference of the two correlations."""
    from raylabel.training import filters_from_patches as module

    data = random(50, 6)
    before, after = train_rbm(data, 3, 4, passes=0)[0], train_rbm(data, 3, 4, passes=1)[0]
    generator = torch.Generator().manual_seed(4)
    weights = 0.01 * torch.randn(6, 3, generator=generator)
    assert torch.equal(weights, before)
    shuffled = data[torch.randperm(50, generator=generator)]
    hidden = torch.sigmoid(shuffled @ weights)
    model = torch.bernoulli(hidden, generator=generator) @ weights.T
    rise = (shuffled.T @ hidden - model.T @ torch.sigmoid(model @ weights)) / 50
    torch.testing.assert_close(after, before + module.RBM_RATE * rise)


def test_the_autoencoder_restores_what_is_masked():
    """Patches of four hidden numbers: masked ones follow from the others, up to noise."""
    data = random(6_000, 4) @ random(4, 16, seed=5) + 0.1 * random(6_000, 16, seed=6)
    data = data / data.std(0)
    parameters = train_autoencoder(data[:5_000], 12, 0, passes=20)
    clean = data[5_000:]
    kept = torch.rand(clean.shape, generator=torch.Generator().manual_seed(7)) >= MASKED
    found = restored(clean * kept, *parameters)
    masked = (found - clean)[~kept].square().mean()
    assert masked < 0.2  # that of leaving them at 0 is 1; 0.3 without masks, and 0.4 if they are in the target too
    assert (restored(clean, *parameters) - clean).square().mean() < 0.1
