import math
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from raylabel.errors import InputError
from raylabel.training.schedule import Schedule, lr_at, scaled_lr

BILLION = 1_000_000_000
PRETRAIN = Schedule(lr=0.6, warmup_lr=0.1)
FINETUNE = Schedule(lr=0.0015, warmup=0, drops=3, factor=0.1)


@st.composite
def schedules(draw) -> Schedule:
    lr = draw(st.floats(1e-6, 100))
    drops = draw(st.integers(0, 40))
    return Schedule(
        lr=lr,
        warmup=draw(st.floats(0, 1 / (drops + 1))),
        warmup_lr=draw(st.none() | st.floats(0, lr)),
        drops=drops,
        factor=draw(st.floats(0.01, 0.99)),
    )


def test_the_pre_training_of_the_paper():
    """Yalniz et al. 2019: 1B images, 0.1 to 0.1 / 256 * 1536 = 0.6, then 13 halvings down to 7.3e-5."""
    assert scaled_lr(1536) == pytest.approx(0.6)
    assert lr_at(PRETRAIN, 0, BILLION) == 0.1
    assert lr_at(PRETRAIN, 50_000_000, BILLION) == 0.6  # the first step after the warm-up
    assert lr_at(PRETRAIN, BILLION - 1, BILLION) == pytest.approx(0.6 / 2**13)
    assert lr_at(PRETRAIN, BILLION - 1, BILLION) == pytest.approx(7.3e-5, rel=0.01)


def test_the_rate_halves_at_13_equally_spaced_images():
    images = 14_000  # spans of exactly 1,000
    rates = [lr_at(PRETRAIN, image, images) for image in range(700, images)]
    drops = [i for i, (before, after) in enumerate(zip(rates, rates[1:], strict=False), 701) if before != after]
    assert drops == [1000 * (k + 1) for k in range(13)]
    assert len(set(rates)) == 14
    assert all(rates[image - 700] == rates[image - 701] / 2 for image in drops)


