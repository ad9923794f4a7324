"""Blanked cells and noise, the loss on them by hand, and trainings that restore pictures, also after a restart."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from trainings import CONFIG, MODEL, digits_examples, fit, in_this_process

from raylabel.errors import InputError
from raylabel.models.trained import CURVE, WEIGHTS, load_model
from raylabel.store.artifact import Root
from raylabel.training.checkpoint import Checkpoints
from raylabel.training.config import Pretext, Train
from raylabel.training.pretexts import make_pretext
from raylabel.training.restoration import BLANKED, NOISE, SCALE, measure_restored
from raylabel.training.schedule import Schedule


@pytest.mark.parametrize("frames", [(), (3,)])
@pytest.mark.parametrize("side", [8, 10])
def test_half_of_the_cells_are_blank_and_these_are_the_target(frames: tuple[int, ...], side: int):
    torch.manual_seed(0)
    pixels = 1 + torch.rand(200, 3, *frames, side, side)
    changed, target = make_pretext("completion")(pixels, torch.zeros(200))
    blank = ~target.isnan()
    assert torch.equal(changed, torch.where(blank, 0, pixels)) and torch.equal(target[blank], pixels[blank])
    assert (blank == blank[:, :1]).all() and (not frames or (blank == blank[:, :, :1]).all())
    one = blank.flatten(1, -3)[:, 0].float()  # [B, H, W]
    cells = one[:, :: side // 4, :: side // 4][:, :4, :4].flatten(1) if side == 8 else None
    if cells is not None:
        assert (cells.sum(1) == BLANKED).all()
        assert torch.equal(one, cells.view(-1, 4, 4).repeat_interleave(2, 1).repeat_interleave(2, 2))
        assert ((cells.mean(0) - 0.5).abs() < 0.12).all() and len(np.unique(cells.numpy(), axis=0)) > 150


def test_noise_is_gaussian_and_the_target_is_the_picture():
    torch.manual_seed(0)
    pixels = torch.randn(50, 3, 16, 16)
    changed, target = make_pretext("denoising")(pixels, torch.zeros(50))
    assert torch.equal(target, pixels)
    assert float((changed - pixels).std()) == pytest.approx(NOISE, rel=0.02)


def test_the_loss_counts_blank_pixels_only():
    nan = torch.nan
    target = torch.tensor([[[[1.0, nan], [3.0, nan]]], [[[nan, nan], [nan, -1.0]]]])
    output = torch.tensor([[[[2.0, 100.0], [3.2, 100.0]]], [[[9.0, 9.0], [9.0, 1.0]]]], requires_grad=True)
    loss, right = measure_restored(output, target)
    assert loss.item() == pytest.approx(SCALE * ((1.0 + 0.04) / 2 + 4.0))
    assert right.item() == pytest.approx(1 / 2)  # of the first picture; none of the second
    loss.backward()
    assert output.grad is not None
    torch.testing.assert_close(
        output.grad / SCALE, torch.tensor([[[[1.0, 0.0], [0.2, 0.0]]], [[[0.0, 0.0], [0.0, 4.0]]]])
    )


@pytest.mark.parametrize(
    "change",
    [{"mixup": 0.2}, {"dropout": 0.1}, {"label_smoothing": 0.1}, {"label_noise": 0.1}, {"cutmix": 1.0}],
)
def test_what_needs_labels_is_an_error(change: dict):
    config = Train(images=100, schedule=Schedule(lr=0.1), pretext="completion", **change)
    with pytest.raises(InputError, match=f"pretrain.pretext is 'completion'.* unset pretrain.{next(iter(change))}"):
        config.check("pretrain")


@pytest.mark.long
@pytest.mark.parametrize("pretext", ["completion", "denoising"])
def test_pictures_are_restored_and_a_restart_changes_no_bit(
    ray_local: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pretext: Pretext
):
    config = replace(CONFIG, pretext=pretext, images=1_920, schedule=Schedule(lr=0.02))
    monkeypatch.setattr("trainings.CLASSES", 2)
    with in_this_process(tmp_path):
        roots = [Root.open(str(tmp_path / name)) for name in ("whole", "stopped")]
        (tmp_path / "digits").mkdir()
        examples = digits_examples(roots[0], tmp_path / "digits")
        whole = fit(roots[0], examples, config)
        save = Checkpoints.save

        def stop(self: Checkpoints, step: int, *rest) -> None:
            save(self, step, *rest)
            if step < config.steps:
                raise RuntimeError("stopped")

        with monkeypatch.context() as patch, pytest.raises(Exception, match="stopped"):
            patch.setattr(Checkpoints, "save", stop)
            fit(roots[1], examples, config)
        resumed = fit(roots[1], examples, config)
    assert resumed.info["images"] < whole.info["images"]
    assert resumed.read(WEIGHTS) == whole.read(WEIGHTS) and resumed.read(CURVE) == whole.read(CURVE)
    curve = json.loads(whole.read(CURVE))
    assert curve[-1]["loss"] < 0.7 * curve[0]["loss"] and curve[-1]["accuracy"] > curve[0]["accuracy"]
    assert whole.info["model"]["arch"] == MODEL.arch and load_model(whole)
