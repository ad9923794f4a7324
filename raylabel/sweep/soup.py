"""Students that differ only in their fine-tuning rate → one network, whose weights are the mean of theirs.

The greedy soup of Wortsman et al. 2022 (Model soups, arXiv 2203.05482, §2, Recipe 1). The students start from the same
pre-trained weights and mostly end in the same basin of the loss. The validation split decides which of them are added.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import safetensors.torch

from raylabel.errors import InputError
from raylabel.evaluate.classify import accuracy, hits, paired_gain
from raylabel.evaluate.results import TOP1, Metric, Subject, require
from raylabel.models.trained import WEIGHTS
from raylabel.pipelines.metrics import validate
from raylabel.recipes.space import Settings
from raylabel.store.artifact import Artifact, Built, Draft, Root, write_bytes
from raylabel.sweep.result import Soup, Trial
from raylabel.sweep.trial import TrialTask

RATE = "finetune.schedule.lr"
MODEL = TypeVar("MODEL")


def check_soup(trials: Sequence[Settings]) -> None:
    """InputError if no two trials differ only in the fine-tuning rate."""
    rates: dict[Hashable, set[float]] = {}
    for settings in trials:
        if RATE in settings:
            rates.setdefault(_others(settings), set()).add(settings[RATE])
    if not any(len(some) > 1 for some in rates.values()):
        raise InputError(
            f"soup averages students that differ only in {RATE}, and no two trials do: give '{RATE}=[...]' in space, "
            "with two or more rates"
        )


def make_soup(root: Root, task: TrialTask, trials: Sequence[Trial]) -> Soup:
    """The greedy soup that starts with the first trial, and its test. `trials` are sorted by validation accuracy."""
    best, rivals = trials[0], {}
    for trial in trials:
        if trial.state == "finished" and _others(trial.settings) == _others(best.settings):
            rivals.setdefault(trial.settings[RATE], trial)  # a rate that was drawn twice gives one student
    chosen_run = task.run_of(root, task.recipe_of(best.settings))
    students = {one.number: task.run_of(root, task.recipe_of(one.settings)).student for one in rivals.values()}
    found: dict[tuple[int, ...], tuple[Artifact, Metric]] = {}

    def validated(numbers: tuple[int, ...]) -> float:
        model = average(root, [students[number] for number in numbers])
        found[numbers] = model, validate(chosen_run, model, task.held)
        return found[numbers][1].value

    chosen = greedy(list(students), validated)
    model, validation = found[chosen]
    tested = [
        hits(chosen_run.test(one, chosen_run.recipe.view), task.start.test_labels)
        for one in (model, students[best.number])
    ]
    recipe = chosen_run.recipe
    of = Subject(model=model.name, seed=recipe.seed, dataset=", ".join(recipe.test.uri), split="test")
    return Soup(
        trials=chosen,
        left_out=tuple(number for number in students if number not in chosen),
        artifact=model.uri.rpartition("/")[2],
        validation=validation,
        test=require(accuracy(of, tested[0], len(task.start.classes)), metric=TOP1),
        gain=paired_gain(of, tested[0].top1, tested[1].top1),
    )


def greedy(models: Sequence[MODEL], validated: Callable[[tuple[MODEL, ...]], float]) -> tuple[MODEL, ...]:
    """The models of the soup. `models` are sorted, best first; each is added if the average does not get worse."""
    soup = (models[0],)
    best = validated(soup)
    for model in models[1:]:
        if (found := validated((*soup, model))) >= best:
            soup, best = (*soup, model), found
    return soup


def average(root: Root, models: Sequence[Artifact]) -> Artifact:
    """The mean of the weights of networks of one architecture, whatever their order. A single network is its own mean.

    Parameters and BatchNorm statistics are summed in float64. Integers (BatchNorm's count of batches) are those of the
    network whose digest is first.
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
