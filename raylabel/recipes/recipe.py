"""What a run is: corpora, a teacher, how to select, a student and how it learns; and the checks of all that."""

from dataclasses import dataclass, field, replace

from raylabel.compute.resources import Cluster, Resources
from raylabel.corpus import Corpus
from raylabel.errors import InputError
from raylabel.evaluate.precision import Truth
from raylabel.labels.source import LabelSource
from raylabel.labels.teacher import Label
from raylabel.media.view import View
from raylabel.models import Model, check, check_input
from raylabel.selection.leaks import Policy
from raylabel.selection.select import Select
from raylabel.store.artifact import ADDED_LATER, NOT_IDENTITY
from raylabel.training.config import Train
from raylabel.training.examples import Materialize


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
    """The network that labels the corpus, and its training."""
    source: LabelSource | None = field(default=None, metadata=ADDED_LATER)
    """Who labels the corpus in the teacher's place, a frozen dataclass (labels/source.py); None: the teacher."""
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
    """What to do if source videos of the test set, or its very files, are among what is trained on: 'report' it, or
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
    if bool(recipe.teacher_view.clip) != bool(recipe.view.clip):
        raise InputError(f"teacher.view and view differ in whether they have a clip: the media are {kind}s for both")
    for model, view in ((recipe.teacher.model, recipe.teacher_view), (recipe.student, recipe.view)):
        check_input(model, view.clip.frames if view.clip else None, view.size)
