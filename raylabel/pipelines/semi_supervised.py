"""The run: labeled set → teacher → SCORES of the corpus → PICKS → student, and the control that it is compared with.

Yalniz et al. 2019 §3. Each property of `Run` is one artifact, in the order of the stages; reading a property builds
what it needs. Job, plan, sweep and report all use this class, so a stage is written once: as a property here and as a
section of the report.
"""

from dataclasses import replace
from functools import cached_property
from typing import Self

from raylabel.evaluate.results import CONTROL, MIXED, PRETRAINED, STUDENT, TEACHER, Metric
from raylabel.labels.hashtags import Hashtags
from raylabel.labels.source import LabelSource
from raylabel.media.view import View
from raylabel.models import Model
from raylabel.models.start import import_weights
from raylabel.pipelines.artifacts import artifacts_of
from raylabel.pipelines.audited import audit_of, held_of, precision_of, shortened
from raylabel.pipelines.control import ControlSweep, split_labels, trial_runs, try_controls
from raylabel.pipelines.finetuned import finetuned
from raylabel.pipelines.frozen import features_of, headed_teacher
from raylabel.pipelines.inputs import Prepared, prepare
from raylabel.pipelines.leaks import keeps_thumbnails, labeled_pairs_of, leaks_of, pairs_of, seen_of, tested_of
from raylabel.pipelines.metrics import check_of, metrics_of
from raylabel.pipelines.selected import copies_of, duplicates_of, picks_of, tags_of
from raylabel.pipelines.steps import Steps
from raylabel.pipelines.workers import check_workers
from raylabel.recipes.recipe import Recipe
from raylabel.selection.leaks import Leaking, Leaks
from raylabel.store.artifact import Artifact, Root
from raylabel.training.config import Train
from raylabel.training.mixed_stream import Mixture
from raylabel.training.task import TrainingTask
from raylabel.training.train import train
from raylabel.training.watch import Watch, unwatched


