"""The inputs of a transfer, checked before any work: the recipe, its corpora and their labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from raylabel.compute.progress import say
from raylabel.compute.resources import Cluster
from raylabel.corpus import Corpus, Shards, read_groups
from raylabel.corpus.label_rule import name_warnings
from raylabel.datasets import real_labels
from raylabel.datasets.imagenet import WNID
from raylabel.errors import InputError
from raylabel.labels.several import SeveralLabels
from raylabel.labels.truth import GivenLabels
from raylabel.media.view import View
from raylabel.models import Model, check, check_input
from raylabel.pipelines.inputs import index_corpora, lacking_classes
from raylabel.recipes.transfer import Transfer
from raylabel.store.artifact import Artifact, Root
from raylabel.training.digests import read_digests


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A network to compare."""

    name: str
    """As it is shown."""
    model: Model
    """Its architecture, with an ordinary head."""
    weights: str
    """What `Init.weights` may be; empty: random weights."""
    view: View


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What is known about the inputs of a transfer before any work. Keys of `corpora` and `shards`: labeled, test, and
    validation if that is given."""

    root: Root
    corpora: dict[str, Corpus]
    shards: dict[str, Artifact]
    labels: Artifact
    """PICKS of the labeled set."""
    test_labels: Artifact
    """PICKS of the test set."""
    validation: Artifact | None
    """PICKS of the validation set, if it is given."""
    classes: tuple[str, ...]
    """Class names, in the order of class indices."""
    real: Sequence[tuple[int, ...]]
    """ReaL labels of the test set, if they are given."""
    warnings: tuple[str, ...]
    """What the user should check; no error."""

    @cached_property
    def groups(self) -> pa.Table:
        """Source videos of the labeled set, as `read_groups` returns them."""
        return read_groups(self.corpora["labeled"], Shards(self.shards["labeled"]))

    @cached_property
    def digests(self) -> pa.Table:
        """DIGESTS of the labeled set."""
        return read_digests(self.root, self.labels, self.shards["labeled"], self.corpora["labeled"])


def prepare(root: Root, recipe: Transfer, candidates: Sequence[Candidate]) -> Prepared:
    """Checks the recipe and the networks, indexes the corpora, and reads their labels. InputError if the user has to
    fix one of them."""
    check_transfer(recipe, candidates)
    corpora, shards = index_corpora(root, {name: getattr(recipe, name) for name in recipe.corpora})
    source = SeveralLabels if recipe.several else GivenLabels
    labels = source().label(root, corpora["labeled"], shards["labeled"])
    classes = tuple(labels.info["classes"])
    given = source(classes=classes)
    tested = given.label(root, corpora["test"], shards["test"])
    warnings = [*name_warnings(classes), *lacking_classes(classes, tested)]
    for text in warnings:
        say(f"warning: {text}")
    validation = given.label(root, corpora["validation"], shards["validation"]) if recipe.validation else None
    return Prepared(
        root=root,
        corpora=corpora,
        shards=shards,
        labels=labels,
        test_labels=tested,
        validation=validation,
        classes=classes,
        real=_real_labels(recipe.real, classes),
        warnings=tuple(warnings),
    )


def _real_labels(uri: str, classes: tuple[str, ...]) -> Sequence[tuple[int, ...]]:
    if not uri:
        return ()
    if bad := [name for name in classes if not WNID.fullmatch(name)]:
        raise InputError(f"real is given, but the class '{bad[0]}' is no WordNet id of ImageNet: leave it out")
    if list(classes) != sorted(classes):
        raise InputError(
            "real is given, but the classes are not in the order of sorted WordNet ids: sort labeled.classes"
        )
    return real_labels(uri)


def check_transfer(recipe: Transfer, candidates: Sequence[Candidate]) -> None:
    """InputError for what can be checked before any work."""
    if not candidates:
        raise InputError("networks is empty: name the networks to compare, for example runs/student-0a1b2c3d4e5f")
    kind, cluster = "video" if recipe.view.clip else "image", Cluster.now()
    cluster.teachers(recipe.resources)
    for config in (recipe.finetune, recipe.probe, recipe.scratch or recipe.finetune):
        cluster.workers(recipe.resources, config.batch)
    for name in recipe.corpora:
        if getattr(recipe, name).kind != kind:
            given = "given" if recipe.view.clip else "not given"
            raise InputError(f"{name}.kind is not '{kind}', but view.clip is {given}, as for {kind}s: change one")
    for one in candidates:
        check(one.model, f"networks '{one.name}'")
        if bool(one.view.clip) != bool(recipe.view.clip):
            raise InputError(f"networks has '{one.name}', which takes {one.view.inputs}, but the corpora are {kind}s")
        for size in {one.view.size, one.view.tested_size}:
            check_input(one.model, one.view.clip.frames if one.view.clip else None, size, f"networks '{one.name}'")
        for name in recipe.corpora:
            recipe.label.check_against(getattr(recipe, name), one.view)
