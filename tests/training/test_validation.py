"""Accuracies while a network is trained, against a plain forward pass over the same pictures."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed
from helpers import DIGITS_VIEW, contents, digit_images
from torch import nn
from trainings import CONFIG, MODEL, digits_examples, in_this_process

from raylabel.compute.resources import Resources
from raylabel.errors import InputError
from raylabel.media.image_views import eval_pixels, normalise
from raylabel.models.build import build
from raylabel.models.trained import load_model
from raylabel.store.artifact import Artifact, Root
from raylabel.training import decoding, loop, validation
from raylabel.training.config import Train, Validate
from raylabel.training.preemption import Agreement, Decision
from raylabel.training.schedule import Schedule
from raylabel.training.task import TrainingTask
from raylabel.training.train import train
from raylabel.training.validation import VALIDATION, Validation, points_of

VALIDATED = replace(CONFIG, images=640, validate=Validate(on="validation", points=4))


@pytest.fixture(scope="module")
def examples(ray_local, tmp_path_factory) -> Artifact:
    """EXAMPLES of the first 600 digits."""
    folder = tmp_path_factory.mktemp("validation")
    return digits_examples(Root.open(str(folder / "root")), folder)


@pytest.fixture(scope="module")
def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    """The same digits as a network's input, and their labels."""
    media, labels = digit_images()
    pixels = np.stack([eval_pixels(each, DIGITS_VIEW) for each in media[:600]])
    return normalise(torch.from_numpy(pixels), DIGITS_VIEW), torch.from_numpy(labels[:600])


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/group", world_size=1, rank=0)
    yield
    torch.distributed.destroy_process_group()


def plain(module: nn.Module, pictures: tuple[torch.Tensor, torch.Tensor]) -> float:
    with torch.no_grad():
        return (module.eval()(pictures[0]).argmax(1) == pictures[1]).double().mean().item()


def fit(root: Root, examples: Artifact, config: Train) -> Artifact:
    task = TrainingTask(
        model=MODEL, classes=10, examples=examples, config=config, view=DIGITS_VIEW, seed=3, validation=examples
    )
    return train(root, "net", task, Resources(workers=1))


@pytest.mark.timeout(120)
def test_it_is_the_accuracy_of_a_plain_forward_pass(examples, pictures, group):
    torch.manual_seed(0)
    module = build(MODEL, 10).train()
    for _ in range(10):
        module(pictures[0])  # statistics of BatchNorm
    module.get_submodule("bn1").eval()
    modes = [each.training for each in module.modules()]
    measured = Validation(examples, DIGITS_VIEW, "fp32", 0, 1, threads=2)
    assert measured.samples == 600
    found = [measured.accuracy(module, torch.device("cpu")) for _ in range(2)]
    measured.close()
    assert [each.training for each in module.modules()] == modes
    assert found == [plain(module, pictures)] * 2 and 0 < found[0] < 1


@pytest.mark.long
def test_workers_share_the_set(examples, monkeypatch):
    """Each chunk is measured by one worker, whatever their number."""
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: None)
    seen: list[tuple[int, bytes]] = []

    def record(module: Any, pixels: torch.Tensor, *_: Any) -> tuple[torch.Tensor]:
        seen.extend((len(pixels), each.numpy().tobytes()) for each in pixels)
        return (torch.full((len(pixels), 1), 3),)

    monkeypatch.setattr(validation, "rank_classes", record)
    monkeypatch.setitem(decoding.CHUNK, "images", 16)
    for world in 1, 3:
        shares = []
        for rank in range(world):
            measured = Validation(examples, DIGITS_VIEW, "fp32", rank, world, threads=1)
            shares.append(measured.accuracy(nn.Identity(), torch.device("cpu")))
            measured.close()
        assert sum(shares) == pytest.approx((digit_images()[1][:600] == 3).mean())
    assert sorted(seen[:600]) == sorted(seen[600:]) and len(seen) == 1200


