"""The story: labeled set → teacher → SCORES of the corpus → PICKS → student, and whether it was worth it."""

import functools
from dataclasses import dataclass, field, replace

import pyarrow as pa

from raylabel import datasets
from raylabel.artifact import NOT_IDENTITY, Artifact, Root, identity_of
from raylabel.corpus import Corpus, Shards, index_corpus, read_groups
from raylabel.duplicates import find_duplicates
from raylabel.errors import InputError
from raylabel.evaluate.classify import TOP, accuracy, hits, metrics, paired_gain
from raylabel.evaluate.leaks import Policy, find_leaks
from raylabel.evaluate.precision import Truth, pick_precision
from raylabel.examples import Materialize, materialize
from raylabel.labels.teacher import Label, label
from raylabel.labels.truth import truth
from raylabel.media.views import View
from raylabel.models import Model, check, check_input, import_model
from raylabel.report.run import Run, write_run
from raylabel.report.summary import Summary
from raylabel.resources import Cluster, Resources
from raylabel.selection import Select, select
from raylabel.stream import Stream
from raylabel.train import Train, train


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """The model that labels the corpus: given as a checkpoint or by a weight name, or else trained here."""

    model: Model
    """Its architecture."""
    train: Train | None = None
    """How to train it on the labeled set, where neither checkpoint nor weights is given."""
    checkpoint: str = ""
    """A trained one: a .safetensors file or a PyTorch state dict."""
    weights: str = ""
    """A trained one by torchvision's name, such as ResNet50_Weights.IMAGENET1K_V2."""
    view: View | None = None
    """What it sees, where that differs from the student's view: more frames of a video (Yalniz et al. 2019 §5.1)."""

    def __post_init__(self):
        if self.checkpoint and self.weights:
            raise InputError("teacher: checkpoint and weights are both given: keep one")
        if not (self.train or self.checkpoint or self.weights):
            raise InputError("teacher: give teacher.train, teacher.checkpoint or teacher.weights")

    @property
    def given(self) -> bool:
        return bool(self.checkpoint or self.weights)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A complete run. A recipe is a function that returns one; a variant changes two fields of another's."""

    name: str
    """What the run is called in the report."""
    labeled: Corpus
    """The labeled training set."""
    unlabeled: Corpus
    """The corpus that the teacher labels."""
    test: Corpus
    """The labeled test set; nothing is tuned on it."""
    truth: Truth | None = None
    """True labels of the corpus, where somebody has them: only to measure the precision of the picks."""
    view: View
    """What the models see of an image or a video."""
    teacher: Teacher
    """Who labels."""
    label: Label = Label()
    """How the corpus is scored."""
    select: Select = Select()
    """Which samples are kept."""
    materialize: Materialize = Materialize()
    """What training reads."""
    student: Model
    """Architecture of the student, and of its control."""
    pretrain: Train
    """The student on the picks, from random weights."""
    finetune: Train
    """The student on the labeled set, all layers."""
    leaks: Policy = field(default="report", metadata=NOT_IDENTITY)
    """What to do if source videos of the test set, or its very files, stand among what is learned from: 'report' it, or
    end in an 'error'."""
    seed: int = 0
    """Of every random choice: weights, order, crops."""
    retry_rejects: bool = field(default=False, metadata=NOT_IDENTITY)
    """Try again what an earlier run rejected: storage that failed may be back. What can be read now is added, and what
    follows from it is made anew; if nothing can, nothing is."""
    resources: Resources = field(default=Resources(), metadata=NOT_IDENTITY)
    """What the work may use; changes no result's identity."""

    @property
    def teacher_view(self) -> View:
        return self.teacher.view or self.view

    @property
    def control(self) -> Train:
        """Pre-training's recipe on the labeled set alone, for as many images as pre-training and fine-tuning have."""
        return replace(self.pretrain, images=self.pretrain.processed + self.finetune.processed)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a run rests on, and what a plan needs to know of it. Corpora and SHARDS: labeled, unlabeled, test."""

    corpora: dict[str, Corpus]
    shards: dict[str, Artifact]
    labels: Artifact
    """PICKS of the labeled set."""
    test_labels: Artifact
    """PICKS of the test set."""
    classes: tuple[str, ...]
    """Their names, in label order."""
    groups: dict[str, pa.Table]
    """Of the labeled and the test set, what `read_groups` says."""
    teacher: Artifact | None
    """The teacher, if it is given and not trained here."""


def prepare(root: Root, recipe: Recipe) -> Prepared:
    """Checks the recipe, indexes its corpora, and reads their labels. InputError for input that a person can mend."""
    check_recipe(recipe)
    corpora = {n: datasets.resolve(root, getattr(recipe, n)) for n in ("labeled", "unlabeled", "test")}
    shards = {n: index_corpus(root, n, corpus) for n, corpus in corpora.items()}
    labels = truth(root, shards["labeled"], corpora["labeled"])
    classes = tuple(labels.info["classes"])
    test_labels = truth(root, shards["test"], corpora["test"], classes)
    groups = {n: read_groups(corpora[n], Shards(shards[n])) for n in ("labeled", "test")}
    find_leaks(root, recipe.leaks, groups["labeled"], groups["test"])  # those that nothing need be scored to see
    check_classes(recipe, len(classes))
    return Prepared(
        corpora=corpora,
        shards=shards,
        labels=labels,
        test_labels=test_labels,
        classes=classes,
        groups=groups,
        teacher=given_teacher(root, recipe.teacher, len(classes)),
    )


def fit_model(
    root: Root,
    recipe: Recipe,
    classes: int,
    name: str,
    model: Model,
    examples: Artifact,
    config: Train | None,
    init: Artifact | None = None,
) -> Artifact:
    """One of the recipe's networks, trained."""
    assert config is not None
    view = recipe.teacher_view if name == "teacher" else recipe.view
    return train(
        root,
        name,
        model=model,
        classes=classes,
        examples=examples,
        config=config,
        view=view,
        seed=recipe.seed,
        resources=recipe.resources,
        init=init,
    )


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """What stands once a student has learned from the corpus."""

    lesson: Artifact
    """EXAMPLES of the labeled set."""
    teacher: Artifact
    scores: Artifact
    """SCORES of the corpus by the teacher."""
    duplicates: Artifact
    picks: Artifact
    pseudo: Artifact
    """EXAMPLES of the picks."""
    student: Artifact
    """The student, trained on the picks alone."""


