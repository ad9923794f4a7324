"""Predicts the cost of a run before it is started: SHARDS, a short pilot and the nodes of the cluster → a Plan.

What exists in the root costs nothing. If labeling or materializing was stopped, only the parts that are not committed
count. Any other stage counts in full until it is done.
"""

import time
from dataclasses import replace

from raylabel.compute.resources import Cluster
from raylabel.corpus import Shards
from raylabel.errors import InputError
from raylabel.models import Model
from raylabel.models.build import state_bytes
from raylabel.pipelines.inputs import Prepared, prepare
from raylabel.plan import traffic
from raylabel.plan.cost import Expected, materializing_seconds, rows_read
from raylabel.plan.done import Done
from raylabel.plan.expect import expect
from raylabel.plan.measure import TRIAL, Measured, Pilot, examples_of, scratch_root
from raylabel.plan.passes import Passes
from raylabel.plan.report import Plan, Reach, Work
from raylabel.plan.selection import Selection
from raylabel.plan.traffic import CorpusSize, Traffic
from raylabel.recipes.recipe import Recipe
from raylabel.report.charts import CURVES
from raylabel.store.artifact import Root
from raylabel.store.files import is_local
from raylabel.training.config import Train
from raylabel.training.examples import media_of
from raylabel.training.layout import BANDS, Layout
from raylabel.training.learner import tensor_files
from raylabel.training.media import WritingTask


def plan(root: Root, recipe: Recipe, device_hour_price: float | None = None) -> Plan:
    """Predicts the cost of the recipe on this cluster. Indexes its corpora and reads their labels, as the run would.

    `device_hour_price`: dollars for an hour of a device. InputError: input that the user can fix. The pilot's progress
    goes to stderr.
    """
    if not recipe.taught:
        raise InputError("a plan is of a run whose teacher labels the corpus: leave out labeler and source")
    if recipe.tags.filter:
        raise InputError("a plan does not read tags: leave out tags.filter for a plan of the whole corpus")
    cluster, start = Cluster.now(), prepare(root, recipe)
    done = Done(root, recipe, start)
    begin = time.monotonic()
    with scratch_root(root) as scratch:
        measured = Pilot(scratch, recipe, start, done, cluster).run()
    took = time.monotonic() - begin
    samples, labeled = Shards(start.shards["unlabeled"]).samples, measured.teacher
    known = expect(recipe, start, done, labeled)
    most = recipe.select.k * len(start.classes)
    most = most if recipe.select.fill else min(most, samples * recipe.select.p)
    expected = known or Expected((0, 0, 0), most, min(most, samples))
    return Plan(
        recipe=recipe.name,
        hardware=cluster.name,
        device="GPU" if cluster.gpus else "CPU",
        devices=cluster.gpus or cluster.cpus,
        kind=start.corpora["unlabeled"].kind,
        samples=samples,
        classes=len(start.classes),
        k=recipe.select.k,
        p=recipe.select.p,
        reach=Reach(value=known.reach[0], low=known.reach[1], high=known.reach[2]) if known else None,
        picks=expected.picks,
        sampled=labeled.seen if labeled else 0,
        pilot_seconds=took,
        device_hour_price=device_hour_price,
        remote=not all(map(is_local, (root.uri, *(uri for one in start.corpora.values() for uri in one.uri)))),
        stages=_Costs(recipe, start, done, measured, cluster, expected).works(),
    )


