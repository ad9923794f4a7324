"""A recipe: the corpora, teacher, selection, student and training of a run."""

from dataclasses import dataclass, field, replace
from typing import Literal, Self

from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus
from raylabel.errors import InputError
from raylabel.evaluate.precision import Truth
from raylabel.labels.source import LabelSource
from raylabel.labels.tags import Tags
from raylabel.labels.teacher import Label
from raylabel.media.view import View
from raylabel.models import Model
from raylabel.recipes.control import Control
from raylabel.recipes.fields import check_fields
from raylabel.recipes.space import Settings, apply
from raylabel.recipes.teacher import Teacher
from raylabel.selection.config import Select
from raylabel.selection.leaks import Policy
from raylabel.selection.pairs import THRESHOLD
from raylabel.store.artifact import ADDED_LATER, NOT_IDENTITY
from raylabel.training.config import Train
from raylabel.training.media import Materialize

Tracking = Literal["mlflow", "wandb"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A complete run. A recipe is a function that returns one; a variant calls another and changes two fields of it."""

    name: str
    """Name of the run in the report."""
    labeled: Corpus
    """The labeled training set."""
    unlabeled: Corpus
    """The corpus that the teacher labels."""
    test: Corpus
    """The labeled test set; nothing is tuned on it."""
    validation: Corpus | None = field(default=None, metadata=ADDED_LATER)
    """A labeled set on which trainings are validated (`Train.validate`); nothing is trained on it."""
    holdout: float = field(default=0.0, metadata=ADDED_LATER)
    """Share of the labeled set that is held out as the validation set instead, 0 to 1; nothing is trained on it."""
    truth: Truth | None = None
    """True labels of the corpus, if they are known. Used only to measure the precision of the picks."""
    view: View
    """How an image or a video becomes a model's input."""
    teacher: Teacher
    """The network that labels the corpus, and its training."""
    source: LabelSource | None = field(default=None, metadata=ADDED_LATER)
    """Label source to use instead of the teacher, a frozen dataclass (labels/source.py); None: the teacher."""
    labeler: Literal["teacher", "tags"] = field(default="teacher", metadata=ADDED_LATER)
    """What labels the corpus if no source is given: the teacher, or its `tags`, as in weakly supervised pre-training
    (Yalniz et al. 2019 §4.4). With tags there is no teacher, a class lists K random samples that have a tag of it
    (`select.rank` is 'random')."""
    tags: Tags = field(default=Tags(), metadata=ADDED_LATER)
    """Where the tags of the corpus are, and of which class each is."""
    label: Label = Label()
    """How the corpus is scored."""
    select: Select = Select()
    """Which samples are selected."""
    materialize: Materialize = Materialize()
    """How the training examples are stored."""
    student: Model
    """Architecture of the student, and of its control."""
    pretrain: Train
    """How to train the student on the picks, from random weights or from those of `pretrain.init`."""
    finetune: Train
    """How to fine-tune the student on the labeled set, all layers."""
    finetune_picks: float = field(default=0.0, metadata=ADDED_LATER)
    """Share of each batch of fine-tuning that is picks, 0 to 1; with 1 there are no labels in it. 0, the labeled set
    alone, is the recommendation of Yalniz et al. 2019 (§3, and the second of table 1)."""
    rounds: tuple[str, ...] = field(default=(), metadata=NOT_IDENTITY)
    """Architectures of the students of further rounds, in each of which the student of the round before is the teacher
    (Yalniz et al. 2019 §4.2). With a validation set, no round follows a student that is not measurably better on it
    than its teacher."""
    control: Control = field(default=Control(), metadata=ADDED_LATER)
    """How to train the control, if not as the student."""
    mixed: float = field(default=0.0, metadata=ADDED_LATER)
    """Share of each batch that is of the labeled set, in the training of one more student on labels and picks mixed, 0
    to 1: its accuracy is reported too. It is trained as in pre-training, for as many images as pre-training and
    fine-tuning together. 0: there is none, since Yalniz et al. 2019 §3 avoids the search for this share."""
    leaks: Policy = field(default="remove", metadata=NOT_IDENTITY)
    """What to do if samples of the test set are also in the training data, as segments of one source video, byte for
    byte, or as near-duplicates: 'report' it; 'remove' such samples of the corpus, which are then never selected, and
    report the rest; or end with an 'error'. If tags label the corpus, its media are read once for this, and for copies
    within it: 'skip' looks for neither."""
    against: dict[str, str] = field(default_factory=dict, metadata=NOT_IDENTITY)
    """Further evaluation sets, by name. What is said of the test set in `leaks` holds for these too, but nothing is
    measured on them. Each is one URI, with or without labels, of the same kind of media:
    `--against imagenet-v2 s3://bucket/v2 voc s3://bucket/voc`."""
    near: float = field(default=THRESHOLD, metadata=NOT_IDENTITY)
    """Similarity from which two pictures are near-duplicates, above 0 and up to 1: the correlation of their edges at 24
    x 24 pixels, once one is scaled and shifted onto the other. Views of fewer pixels are not searched for them."""
    copies: Literal["bytes", "near"] = field(default="bytes", metadata=ADDED_LATER)
    """Samples of the corpus that are left out because they are copies of others in it: 'bytes', those with the same
    bytes, or 'near', near-duplicates too. Of several near-duplicates the one with the best score stays."""
    audit: bool = field(default=True, metadata=NOT_IDENTITY)
    """Say before anything is trained on the picks how many of them are expected to have their true label. It needs
    labeled samples that the teacher has not learned from: those of `validation` or `holdout`; or else, if the teacher
    is a head that is fitted to features, the labeled set, by heads that are fitted without a fifth of it."""
    seed: int = 0
    """Seed of every random choice: weights, order, crops."""
    retry_rejects: bool = field(default=False, metadata=NOT_IDENTITY)
    """Read the samples again that an earlier run rejected, for example after a storage failure. Those that can be read
    now are added, and everything that depends on them is built again. If there are none, nothing changes."""
    resources: Resources = field(default=Resources(), metadata=NOT_IDENTITY)
    """Resources that the run may use; they do not change the identity of a result."""
    track: tuple[Tracking, ...] = field(default=(), metadata=NOT_IDENTITY)
    """Where the run is tracked besides TensorBoard's files: 'mlflow', 'wandb' or both. Their own environment variables,
    such as MLFLOW_TRACKING_URI and WANDB_MODE, say how."""

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def taught(self) -> bool:
        """Whether a teacher labels the corpus."""
        return not self.source and self.labeler == "teacher"

    @property
    def pictured(self) -> bool:
        """Whether no network scores the corpus, but its samples are compared, with each other and with test samples."""
        return not self.source and self.labeler == "tags" and self.leaks != "skip"

    @property
    def compared_view(self) -> View:
        """View in which samples are compared: that in which the teacher sees them."""
        return self.teacher_view if self.taught else self.view

    @property
    def audited(self) -> bool:
        """Whether there is an audit."""
        held = self.validation or self.holdout or (self.teacher.head.fitted and self.unlabeled.kind == "image")
        return bool(self.audit and held and self.taught and self.select.rank != "random")

    @property
    def soft(self) -> bool:
        """Whether a training on picks has soft targets."""
        return bool(self.pretrain.soft or self.finetune.soft)

    @property
    def teacher_view(self) -> View:
        """View of the teacher. InputError if it is that of weights whose preprocessing raylabel does not have."""
        return self.teacher.view_in(self.view)

    @property
    def complete(self) -> Self:
        """The recipe with the teacher's view in it, if that is the one of its weights."""
        view = self.teacher_view
        return (
            self if view in (self.teacher.view, self.view) else replace(self, teacher=replace(self.teacher, view=view))
        )

    @property
    def max_jpeg_pixels(self) -> int:
        """The largest JPEG among the training examples, which all views must accept."""
        return min(view.max_jpeg_pixels for view in (self.view, self.teacher_view, self.control_view))

    @property
    def own_corpora(self) -> dict[str, Corpus]:
        """Its fields that are corpora."""
        found = {"labeled": self.labeled, "unlabeled": self.unlabeled, "test": self.test}
        return found | ({"validation": self.validation} if self.validation else {})

    @property
    def corpora(self) -> dict[str, Corpus]:
        """All corpora by name, with those of `against`."""
        return self.own_corpora | {
            name: Corpus(uri=(uri,), kind=self.unlabeled.kind) for name, uri in self.against.items()
        }

    @property
    def validated(self) -> bool:
        """Whether any training is validated on the validation set."""
        return any(config.validate.on == "validation" for _, config in self.trainings.values())

    @property
    def trainings(self) -> dict[str, tuple[Model, Train]]:
        """Name of each training's config in the recipe → network and config, without that of a given teacher."""
        teacher, found = self.teacher, dict[str, tuple[Model, Train]]()
        if teacher.train and not teacher.given_weights and self.taught:
            found["teacher.train"] = teacher.model, teacher.train
        if self.control.train:
            found["control.train"] = self.student, self.control.train
        return found | {"pretrain": (self.student, self.pretrain), "finetune": (self.student, self.finetune)}

    @property
    def mixed_train(self) -> Train:
        """How to train the student on labels and picks mixed: as in pre-training, for as many images as pre-training
        and fine-tuning together."""
        return replace(self.pretrain, images=self.pretrain.processed + self.finetune.processed)

    @property
    def control_train(self) -> Train:
        """How to train the control on the labeled set alone: if it is not given, as in pre-training, for as many images
        as pre-training and fine-tuning together."""
        return self.control.train or replace(self.mixed_train, soft=0.0, temperature=1.0)

    @property
    def control_view(self) -> View:
        """View of the control in training."""
        return self.control.view or self.view

    @property
    def control_trials(self) -> list[tuple[Settings, Self]]:
        """The controls that `control.sweep` tries: (settings, recipe with this control) of each trial. InputError if it
        is invalid."""
        sweep, base = self.control.sweep, Control(train=self.control_train, view=self.control_view)
        if not sweep.space:
            return []
        try:
            controls = [(one, apply(base, one)) for one in sweep.trials(base, self.seed, shared=("sweep",))]
        except InputError as error:
            raise InputError(f"control.sweep.{error}") from error
        return [(settings, replace(self, control=control)) for settings, control in controls]
