"""Labels that are replaced and features that are dropped: their shares, and what stays as it is."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy.stats import binomtest, chisquare

from raylabel.errors import InputError
from raylabel.models import Model
from raylabel.models.build import build
from raylabel.training.config import Train
from raylabel.training.learner import Learner
from raylabel.training.noise import drop_features, replace_labels
from raylabel.training.schedule import Schedule
from raylabel.training.soft import make_targets

SCHEDULE = Schedule(lr=0.1)


def test_replaced_labels_are_uniform_and_have_their_share():
    torch.manual_seed(0)
    labels = torch.full((50_000,), 3)
    found = replace_labels(labels, 0.4, 10)
    assert found.dtype == torch.int64 and (labels == 3).all()
    counts = torch.bincount(found, minlength=10)
    assert binomtest(int(counts[3]), 50_000, 0.6 + 0.04).pvalue > 0.001
    others = torch.cat([counts[:3], counts[4:]]).numpy()
    assert chisquare(others).pvalue > 0.001
    assert not torch.equal(replace_labels(labels, 0.4, 10), found)  # drawn anew
    assert replace_labels(labels, 0.0, 10) is labels


@pytest.mark.parametrize("soft", [0.0, 0.5])
def test_targets_are_those_of_the_replaced_labels(soft: float):
    config = Train(images=8, batch=8, schedule=SCHEDULE, label_noise=0.5, soft=soft)
    labels = torch.arange(1_000) % 7
    torch.manual_seed(1)
    found = make_targets(config, 7)(labels, None)
    torch.manual_seed(1)
    expected = replace_labels(labels, 0.5, 7)
    assert torch.equal(found.argmax(1) if soft else found, expected)
    assert 300 < int((expected != labels).sum()) < 560


@pytest.mark.parametrize("arch", ["resnet8x1", "squeezenet1_1"])
def test_features_are_dropped_in_training_alone(arch: str):
    torch.manual_seed(0)
    network: Any = build(Model(arch=arch), 4).eval()
    names, images = list(network.state_dict()), torch.randn(64, 3, 32, 32)
    before, taken = network(images), []
    last = network.fc if arch == "resnet8x1" else network.classifier[1]
    drop_features(network, 0.25)
    last.register_forward_hook(lambda layer, given, out: taken.append(given[0].detach()))
    assert torch.equal(network(images), before) and list(network.state_dict()) == names
    whole = taken.pop()
    last.train()
    network(images)
    dropped = taken.pop()
    zero = (dropped == 0) & (whole != 0)
    torch.testing.assert_close(dropped[~zero], whole[~zero] / 0.75)
    assert binomtest(int(zero.sum()), int((whole != 0).sum()), 0.25).pvalue > 0.001


def test_a_learner_drops_features_of_the_network_but_not_of_the_evaluated_one():
    torch.manual_seed(0)
    network = build(Model(arch="resnet8x1"), 4)
    images = torch.randn(8, 3, 16, 16)
    learner = Learner(network, Train(images=8, batch=8, schedule=SCHEDULE, dropout=0.5, ema=0.5), rank=0)
    network.train()
    network.requires_grad_(False)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    assert not torch.equal(network(images), network(images))
    average = learner._average
    assert average
    average.module.eval()
    assert torch.equal(average.module(images), average.module(images))


@pytest.mark.parametrize("field", ["label_noise", "dropout"])
def test_a_share_is_below_one(field: str):
    for value in (-0.1, 1.0):
        with pytest.raises(InputError, match=f"^pretrain.{field} is {value}: give a number from 0 to 1, 1 excluded"):
            replace(Train(images=8, schedule=SCHEDULE), **{field: value}).check("pretrain")