class _Costs:
    """The remaining work of each stage, in the order of the run."""

    def __init__(
        self,
        recipe: Recipe,
        start: Prepared,
        done: Done,
        measured: Measured,
        cluster: Cluster,
        expected: Expected,
    ):
        self.recipe, self.start, self.done, self.measured = recipe, start, done, measured
        self.cluster, self.expected = cluster, expected
        self.classes = len(start.classes)
        self.shards = {name: Shards(one) for name, one in start.shards.items()}
        self.stages = examples_of(recipe, start)
        self.corpora = {name: CorpusSize.of(shards) for name, shards in self.shards.items()}
        self.passes = Passes(recipe, start, done, measured, cluster, self.shards, self.corpora)

    def works(self) -> tuple[Work, ...]:
        recipe = self.recipe
        stages = (
            self._teacher(),
            *((self.passes.features(),) if recipe.teacher.features else ()),
            self.passes.label(),
            Selection(self.passes, self.expected.picks).work(),
            *((self.passes.audit(),) if recipe.audited and self.start.validation else ()),
            self._materialize(),
            self._train("pretrain", recipe.student, recipe.pretrain, "pseudo_examples"),
            self._finetune(),
            *(self._trial(number, trial) for number, (_, trial) in enumerate(recipe.control_trials)),
            self._train("control", recipe.student, self.done.control.control_train, "labeled_examples"),
            *(
                (self._mixed("mixed", recipe.mixed_train, "pseudo_examples", "labeled_examples", recipe.mixed),)
                if recipe.mixed
                else ()
            ),
            self.passes.evaluate(),
        )
        seconds = sum(work.seconds for work in stages)
        driver = traffic.start(list(self.corpora.values())) + traffic.lock(seconds) + traffic.report()
        driver += traffic.tracking(work.seconds for work in stages if work.stage in CURVES)
        return (*stages, replace(Work.nothing("driver"), traffic=driver.rounded()))

    def _teacher(self) -> Work:
        """Its training; or the features of the labeled set, to which a head is fitted. A zero-shot head needs none."""
        teacher = self.recipe.teacher
        if teacher.head.given:
            return self.passes.labeled_features()
        return self._train("teacher", teacher.model, teacher.train, "labeled_examples")

    def _materialize(self) -> Work:
        """The work for the labeled, the validation and the split set, and for the picks."""
        images, seconds, asked = 0, 0.0, Traffic()
        for stage, name in self.stages.items():
            found, corpus = self.measured.materialized.get(stage), self.corpora[name]
            if found is None:
                continue
            samples, picks = self._written(stage)
            left, cpus = max(0, samples - self.done.written(stage)), self.cluster.cpus
            layout, share = self._layout(stage, samples), left / samples
            stretches = BANDS * (layout.parts - 1) + 1
            rows = rows_read(corpus.samples, samples / corpus.samples, found.group_rows, stretches)
            per_file = -(-samples // layout.parts)
            images, seconds = images + left, seconds + materializing_seconds(left, rows * share, per_file, cpus, found)
            asked += traffic.materialize(corpus, layout, rows, picks, samples * found.bytes_per_pick, share)
        return Work(stage="materialize", images=images, seconds=seconds, traffic=asked.rounded())

    def _train(self, stage: str, model: Model, config: Train | None, examples: str, share: float = 1.0) -> Work:
        """A training. `share`: the part of its images that are from these EXAMPLES."""
        found = self.measured.trained.get(stage)
        if found is None or config is None:
            return Work.nothing(stage)
        seconds = config.processed / found.images_per_second
        layout, items, size = self._examples(examples)
        workers, weights = self.cluster.workers(self.recipe.resources, config.batch), state_bytes(model, self.classes)
        checkpoints = int(seconds / 60 / config.checkpoint_minutes)
        tensors = tensor_files(config)
        asked = traffic.train(layout, workers, size, items, share * config.processed, weights, checkpoints, tensors)
        validating, more = self._validate(stage, config, workers)
        asked += more
        if stage == "finetune" or config.init.weights:
            asked += traffic.file(weights)  # of the pre-trained student, or those that are given
        return Work(
            stage=stage,
            images=config.processed,
            seconds=found.start + seconds + validating,
            traffic=asked.rounded(),
            memory=found.memory,
            device_memory=found.device_memory,
        )

    def _finetune(self) -> Work:
        """On the labeled set, on picks, or on both."""
        recipe, share = self.recipe, self.recipe.finetune_picks
        if 0 < share < 1:
            return self._mixed("finetune", recipe.finetune, "labeled_examples", "pseudo_examples", share)
        examples = "pseudo_examples" if share else "labeled_examples"
        return self._train("finetune", recipe.student, recipe.finetune, examples)

    def _mixed(self, stage: str, config: Train, examples: str, others: str, share: float) -> Work:
        """A training of the student on EXAMPLES and, for this share of its images, on others."""
        recipe = self.recipe
        work = self._train(stage, recipe.student, config, examples, 1 - share)
        if not work.images:
            return work
        layout, items, size = self._examples(others)
        workers, images = self.cluster.workers(recipe.resources, config.batch), share * config.processed
        asked = traffic.examples(layout, workers, size, items, images)
        return replace(work, traffic=(work.traffic + asked).rounded())

    def _trial(self, number: int, trial: Recipe) -> Work:
        """A trial of `control.sweep`: its training, and the scoring of the labeled set."""
        name, found = f"{TRIAL} {number}", self.measured.student
        work = self._train(name, trial.student, trial.control_train, "split_examples")
        if self.done.trials[number][1] or found is None:
            return work
        return self.passes.then_score(work, "labeled", trial.student, found, found.bytes_per_row)

    def _validate(self, stage: str, config: Train, workers: int) -> tuple[float, Traffic]:
        """(seconds, traffic) of validating a network while it is trained, as fast as its labeling on the workers."""
        found = (stage == "teacher" and self.measured.teacher) or self.measured.student or self.measured.teacher
        if not config.validate.given:
            return 0.0, Traffic()
        layout, items, size = self._examples(f"{config.validate.on}_examples")
        points = min(config.validate.points, config.steps)
        seconds = points * items / (workers * found.slots_per_second) if found else 0.0
        return seconds, traffic.validate(layout, workers, size, items, points)

    def _written(self, examples: str) -> tuple[int, int]:
        """The samples, and the pairs of a sample and a label, of EXAMPLES that are not written yet."""
        start = self.start
        if examples == "pseudo_examples":
            return self.expected.samples, self.expected.picks
        held = start.validation if examples == "validation_examples" else None
        share = 1 - self.recipe.control.sweep.validation if examples == "split_examples" else 1
        samples = round(share * (held[1] if held else start.labels).info["samples"])
        return samples, samples

    def _layout(self, examples: str, samples: int) -> Layout:
        name, config = self.stages[examples], self.recipe.materialize
        return WritingTask(shards=self.shards[name], corpus=self.start.corpora[name], config=config).layout(samples)

    def _examples(self, examples: str) -> tuple[Layout, int, float]:
        """(where their samples are stored, pairs of a sample and a label, bytes of media)."""
        if done := self.done[examples]:
            media = media_of(done)
            size = sum(f.bytes for prefix in ("media-", "examples-") for f in media.files(prefix))
            known = media.info.get("layout")  # None: of an earlier version
            return Layout(**known) if known else self._layout(examples, done.info["samples"]), done.info["items"], size
        samples, items = self._written(examples)
        size = samples * self.measured.materialized[examples].bytes_per_pick
        return self._layout(examples, samples), items, size
