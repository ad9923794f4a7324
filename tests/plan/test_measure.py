"""Which trainings of a run are measured apart."""

from dataclasses import replace

from raylabel.media.view import View
from raylabel.models import Model
from raylabel.plan.measure import Remaining, _kind
from raylabel.training.config import Train
from raylabel.training.schedule import Schedule

VIEW = View(size=32, resize=32)
PLAIN = Train(images=1000, batch=64, schedule=Schedule(lr=0.1))


def kind(config: Train, view: View = VIEW) -> str:
    return _kind(Remaining("pretrain", Model(arch="resnet18"), view, config, "pseudo_examples"))


def test_trainings_of_another_length_rate_or_strength_are_equally_fast():
    mixed = replace(PLAIN, mixup=0.2, ema=0.9)
    other = replace(mixed, images=50, schedule=Schedule(lr=1, decay="cosine"), mixup=0.3, ema=0.5, label_smoothing=0.1)
    assert kind(mixed) == kind(other) == "training resnet18 at 32 pixels in batches of 64 with mixup, ema"


def test_trainings_that_do_other_work_are_measured_apart():
    configs = [
        PLAIN,
        replace(PLAIN, batch=32),
        replace(PLAIN, optimizer="adamw"),
        replace(PLAIN, accumulate=2),
        replace(PLAIN, cutmix=1.0),
        replace(PLAIN, ema=0.9),
        replace(PLAIN, sync_batchnorm=True),
    ]
    views = [View(size=32, resize=32, augment="trivial"), View(size=32, resize=32, erase=0.1), View(size=48, resize=48)]
    found = [kind(config) for config in configs] + [kind(PLAIN, view) for view in views]
    assert len(set(found)) == len(found)
    assert kind(replace(PLAIN, accumulate=2)).endswith("with accumulate 2")
