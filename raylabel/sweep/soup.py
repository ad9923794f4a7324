"""Students that differ in their fine-tuning rate alone → one network, whose weights are the mean of theirs.

The greedy soup of Wortsman et al. 2022 (Model soups, arXiv 2203.05482, §2, Recipe 1): they began at the same weights,
those of one pre-training, and mostly end in the same valley. What comes in is decided on the validation split.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import safetensors.torch

from raylabel.errors import InputError
from raylabel.evaluate.classify import accuracy, hits, paired_gain
from raylabel.evaluate.results import TOP1, Metric, Subject, require
from raylabel.models import WEIGHTS
from raylabel.store.artifact import Artifact, Built, Draft, Root, write_bytes
from raylabel.sweep.result import Soup, Trial
from raylabel.sweep.space import Settings
from raylabel.sweep.trial import TrialTask, validate

RATE = "finetune.schedule.lr"
MODEL = TypeVar("MODEL")


def check_soup(trials: Sequence[Settings]) -> None:
    """InputError if no two trials differ in the fine-tuning rate alone."""
    rates: dict[Hashable, set[float]] = {}
    for settings in trials:
        if RATE in settings:
            rates.setdefault(_others(settings), set()).add(settings[RATE])
    if not any(len(some) > 1 for some in rates.values()):
        raise InputError(
            f"--soup averages students that differ in {RATE} alone, and no two trials do: give --space '{RATE}=[...]' "
            "with two rates or more"
        )


def make_soup(root: Root, job: TrialTask, trials: Sequence[Trial]) -> Soup:
    """The greedy soup around the first of the trials, which are sorted by validation accuracy, and its test."""
    best, rivals = trials[0], {}
    for trial in trials:
        if trial.state == "finished" and _others(trial.settings) == _others(best.settings):
            rivals.setdefault(trial.settings[RATE], trial)  # a rate drawn twice is one student
    chosen_run = job.run_of(root, job.of(best.settings))
    students = {one.number: job.run_of(root, job.of(one.settings)).student for one in rivals.values()}
    found: dict[tuple[int, ...], tuple[Artifact, Metric]] = {}

    def validated(numbers: tuple[int, ...]) -> float:
        model = average(root, [students[number] for number in numbers])
        found[numbers] = model, validate(job, chosen_run, model)
        return found[numbers][1].value

    chosen = greedy(list(students), validated)
    model, right = found[chosen]
    tested = [
        hits(chosen_run.test(one, chosen_run.recipe.view), job.start.test_labels)
        for one in (model, students[best.number])
    ]
    recipe = chosen_run.recipe
    of = Subject(model=model.name, seed=recipe.seed, dataset=", ".join(recipe.test.uri), split="test")
    return Soup(
        trials=chosen,
        left_out=tuple(number for number in students if number not in chosen),
        artifact=model.uri.rpartition("/")[2],
        validation=right,
        test=require(accuracy(of, tested[0], len(job.start.classes)), metric=TOP1),
        gain=paired_gain(of, tested[0].top1, tested[1].top1),
    )


def greedy(models: Sequence[MODEL], validated: Callable[[tuple[MODEL, ...]], float]) -> tuple[MODEL, ...]:
    """Those of the models that make the soup: best first, each comes in if the average is no worse with it."""
    soup = (models[0],)
    best = validated(soup)
    for model in models[1:]:
        if (found := validated((*soup, model))) >= best:
            soup, best = (*soup, model), found
    return soup


def average(root: Root, models: Sequence[Artifact]) -> Artifact:
    """The mean of the weights of networks of one architecture, whatever their order; of a single one itself.

    Parameters and BatchNorm statistics are summed in float64; what is no float (BatchNorm's count of batches) is that
    of the first by digest.
    """
    if len(models) == 1:
        return models[0]
    models = sorted(models, key=lambda model: model.digest)

    def build(draft: Draft) -> Built:
        mean = safetensors.torch.load(models[0].read(WEIGHTS))
        kinds = {name: tensor.dtype for name, tensor in mean.items() if tensor.is_floating_point()}
        for name in kinds:
            mean[name] = mean[name].double()
        for model in models[1:]:  # one at a time in memory, beside the sum
            state = safetensors.torch.load(model.read(WEIGHTS))
            for name in kinds:
                mean[name] += state[name]
        for name, kind in kinds.items():
            mean[name] = (mean[name] / len(models)).to(kind)
        info = {name: models[0].info[name] for name in ("model", "classes")}
        return Built([write_bytes(draft.uri, WEIGHTS, safetensors.torch.save(mean))], info)

    return root.make("soup", {"models": [model.digest for model in models]}, build)


def _others(settings: Settings) -> Hashable:
    return tuple(sorted((name, value) for name, value in settings.items() if name != RATE))
