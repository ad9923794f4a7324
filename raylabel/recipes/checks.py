"""What of a recipe can be checked before any work, and what once its labels are read."""

import importlib.util
from dataclasses import replace

from raylabel.compute.resources import Cluster
from raylabel.errors import InputError
from raylabel.models import check, check_input
from raylabel.recipes.recipe import Recipe


def check_recipe(recipe: Recipe) -> None:
    """InputError for what can be checked before any work."""
    check(recipe.teacher.network, "teacher.model")
    check(recipe.student, "student")
    for arch in recipe.rounds:
        check(replace(recipe.student, arch=arch), "rounds")
    _check_media(recipe)
    for name in recipe.track:
        if importlib.util.find_spec(name) is None:
            raise InputError(f"track names {name}, which is not installed: pip install 'raylabel[{name}]'")
    cluster = Cluster.now()
    cluster.teachers(recipe.resources)
    for name, (_, config) in recipe.trainings.items():
        if config.validate.on == "validation" and not (recipe.validation or recipe.holdout):
            raise InputError(
                f"{name}.validate.on is 'validation', but there is no validation set: give validation.uri, or holdout, "
                "a share of the labeled set"
            )
        cluster.workers(recipe.resources, config.batch)
        if config.sync_batchnorm and not cluster.gpus:
            raise InputError(f"{name}.sync_batchnorm is set, but PyTorch has it for GPUs only: unset it")
        if config.optimizer == "lamb" and importlib.util.find_spec("timm") is None:
            raise InputError(f"{name}.optimizer is 'lamb', which needs timm: pip install 'raylabel[timm]'")
    for _, trial in recipe.control_trials:
        check_recipe(trial)


def check_classes(recipe: Recipe, classes: int) -> None:
    """InputError for what can be checked once the labels are read."""
    recipe.select.check_against(classes, min(recipe.label.p, classes))


def _check_media(recipe: Recipe) -> None:
    """InputError if networks, views and corpora are not all of images, or all of videos."""
    kind = "video" if recipe.view.clip else "image"
    for name, corpus in recipe.corpora.items():
        if corpus.kind != kind:
            given = "given" if recipe.view.clip else "not given"
            raise InputError(f"{name}.kind is '{corpus.kind}', but view.clip is {given}, as for {kind}s: change one")
        for view in (recipe.view, recipe.teacher_view):
            recipe.label.check_against(corpus, view)
    if bool(recipe.teacher_view.clip) != bool(recipe.view.clip):
        raise InputError(f"teacher.view and view differ in whether they have a clip: both have to be for {kind}s")
    networks = ("teacher.model", recipe.teacher.model, recipe.teacher_view), ("student", recipe.student, recipe.view)
    networks += (("student", recipe.student, recipe.control_view),)
    for name, model, view in networks:
        for size in {view.size, view.tested_size}:
            check_input(model, view.clip.frames if view.clip else None, size, name)