@pytest.mark.parametrize(("points", "steps"), [(4, 10), (20, 7), (1, 3), (7, 7)])
def test_points_are_evenly_spaced_and_end_at_the_end(points: int, steps: int):
    config = replace(CONFIG, images=64 * steps, validate=Validate(on="labeled", points=points))
    found = sorted(points_of(config))
    assert len(found) == min(points, steps) and found[-1] == steps
    gaps = np.diff([0, *found])
    assert gaps.max() - gaps.min() <= 1
    assert points_of(replace(config, validate=Validate())) == set()


@pytest.mark.long
@pytest.mark.timeout(200)
def test_the_best_network_is_kept_through_interruptions(examples, pictures, tmp_path, monkeypatch):
    # The rate is so high after the first point that later networks are worse.
    schedule = Schedule(lr=3.0, warmup=0.5, warmup_lr=0.0, drops=0)
    best = replace(VALIDATED, schedule=schedule, validate=replace(VALIDATED.validate, points=10, keep_best=True))
    networks: list[dict[str, torch.Tensor]] = []
    accuracy = Validation.accuracy

    def kept(self: Validation, module: nn.Module, device: Any) -> float:
        networks.append({name: tensor.clone() for name, tensor in module.state_dict().items()})
        return accuracy(self, module, device)

    with in_this_process(tmp_path):
        with monkeypatch.context() as patch:
            patch.setattr(Validation, "accuracy", kept)
            made = fit(Root.open(str(tmp_path / "clean")), examples, best)
        stopped = interrupted(tmp_path / "stopped", examples, best, monkeypatch)
    points = json.loads(made.read(VALIDATION))
    values = [point["accuracy"] for point in points]
    at = values.index(max(values))
    assert at < len(values) - 1, "the last network is the best: the test says nothing"
    found = load_model(made)
    assert all(torch.equal(networks[at][name], tensor) for name, tensor in found.state_dict().items())
    assert plain(found, pictures) == max(values)
    assert contents(stopped) == contents(made)


@pytest.mark.timeout(200)
@pytest.mark.parametrize("ema", [pytest.param(0.0, marks=pytest.mark.slow), 0.8])
def test_validation_does_not_change_what_is_learned(examples, pictures, tmp_path, ema):
    config = replace(VALIDATED, ema=ema)
    with in_this_process(tmp_path):
        made = fit(Root.open(str(tmp_path / "a")), examples, config)
        without = fit(Root.open(str(tmp_path / "b")), examples, replace(config, validate=Validate()))
    assert all(torch.equal(x, load_model(without).state_dict()[n]) for n, x in load_model(made).state_dict().items())
    points = json.loads(made.read(VALIDATION))
    assert [point["images"] for point in points] == [192, 320, 512, 640]
    assert points[-1]["accuracy"] == plain(load_model(made), pictures)


def interrupted(folder: Path, examples: Artifact, config: Train, monkeypatch: pytest.MonkeyPatch) -> Artifact:
    after = Agreement.after

    def stop(self: Agreement, step: int) -> Decision:
        return after(self, step)._replace(stop=step in (2, 7), save=step == 4)

    with monkeypatch.context() as patch:
        patch.setattr(Agreement, "after", stop)
        patch.setattr(loop, "POINTS", 200)
        return fit(Root.open(str(folder)), examples, config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"on": "test"}, r"pretrain.validate.on is 'test': give 'none' or 'validation' or 'labeled'"),
        ({"on": "labeled", "points": 0}, "pretrain.validate.points is 0"),
        ({"on": "labeled", "targets": (1.5,)}, r"pretrain.validate.targets has 1.5"),
        ({"on": "labeled", "keep_best": True}, "pretrain.validate.keep_best is set, but .*trained on"),
        ({"keep_best": True}, "pretrain.validate.on is 'none'"),
        ({"targets": (0.9,)}, "pretrain.validate.on is 'none'"),
    ],
)
def test_a_bad_field_is_an_error_that_names_it(change: dict, message: str):
    with pytest.raises(InputError, match=message):
        Validate(**change).check("pretrain.validate")


def test_a_plateau_needs_validation():
    plateau = replace(CONFIG, schedule=Schedule(lr=0.1, decay="plateau"))
    with pytest.raises(InputError, match=r"pretrain.schedule.decay is 'plateau'.*give pretrain.validate.on"):
        plateau.check("pretrain")
    replace(plateau, validate=Validate(on="labeled")).check("pretrain")
