"""The inputs of a run, checked before anything is trained: the recipe, its corpora, their labels, a given teacher."""

import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from raylabel import datasets
from raylabel.compute.progress import say
from raylabel.corpus import Corpus, Shards, index_corpus, read_groups
from raylabel.corpus.apart import check_apart
from raylabel.corpus.label_rule import name_warnings
from raylabel.labels.holdout import hold_out
from raylabel.labels.truth import GivenLabels
from raylabel.labels.zero_shot import check_text, text_warnings, texts_of
from raylabel.models.start import check_start, check_trunk, import_weights
from raylabel.models.trained import import_model
from raylabel.pipelines.edited import check_edited
from raylabel.recipes.checks import check_classes, check_recipe
from raylabel.recipes.recipe import Recipe
from raylabel.recipes.teacher import Teacher
from raylabel.selection.config import MEASURED, TAGGED
from raylabel.selection.leaks import find_leaks
from raylabel.selection.lengths import read_counts
from raylabel.store.artifact import Artifact, Root
from raylabel.text import listed
from raylabel.training.digests import read_digests

REFERENCE = "reference"
"""The name in the root of sets with which a corpus is only compared."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What is known about the inputs of a run before anything is trained. Plain data, so that Ray can send it.

    Keys of `corpora` and `shards`: labeled, unlabeled, test, validation if that is a corpus of its own, and the names
    of `Recipe.against`.
    """

    corpora: dict[str, Corpus]
    shards: dict[str, Artifact]
    labels: Artifact
    """PICKS of the labeled set."""
    test_labels: Artifact
    """PICKS of the test set."""
    validation: tuple[str, Artifact] | None
    """The corpus with the validation set, and its PICKS; None if no training is validated on one."""
    classes: tuple[str, ...]
    """Class names, in the order of class indices."""
    warnings: tuple[str, ...]
    """What the user should check; no error. Also in the results of the run."""
    groups: dict[str, pa.Table]
    """Source videos of the labeled and the test set, as `read_groups` returns them."""
    teacher: Artifact | None
    """The teacher if it is given; None if it is trained by the run."""
    weights: Mapping[str, Artifact]
    """`Init.weights` of each training that starts from some, and those of a frozen network → these weights."""


def prepare(root: Root, recipe: Recipe) -> Prepared:
    """Checks the recipe, indexes its corpora, and reads their labels. InputError if the user has to fix one of them."""
    check_recipe(recipe)
    corpora, shards = index_corpora(root, recipe.corpora, recipe.against)
    labels = GivenLabels().label(root, corpora["labeled"], shards["labeled"])
    classes = tuple(labels.info["classes"])
    test_labels = GivenLabels(classes=classes).label(root, corpora["test"], shards["test"])
    warnings = [*name_warnings(classes), *lacking_classes(classes, test_labels)]
    if recipe.teacher.given_weights and recipe.teacher.train:
        warnings.append(
            "teacher.train is not used: the teacher is given; to fine-tune it, see teacher.train.init.weights"
        )
    if recipe.teacher.head.zero_shot and recipe.taught:
        warnings += text_warnings(texts_of(recipe.teacher.head, classes))
    for text in warnings:  # now, not after days of scoring
        say(f"warning: {text}")
    groups = {n: read_groups(corpora[n], Shards(shards[n])) for n in ("labeled", "test")}
    validation = None
    if recipe.holdout:
        digests = read_digests(root, labels, shards["labeled"], corpora["labeled"])
        labels, held = hold_out(root, labels, groups["labeled"], digests, recipe.holdout, recipe.seed, "holdout")
        validation = "labeled", held
    elif recipe.validation:
        of_validation = GivenLabels(classes=classes).label(root, corpora["validation"], shards["validation"])
        validation = "validation", of_validation
    find_leaks(recipe.leaks, groups["labeled"], groups["test"])  # those that are found without scores
    check_classes(recipe, len(classes))
    if recipe.select.counts not in ("", TAGGED, *MEASURED):
        read_counts(recipe.select.counts, classes)
    return Prepared(
        corpora=corpora,
        shards=shards,
        labels=labels,
        test_labels=test_labels,
        validation=validation,
        classes=classes,
        warnings=tuple(warnings),
        groups=groups,
        teacher=given_teacher(root, recipe.teacher, len(classes)) if recipe.taught else None,
        weights=given_weights(root, recipe, len(classes)),
    )


def index_corpora(
    root: Root, given: Mapping[str, Corpus], references: Collection[str] = ()
) -> tuple[dict[str, Corpus], dict[str, Artifact]]:
    """(corpora, SHARDS of each) by name; a data set that raylabel knows is a corpus of files in the root. `references`:
    the names of those with which the corpus is only compared. InputError if they have files in common with it."""
    corpora = {name: datasets.resolve(root, corpus) for name, corpus in given.items()}
    if references:
        check_apart(corpora["unlabeled"].uri, [uri for name in references for uri in corpora[name].uri])
    edited = functools.partial(check_edited, root)
    return corpora, {
        n: index_corpus(root, REFERENCE if n in references else n, c, functools.partial(edited, c))
        for n, c in corpora.items()
    }


def lacking_classes(classes: Sequence[str], test_labels: Artifact) -> Iterator[str]:
    """What the user should know if the test set has no sample of some classes."""
    counts = zip(classes, test_labels.info["per_class"], strict=True)
    if lacking := [name for name, count in counts if not count]:
        none = f"no sample of {len(lacking):,} of {len(classes):,} classes ({listed(lacking)})"
        yield f"the test set has {none}: the accuracies do not cover them"


def given_weights(root: Root, recipe: Recipe, classes: int) -> dict[str, Artifact]:
    """The weights that trainings start from, by `Init.weights`. InputError if they or the layers that an `Init` names
    do not fit the network."""
    found: dict[str, Artifact] = {}
    if recipe.teacher.head.given and recipe.taught:
        found[recipe.teacher.given_weights] = frozen_weights(root, recipe.teacher)
    for name, (model, config) in recipe.trainings.items():
        source = config.init.weights
        if source and source not in found:
            found[source] = import_weights(root, source, model)
        if check_start(name, model, classes, config.init, found.get(source)):
            say(f"{name} starts from {source} without its head: the new one has random weights, for {classes} classes")
    return found


def frozen_weights(root: Root, teacher: Teacher) -> Artifact:
    """The weights of a frozen network on whose features a head is fitted. InputError if they do not fit its trunk."""
    if teacher.head.zero_shot:
        check_text(teacher.given_weights, teacher.model)
    found = import_weights(root, teacher.given_weights, teacher.model)
    check_trunk(found, teacher.model, teacher.given_weights)
    return found


def given_teacher(root: Root, teacher: Teacher, classes: int) -> Artifact | None:
    """The teacher if it is given; None if it is trained by the run."""
    if not teacher.given:
        return None
    return import_model(root, "teacher", teacher.model, classes, checkpoint=teacher.checkpoint, weights=teacher.weights)