def test_the_fine_tuning_of_the_paper():
    """30 epochs of ImageNet from 0.00025 / 256 * 1536, divided by ten at three equally spaced points, no warm-up."""
    images = 30 * 1_281_167
    assert scaled_lr(1536, base=0.00025) == pytest.approx(0.0015)
    rates = [lr_at(FINETUNE, images * k // 4 + d, images) for k in range(4) for d in (1, images // 4 - 1)]
    assert rates == pytest.approx([0.0015, 0.0015, 1.5e-4, 1.5e-4, 1.5e-5, 1.5e-5, 1.5e-6, 1.5e-6])
    assert lr_at(FINETUNE, 0, images) == 0.0015


def test_warm_up_is_linear_and_reaches_the_peak():
    schedule = Schedule(lr=1.0, warmup=0.25, drops=3)
    assert [lr_at(schedule, i, 16) for i in range(5)] == pytest.approx([0.1, 0.325, 0.55, 0.775, 0.5])
    schedule = Schedule(lr=1.0, warmup=0.25, warmup_lr=0.0, drops=2)
    assert [lr_at(schedule, i, 16) for i in range(6)] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]


@pytest.mark.parametrize("final", [0.0, 0.01])
def test_a_cosine_is_that_of_torch(final: float):
    """A warm-up of 20 steps and a cosine over 80, as torchvision's references chain them."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    warm = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=20)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=80, eta_min=final)
    both = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, cosine], milestones=[20])
    schedule = Schedule(lr=0.5, warmup=0.2, warmup_lr=0.005, decay="cosine", final_lr=final)
    for step in range(100):
        assert lr_at(schedule, step * 64, 6400) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6)
        optimizer.step()
        both.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(final, abs=1e-9)


def test_a_cosine_has_no_drops_and_a_warm_up_of_any_length():
    schedule = Schedule(lr=1.0, warmup=0.5, warmup_lr=0.0, decay="cosine", drops=3)
    schedule.check("pretrain.schedule")
    assert [lr_at(schedule, i, 8) for i in range(8)] == pytest.approx(
        [0, 0.25, 0.5, 0.75, 1, 0.8536, 0.5, 0.1464], abs=1e-4
    )


@pytest.mark.parametrize(
    ("field", "value"), [("warmup", 1.0), ("warmup", math.nan), ("final_lr", -0.1), ("final_lr", 2)]
)
def test_the_error_names_the_bad_field_of_a_cosine(field: str, value: float):
    fields: dict[str, Any] = {"lr": 0.6, "decay": "cosine", field: value}
    with pytest.raises(InputError, match=f"^pretrain.schedule.{field} is .*: give "):
        Schedule(**fields).check("pretrain.schedule")


@given(schedules(), st.integers(1, 3000))
def test_the_rate_rises_in_the_warm_up_and_never_after(schedule: Schedule, images: int):
    rates = [lr_at(schedule, image, images) for image in range(images)]
    assert all(0 <= rate <= schedule.lr * (1 + 1e-12) for rate in rates)
    end = math.ceil(schedule.warmup * images)
    up, down = rates[:end], rates[end:]
    assert all(a <= b * (1 + 1e-12) for a, b in zip(up, up[1:], strict=False))
    assert all(a >= b for a, b in zip(down, down[1:], strict=False))
    if images > schedule.drops and end < images:
        assert rates[-1] == schedule.lr * schedule.factor**schedule.drops


@given(schedules(), st.integers(1, 10**9), st.integers(1, 1000), st.data())
def test_the_rate_depends_only_on_the_fraction_of_the_run(
    schedule: Schedule, images: int, times: int, data: st.DataObject
):
    image = data.draw(st.integers(0, images - 1))
    edge = schedule.warmup * images
    assume(abs(image - edge) > 1e-6 * images)  # at the edge, rounding decides on which side an image is
    longer = lr_at(schedule, image * times, images * times)
    assert lr_at(schedule, image, images) == pytest.approx(longer, rel=1e-9)


@given(st.integers(1, 10**6), st.integers(1, 100))
def test_scaled_lr_is_linear_in_the_batch(batch: int, times: int):
    assert scaled_lr(256) == 0.1
    assert scaled_lr(batch * times) == pytest.approx(times * scaled_lr(batch))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lr", 0.0),
        ("lr", -1.0),
        ("lr", math.inf),
        ("lr", math.nan),
        ("warmup", -0.01),
        ("warmup", 0.08),  # longer than the first of 14 spans
        ("warmup", math.nan),
        ("warmup_lr", -0.1),
        ("warmup_lr", 0.7),
        ("warmup_lr", math.nan),
        ("drops", -1),
        ("drops", 1.5),
        ("factor", 0.0),
        ("factor", 1.0),
        ("factor", 10.0),
        ("factor", math.nan),
    ],
)
def test_the_error_names_the_bad_field(field: str, value: Any):
    fields: dict[str, Any] = {"lr": 0.6, field: value}
    with pytest.raises(InputError, match=f"^pretrain.schedule.{field} is .*: give ") as caught:
        Schedule(**fields).check("pretrain.schedule")
    assert "\n" not in str(caught.value)


def test_a_warm_up_of_the_whole_first_span_is_allowed():
    for drops in range(100):
        Schedule(lr=1.0, warmup=1 / (drops + 1), drops=drops)


@pytest.mark.parametrize("image", [-1, 10, 11])
def test_an_image_outside_the_run_is_an_error(image: int):
    with pytest.raises(ValueError, match="image is"):
        lr_at(PRETRAIN, image, 10)


@given(
    st.lists(st.integers(0, 5), max_size=40),
    st.integers(0, 4),
    st.floats(0.05, 0.9),
    st.sampled_from([0.0, 0.02, 0.1]),
)
def test_a_plateau_is_that_of_torch(levels: list[int], patience: int, factor: float, least: float):
    schedule = Schedule(lr=0.1, warmup=0.1, decay="plateau", patience=patience, factor=factor, final_lr=least)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1)
    torchs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, "max", factor=factor, patience=patience, threshold=0, threshold_mode="abs", min_lr=least, eps=0
    )
    accuracies: list[float] = []
    assert lr_at(schedule, 0, 1000) == pytest.approx(0.01)  # the warm-up does not depend on the accuracies
    for level in levels:
        accuracies.append(level / 5)
        torchs.step(level / 5)
        assert lr_at(schedule, 500, 1000, accuracies) == pytest.approx(optimizer.param_groups[0]["lr"])


def test_inverse_sqrt_is_that_of_deep_clusters_probes():
    lr, decay, batch, steps = 0.01, 1e-4, 256, 450_000
    final = lr / math.sqrt(1 + lr * decay * steps)
    schedule = Schedule(lr=lr, warmup=0.0, decay="inverse_sqrt", final_lr=final)
    schedule.check("schedule")
    for step in (0, 1, 1_000, 225_000, steps - 1):
        wanted = lr / math.sqrt(1 + lr * decay * step)
        assert lr_at(schedule, step * batch, steps * batch) == pytest.approx(wanted, rel=1e-12)
    with pytest.raises(InputError, match="final_lr is 0"):
        Schedule(lr=lr, warmup=0.0, decay="inverse_sqrt").check("schedule")