def pretrain(root: Root, recipe: Recipe, start: Prepared) -> Pretrained:
    """Teacher, SCORES, PICKS and the student that learned from them. InputError for input that a person can mend."""
    corpora, shards, classes = start.corpora, start.shards, start.classes
    limit, again = recipe.label.reject_limit, recipe.retry_rejects
    lesson = materialize(
        root, "labeled", start.labels, shards["labeled"], corpora["labeled"], recipe.materialize, limit, again
    )

    for config in (recipe.teacher.train, recipe.finetune, recipe.control):  # known now, not after days of pre-training
        if config:
            workers = Cluster.now().workers(recipe.resources, config.batch)
            Stream(lesson, recipe.seed).check_workers(workers, config.batch)

    fit = functools.partial(fit_model, root, recipe, len(classes))

    # 1. The teacher.
    teacher = start.teacher or fit("teacher", recipe.teacher.model, lesson, recipe.teacher.train)

    # 2. It labels the corpus, once; the best K of every class become a training set.
    scores = label(
        root,
        teacher,
        shards["unlabeled"],
        corpora["unlabeled"],
        recipe.teacher_view,
        recipe.label,
        recipe.resources,
        again,
    )
    duplicates = find_duplicates(root, scores)
    picks = select(root, scores, duplicates, recipe.select, classes)
    pseudo = materialize(
        root, "picked", picks, shards["unlabeled"], corpora["unlabeled"], recipe.materialize, limit, again
    )

    # 3. The student learns from the picks alone.
    student = fit("pretrained", recipe.student, pseudo, recipe.pretrain)
    return Pretrained(
        lesson=lesson,
        teacher=teacher,
        scores=scores,
        duplicates=duplicates,
        picks=picks,
        pseudo=pseudo,
        student=student,
    )


def finetune(root: Root, recipe: Recipe, start: Prepared, found: Pretrained) -> Artifact:
    """The student, fine-tuned on the clean labels alone."""
    return fit_model(
        root,
        recipe,
        len(start.classes),
        "student",
        recipe.student,
        found.lesson,
        recipe.finetune,
        init=found.student,
    )