class Run(Steps):
    """The artifacts of a recipe's run. Reading a property returns the artifact if the root has it, or else builds it.
    InputError if the user has to fix an input."""

    def __init__(self, root: Root, recipe: Recipe, start: Prepared | None = None, watch: Watch = unwatched):
        """`start`: the inputs, if they are prepared already; otherwise they are prepared here. `watch` gets the curves
        of the trainings."""
        self.start = start or prepare(root, recipe)
        self.root, self.recipe, self.watch = root, recipe.complete, watch

    def build(self, last: str = "tests") -> Self:
        """Builds the stages up to `last`, in order: an error that ends the run is found as early as possible."""
        for stage in STAGES[: STAGES.index(last) + 1]:
            if stage != "teacher" or self.recipe.taught:
                getattr(self, stage)
        return self

    @property
    def artifacts(self) -> dict[str, tuple[Artifact, ...]]:
        """The artifacts of each stage, in order. Builds those that are missing. Each artifact is in one stage."""
        return artifacts_of(self.build(), STAGES)

    @cached_property
    def labeled_examples(self) -> Artifact:
        """EXAMPLES of the labeled set."""
        examples = self.materialize("labeled", "labeled", self.start.labels)
        check_workers(self.recipe, examples)
        return examples

    @cached_property
    def split(self) -> dict[str, Artifact]:
        """PICKS of both parts of the labeled set for `control.sweep` (pipelines/control.py); empty if there is none."""
        return split_labels(self) if self.recipe.control_trials else {}

    @cached_property
    def validation_examples(self) -> Artifact | None:
        """EXAMPLES of the validation set; None if no training is validated on it."""
        if not (self.recipe.validated and self.start.validation):
            return None
        corpus, labels = self.start.validation
        return self.materialize("validation", corpus, labels)

    @cached_property
    def labeled_features(self) -> Artifact | None:
        """FEATURES of the labeled set by the teacher's frozen network; None if it has no head to fit."""
        return None if self.recipe.teacher.head.zero_shot else features_of(self, "labeled")

    @cached_property
    def teacher(self) -> Artifact:
        """The network that labels the corpus: given, a head on a frozen network, or trained on the labeled set."""
        recipe, start = self.recipe, self.start
        if start.teacher:
            return start.teacher
        if recipe.teacher.head.given:
            return headed_teacher(self)
        return self.train(
            "teacher", recipe.teacher.model, self.labeled_examples, recipe.teacher.train, recipe.teacher_view
        )

    @cached_property
    def teacher_test(self) -> Artifact | None:
        """SCORES of the test set by the teacher; None if another source labels the corpus."""
        view = self.recipe.teacher_view
        return self.score(self.teacher, view, "test", keeps_thumbnails(self)) if self.recipe.taught else None

    @cached_property
    def teacher_check(self) -> Artifact | None:
        """The accuracy of a given or zero-shot teacher; None for others. InputError if its classes are likely in
        another order."""
        return check_of(self)

    @cached_property
    def tested(self) -> Artifact | None:
        """The test set as the corpus is compared with it: SCORES by the teacher, or PICTURES; None if it is not."""
        return tested_of(self)

    @cached_property
    def labeled_pairs(self) -> Artifact | None:
        """PAIRS of the labeled set with the evaluation sets; None if its pictures are too small for near-duplicates."""
        return labeled_pairs_of(self)

    @cached_property
    def labeled_leaks(self) -> Leaks:
        """How much of the test set is in the labeled set, which is known before the corpus is labeled."""
        return leaks_of(self, None).leaks

    @cached_property
    def tags(self) -> Artifact | None:
        """TAGS of the corpus, if they say what is scored, or how long the lists are; None otherwise."""
        return tags_of(self)

    @cached_property
    def features(self) -> Artifact | None:
        """FEATURES of the corpus by the teacher's frozen network; None unless `teacher.features`."""
        return features_of(self, "unlabeled") if self.recipe.teacher.features else None

    @cached_property
    def labels(self) -> Artifact:
        """The labels of the corpus by the label source: SCORES, or PICKS."""
        return self.source.label(self.root, self.start.corpora["unlabeled"], self.start.shards["unlabeled"])

    @cached_property
    def seen(self) -> Artifact | None:
        """The corpus as copies are found in it: SCORES, or PICTURES; None if only the media of picks are read."""
        return seen_of(self)

    @cached_property
    def pairs(self) -> Artifact | None:
        """PAIRS of the corpus with the evaluation sets; None if they are not compared."""
        return pairs_of(self)

    @cached_property
    def leaks(self) -> Leaking:
        """What of the test set is in the labeled set or in the corpus. InputError if any is and `recipe.leaks` is
        'error'."""
        return leaks_of(self, self.pairs)

    @cached_property
    def duplicates(self) -> Artifact | None:
        """DUPLICATES of the corpus; None if only the media of picks are read."""
        return duplicates_of(self)

    @cached_property
    def copies(self) -> Artifact | None:
        """COPIES of the corpus: near-duplicates within it; None unless `recipe.copies` is 'near'."""
        return copies_of(self)

    @cached_property
    def lists(self) -> Artifact:
        """PICKS: the K best samples of each class, or those of a source that gives PICKS."""
        return picks_of(self)

    @cached_property
    def held(self) -> Artifact | None:
        """SCORES or HELD of labeled samples that the teacher has not learned from; None if there are none."""
        return held_of(self)

    @cached_property
    def audit(self) -> Artifact | None:
        """AUDIT: the precision that is expected of each list; None without such samples."""
        return audit_of(self)

    @cached_property
    def picks(self) -> Artifact:
        """PICKS: the lists, or with `select.precision` their beginnings that are expected to have it."""
        return shortened(self)

    @cached_property
    def precision(self) -> list[Metric]:
        """How many of the picks have their true label, where it is known: before anything is trained on them."""
        return precision_of(self)

    @cached_property
    def pseudo_examples(self) -> Artifact:
        """EXAMPLES of the picks, with what the teacher says of each for soft targets."""
        return self.materialize("picked", "unlabeled", self.picks, self.labels if self.recipe.soft else None)

    @cached_property
    def pretrained(self) -> Artifact:
        """The student, trained on the picks alone."""
        return self.train("pretrained", self.recipe.student, self.pseudo_examples, self.recipe.pretrain)

    @cached_property
    def student(self) -> Artifact:
        """The student, fine-tuned on the labeled set; or on picks too, with `recipe.finetune_picks`."""
        return finetuned(self)

    @cached_property
    def control_sweep(self) -> ControlSweep | None:
        """The controls that `control.sweep` tries; None if there is none."""
        return try_controls(self) if self.recipe.control_trials else None

    @cached_property
    def control(self) -> Artifact:
        """The student's architecture, trained on the labeled set alone: by default with the same settings and as many
        images; of `control.sweep`, the best one."""
        return self.train_control("control", self.chosen)

    @cached_property
    def mixed(self) -> Artifact | None:
        """The student's architecture, trained on picks and labels together; None unless `recipe.mixed` is given."""
        recipe = self.recipe
        if not recipe.mixed:
            return None
        mixture = Mixture(examples=self.labeled_examples, share=recipe.mixed)
        return self.train("mixed", recipe.student, self.pseudo_examples, recipe.mixed_train, mixture=mixture)

    @cached_property
    def tests(self) -> dict[str, Artifact]:
        """SCORES of the test set by each network, by the network's name."""
        students = {CONTROL: self.control, PRETRAINED: self.pretrained, STUDENT: self.student}
        students |= {MIXED: self.mixed} if self.mixed else {}
        tests = {TEACHER: self.teacher_test} if self.teacher_test else {}
        return tests | {name: self.test(model, self.recipe.view) for name, model in students.items()}

    @cached_property
    def metrics(self) -> list[Metric]:
        """METRICS rows of all evaluators."""
        return metrics_of(self)

    @property
    def chosen(self) -> Recipe:
        """The recipe with the control that is trained on the whole labeled set: of `control.sweep`, the best one."""
        return self.control_sweep.best.recipe if self.control_sweep else self.recipe

    @property
    def split_examples(self) -> Artifact | None:
        """EXAMPLES of the labeled set without the validation split; None without `control.sweep`."""
        return next((run.labeled_examples for _, run in trial_runs(self)), None)

    @property
    def source(self) -> LabelSource:
        """The label source of the corpus."""
        if not self.recipe.taught:
            return self.recipe.source or Hashtags(tags=self.recipe.tags, classes=self.start.classes)
        network = self.network(self.teacher, self.recipe.teacher_view, keeps_thumbnails(self))
        return replace(network, features=self.features, subset=self.subset)

    @property
    def subset(self) -> Artifact | None:
        """The TAGS of the samples that are scored; None: all are."""
        return self.tags if self.recipe.tags.filter else None

    def validation_set(self, config: Train) -> Artifact | None:
        """EXAMPLES that a training is validated on."""
        sets = {"validation": lambda: self.validation_examples, "labeled": lambda: self.labeled_examples}
        return sets[config.validate.on]() if config.validate.given else None

    def train_control(self, name: str, recipe: Recipe) -> Artifact:
        """The network of this name that is trained as the control of a recipe, on the labeled set of this run."""
        return self.train(name, recipe.student, self.labeled_examples, recipe.control_train, recipe.control_view)

    def train(
        self,
        name: str,
        model: Model,
        examples: Artifact,
        config: Train | None,
        view: View | None = None,
        init: Artifact | None = None,
        mixture: Mixture | None = None,
    ) -> Artifact:
        """A network of this name that is trained on EXAMPLES. `view`: that of the student by default."""
        assert config is not None
        if source := config.init.weights:
            init = self.start.weights.get(source) or import_weights(self.root, source, model)
        task = TrainingTask(
            model=model,
            classes=len(self.start.classes),
            examples=examples,
            config=config,
            view=view or self.recipe.view,
            seed=self.recipe.seed,
            init=init,
            validation=self.validation_set(config),
            mixture=mixture,
        )
        return train(self.root, name, task, self.recipe.resources, self.watch)


STAGES = tuple(name for name, value in vars(Run).items() if isinstance(value, cached_property))
"""The stages of a run, in order."""
