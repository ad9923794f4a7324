"""Mixed batches: the targets and the pixels against formulas, and clips against images."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raylabel.training.config import Train
from raylabel.training.mixing import make_mix
from raylabel.training.schedule import Schedule

CONFIG = Train(images=1, schedule=Schedule(lr=0.1))
CLASSES = 7


def batch(size: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Every picture has one value, another than its neighbors."""
    labels = torch.randint(CLASSES, (size,), generator=torch.Generator().manual_seed(seed))
    return torch.arange(1.0, size + 1).view(size, 1, 1, 1).expand(size, 3, 8, 10).clone(), labels


def one_hot(labels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.one_hot(labels, CLASSES).float()


def test_nothing_is_mixed_by_default():
    pixels, labels = batch(5, 0)
    assert all(a is b for a, b in zip(make_mix(CONFIG, CLASSES)(pixels, labels), (pixels, labels), strict=True))


@given(st.integers(1, 9), st.integers(0, 10_000), st.floats(0.1, 4))
def test_mixup_mixes_neighbors_and_their_labels_by_one_proportion(size: int, seed: int, alpha: float):
    pixels, labels = batch(size, seed)
    mix = make_mix(replace(CONFIG, mixup=alpha), CLASSES)
    assert mix is not None
    torch.manual_seed(seed)
    mixed, targets = mix(pixels, labels)
    own, other = pixels[:, 0, 0, 0], pixels.roll(1, 0)[:, 0, 0, 0]
    assert (mixed == mixed[:, :1, :1, :1]).all()
    if size > 1:
        shares = (mixed[:, 0, 0, 0] - other) / (own - other)  # of the picture itself
        assert torch.allclose(shares, shares[:1], atol=1e-4) and -1e-4 <= shares[0] <= 1 + 1e-4
        assert torch.allclose(
            targets, shares[0] * one_hot(labels) + (1 - shares[0]) * one_hot(labels.roll(1)), atol=1e-4
        )
    assert torch.allclose(targets.sum(1), torch.ones(size))


@given(st.integers(2, 9), st.integers(0, 10_000), st.floats(0.1, 4))
def test_the_targets_of_cutmix_are_the_areas(size: int, seed: int, alpha: float):
    pixels, labels = batch(size, seed)
    mix = make_mix(replace(CONFIG, cutmix=alpha), CLASSES)
    assert mix is not None
    torch.manual_seed(seed)
    mixed, targets = mix(pixels, labels)
    own, other = mixed == pixels, mixed == pixels.roll(1, 0)
    assert (own | other).all() and (other == other[:1, :1]).all()  # one rectangle for all
    share = own[0, 0].float().mean()
    assert torch.allclose(targets, share * one_hot(labels) + (1 - share) * one_hot(labels.roll(1)), atol=1e-6)
    rows, columns = other[0, 0].any(1), other[0, 0].any(0)
    assert (other[0, 0] == rows[:, None] & columns).all()
    for side in (rows, columns):
        assert (side.int().diff() != 0).sum() <= 2  # without a gap


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_a_clip_is_mixed_as_one_picture_with_all_its_frames(kind: str):
    mix = make_mix(replace(CONFIG, **{kind: 1.0}), CLASSES)
    assert mix is not None
    clips, labels = torch.randn(4, 3, 5, 8, 10), torch.arange(4)
    torch.manual_seed(3)
    mixed, targets = mix(clips, labels)
    torch.manual_seed(3)
    as_pictures, expected = mix(clips.flatten(1, 2), labels)
    assert type(mixed) is torch.Tensor and mixed.shape == clips.shape
    assert torch.equal(mixed.flatten(1, 2), as_pictures) and torch.equal(targets, expected)


def test_both_kinds_have_equal_chances_and_the_generator_decides():
    mix = make_mix(replace(CONFIG, mixup=1.0, cutmix=1.0), CLASSES)
    assert mix is not None
    pixels, labels = batch(4)

    def cut(seed: int) -> bool:
        torch.manual_seed(seed)
        mixed, _ = mix(pixels, labels)
        return bool(torch.isin(mixed, pixels).all())

    found = [cut(seed) for seed in range(400)]
    assert found == [cut(seed) for seed in range(400)]
    assert 150 < sum(found) < 250  # 5 standard deviations


def test_the_proportion_of_mixup_has_the_mean_and_spread_of_the_beta_distribution():
    mix = make_mix(replace(CONFIG, mixup=0.4), CLASSES)
    assert mix is not None
    pixels, labels = batch(2)
    torch.manual_seed(1)
    shares = torch.tensor([mix(pixels, torch.tensor([0, 1]))[1][0, 0].item() for _ in range(2000)])
    beta = torch.distributions.Beta(0.4, 0.4)
    assert shares.mean().item() == pytest.approx(0.5, abs=0.05)
    assert shares.var().item() == pytest.approx(beta.variance.item(), abs=0.02)