def semi_supervised(root: Root, recipe: Recipe, start: Prepared | None = None) -> tuple[Artifact, Summary]:
    """Runs the recipe (Yalniz et al. 2019 §3); the artifact holds summary.json and report.html, the same numbers.

    Whatever stands in the root already is used as it is. `start`: what the run rests on, if that is known; else it is
    prepared. InputError for input that a person can mend.
    """
    start = start or prepare(root, recipe)
    corpora, shards, classes, again = start.corpora, start.shards, start.classes, recipe.retry_rejects

    # 1. A teacher 2. labels the corpus. 3. The student learns from the picks alone. 4. It is fine-tuned on the clean
    # labels alone.
    found = pretrain(root, recipe, start)
    student = finetune(root, recipe, start, found)

    # Was it worth it? The same architecture, the same recipe, the same number of images, without the corpus.
    control = fit_model(root, recipe, len(classes), "control", recipe.student, found.lesson, recipe.control)

    students = {"control": control, "pretrain": found.student, "finetune": student}
    models = {
        "teacher": found.teacher,
        "control": control,
        "student (pretrained)": found.student,
        "student (fine-tuned)": student,
    }
    config = replace(recipe.label, p=TOP)
    views = {"teacher": recipe.teacher_view}
    tests = {
        name: label(
            root,
            model,
            shards["test"],
            corpora["test"],
            views.get(name, recipe.view),
            config,
            recipe.resources,
            again,
        )
        for name, model in models.items()
    }
    shared = find_leaks(
        root, recipe.leaks, start.groups["labeled"], start.groups["test"], found.scores, tests["teacher"]
    )
    right = {name: hits(tested, start.test_labels) for name, tested in tests.items()}
    accuracies = [accuracy(name, *hit, len(classes)) for name, hit in right.items()]
    gain = paired_gain(right["student (fine-tuned)"][0], right["control"][0])
    run = Run(
        name=recipe.name,
        settings=identity_of(recipe),
        classes=classes,
        corpus=corpora["unlabeled"],
        shards=shards["unlabeled"],
        lesson=found.lesson,
        scores=found.scores,
        duplicates=found.duplicates,
        picks=found.picks,
        stages={
            "teacher": (found.teacher,),
            "label": (found.scores,),
            "select": (found.duplicates, found.picks),
            "materialize": (found.lesson, found.pseudo),
            "pretrain": (found.student,),
            "finetune": (student,),
            "control": (control,),
            "evaluate": tuple(tests.values()),
        },
        curves={**({} if start.teacher else {"teacher": found.teacher}), **students},
        accuracies=accuracies,
        gain=gain,
        leaks=shared,
        precision=pick_precision(found.picks, shards["unlabeled"], recipe.truth),
        more=(
            *shards.values(),
            start.labels,
            start.test_labels,
            metrics(root, recipe.name, recipe.test.uri, accuracies, gain),
        ),
    )
    return write_run(root, run)


def check_recipe(recipe: Recipe) -> None:
    """InputError for what can be known before any work."""
    check(recipe.teacher.model)
    check(recipe.student)
    _check_media(recipe)
    cluster = Cluster.now()
    cluster.teachers(recipe.resources)
    for config in (recipe.teacher.train, recipe.pretrain, recipe.finetune):
        if config and (workers := cluster.workers(recipe.resources, config.batch)) > recipe.materialize.lanes:
            raise InputError(
                f"{workers} training workers but {recipe.materialize.lanes} lanes: raise --materialize.lanes, or lower "
                "--resources.workers"
            )


def check_classes(recipe: Recipe, classes: int) -> None:
    """InputError for what can be known once the labels were read."""
    recipe.select.check_against(classes, min(recipe.label.p, classes))


def _check_media(recipe: Recipe) -> None:
    """InputError if networks, views and corpora are not all of images, or all of videos."""
    kind = "video" if recipe.view.clip else "image"
    for name in ("labeled", "unlabeled", "test"):
        corpus = getattr(recipe, name)
        if corpus.kind != kind:
            raise InputError(f"{name}.kind is '{corpus.kind}', but by view.clip the media are {kind}s: change either")
        for view in (recipe.view, recipe.teacher_view):
            recipe.label.check_against(corpus, view)
    for model, view in ((recipe.teacher.model, recipe.teacher_view), (recipe.student, recipe.view)):
        check_input(model, view.clip.frames if view.clip else None, view.size)


def given_teacher(root: Root, teacher: Teacher, classes: int) -> Artifact | None:
    """The teacher, if it is given and not trained here."""
    if not teacher.given:
        return None
    return import_model(root, "teacher", teacher.model, classes, checkpoint=teacher.checkpoint, weights=teacher.weights)
