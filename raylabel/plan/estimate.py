"""Predicts the cost of a run before it is started: SHARDS, a short pilot and the nodes of the cluster → a Plan.

What exists in the root costs nothing. If labeling or materializing was stopped, only the parts that are not committed
count. Any other stage counts in full until it is done.
"""

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from raylabel.compute.resources import Cluster
from raylabel.corpus import Shards, unit_rows
from raylabel.models import Model
from raylabel.models.build import build
from raylabel.pipelines.inputs import Prepared, prepare
from raylabel.plan.cost import (
    Expected,
    expected_picks,
    labeling_seconds,
    materializing_seconds,
    rows_read,
    sorting_seconds,
)
from raylabel.plan.done import Done
from raylabel.plan.measure import EXAMPLES, Measured, Pilot
from raylabel.plan.pilot import Labeled
from raylabel.plan.report import Plan, Reach, Work
from raylabel.recipes.recipe import Recipe
from raylabel.schema import SCORES
from raylabel.selection.duplicates import BUCKET_ROWS
from raylabel.selection.select import GROUP_CANDIDATES
from raylabel.store.artifact import Root
from raylabel.store.files import delete_folder, filesystem, reading
from raylabel.training.config import Train
from raylabel.training.examples import media_of
from raylabel.training.layout import Layout
from raylabel.training.media import WritingTask
from raylabel.training.shares import lanes_read

FILES = 16  # of existing SCORES that are read to estimate the picks


def plan(root: Root, recipe: Recipe) -> Plan:
    """Predicts the cost of the recipe on this cluster. Indexes its corpora and reads their labels, as the run would.

    InputError: input that the user can fix. The pilot's progress goes to stderr.
    """
    cluster, start = Cluster.now(), prepare(root, recipe)
    done = Done(root, recipe, start)
    begin = time.monotonic()
    with _scratch(root) as scratch:
        measured = Pilot(scratch, recipe, start, done, cluster).run()
    took = time.monotonic() - begin
    samples, labeled = Shards(start.shards["unlabeled"]).samples, measured.teacher
    known = _expect(recipe, start, done, labeled)
    most = min(recipe.select.k * len(start.classes), samples * recipe.select.p)
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
        stages=_Costs(recipe, start, done, measured, cluster, expected).works(),
    )


@contextmanager
def _scratch(root: Root) -> Iterator[Root]:
    """A root for the artifacts of the pilot, inside the root so that all nodes can access it; deleted afterwards."""
    inner = Root(f"{root.uri}/pilot-{uuid.uuid4().hex}")
    try:
        yield inner
    finally:
        delete_folder(inner.uri)


def _expect(recipe: Recipe, start: Prepared, done: Done, labeled: Labeled | None) -> Expected | None:
    """The expected picks; None if there is no teacher yet to estimate them with."""
    classes, unit = len(start.classes), unit_rows(start.corpora["unlabeled"])
    if picks := done["picks"]:
        info = picks.info
        reach = sum(count >= recipe.select.k for count in info["per_class"])
        return Expected((reach, reach, reach), info["picks"], info["samples"])
    if scores := done["labels"]:
        files = scores.files("scores-")
        some = files[:: max(1, len(files) // FILES)]
        fs, path = filesystem(scores.uri)
        with reading(scores.uri):
            tables = [pq.read_table(f"{path}/{file.name}", filesystem=fs) for file in some]
        table = pa.concat_tables([SCORES.empty_table(), *tables])
        return expected_picks(table, unit, table.num_rows, scores.info["scored"], recipe.select, classes)
    if done["teacher"] and labeled:
        samples = Shards(start.shards["unlabeled"]).samples
        return expected_picks(labeled.rows, unit, labeled.seen, samples, recipe.select, classes)
    return None


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
        self.corpus = Shards(start.shards["unlabeled"])
        self.unit = unit_rows(start.corpora["unlabeled"])

    def works(self) -> tuple[Work, ...]:
        recipe = self.recipe
        return (
            self._train("teacher", recipe.teacher.model, recipe.teacher.train, "labeled_examples"),
            self._label(),
            self._select(),
            self._materialize(),
            self._train("pretrain", recipe.student, recipe.pretrain, "pseudo_examples"),
            self._train("finetune", recipe.student, recipe.finetune, "labeled_examples"),
            self._train("control", recipe.student, recipe.control, "labeled_examples"),
            self._evaluate(),
        )

    def _label(self) -> Work:
        found, samples = self.measured.teacher, self.corpus.samples
        if self.done["labels"] or found is None:
            return _nothing("label")
        left = samples - self.done.labeled
        return Work(
            stage="label",
            images=left,
            seconds=found.start + self._labeling(self.corpus, found) * left / samples,
            bytes_read=_bytes(self.corpus) * left // samples,
            bytes_written=round(left * found.bytes_per_row),
            memory=found.memory,
            device_memory=found.device_memory,
        )

    def _labeling(self, shards: Shards, found: Labeled) -> float:
        actors = self.cluster.teachers(self.recipe.resources).actors
        return labeling_seconds(shards.rows, self.unit, self.recipe.label.batch, actors, found.slots_per_second)

    def _select(self) -> Work:
        found, labeled, scores = self.measured.selected, self.measured.teacher, self.done["labels"]
        if found is None:
            return _nothing("select")
        rows, cpus = self.corpus.samples, self.cluster.cpus
        per_row = labeled.bytes_per_row if labeled else 0.0
        return Work(
            stage="select",
            images=rows,
            seconds=sorting_seconds(rows, min(cpus, -(-rows // BUCKET_ROWS)), found.duplicates)
            + sorting_seconds(rows, min(cpus, -(-rows * self.recipe.select.p // GROUP_CANDIDATES)), found.select),
            bytes_read=sum(f.bytes for f in scores.files("scores-")) if scores else round(rows * per_row),
            bytes_written=round(self.expected.picks * found.bytes_per_pick),
        )

    def _materialize(self) -> Work:
        """The work for the labeled set, which is materialized in full, and for the picks."""
        total, picked = _nothing("materialize"), {"pseudo_examples": self.expected.samples}
        for stage, corpus in EXAMPLES.items():
            found, shards = self.measured.materialized.get(stage), Shards(self.start.shards[corpus])
            if found is None:
                continue
            samples, written = picked.get(stage, shards.samples), self.done.written(stage)
            left, cpus = max(0, samples - written), self.cluster.cpus
            rows = rows_read(shards.samples, samples / shards.samples, found.group_rows) * left / samples
            per_file = -(-samples // self._layout(stage, samples).parts)
            seconds = materializing_seconds(left, rows, per_file, cpus, found)
            total = Work(
                stage=total.stage,
                images=total.images + left,
                seconds=total.seconds + seconds,
                bytes_read=total.bytes_read + round(_bytes(shards) * rows / shards.samples),
                bytes_written=total.bytes_written + round(left * found.bytes_per_pick),
            )
        return total

    def _train(self, stage: str, model: Model, config: Train | None, examples: str) -> Work:
        found = self.measured.trained.get(stage)
        if found is None or config is None:
            return _nothing(stage)
        weights = _weight_bytes(model, self.classes)
        seconds = config.processed / found.images_per_second
        # A checkpoint holds the weights and their momentum; there is one at the end.
        checkpoints = 2 * (1 + int(seconds / 60 / config.checkpoint_minutes))
        return Work(
            stage=stage,
            images=config.processed,
            seconds=found.start + seconds,
            bytes_read=round(self._bytes_streamed(config, examples)),
            bytes_written=weights * (checkpoints + 1),
            memory=found.memory,
            device_memory=found.device_memory,
        )

    def _layout(self, examples: str, samples: int) -> Layout:
        corpus, config = EXAMPLES[examples], self.recipe.materialize
        shards = Shards(self.start.shards[corpus])
        return WritingTask(shards=shards, corpus=self.start.corpora[corpus], config=config).layout(samples)

    def _bytes_streamed(self, config: Train, examples: str) -> float:
        """Bytes of media that all workers of a training read."""
        done, samples, layout = self.done[examples], self.expected.samples, None
        if done:
            media = media_of(done)
            size = sum(f.bytes for prefix in ("media-", "examples-") for f in media.files(prefix))
            samples, items = done.info["samples"], done.info["items"]
            layout = Layout(**known) if (known := media.info.get("layout")) else None  # None: of an earlier version
        else:
            if examples == "labeled_examples":
                samples = Shards(self.start.shards["labeled"]).samples
            items = samples if examples == "labeled_examples" else self.expected.picks
            size = samples * self.measured.materialized[examples].bytes_per_pick
        layout = layout or self._layout(examples, samples)
        workers = self.cluster.workers(self.recipe.resources, config.batch)
        once = layout.read_once(layout.lanes % workers != 0)
        return size * lanes_read(layout.lanes, workers) * (1 if once else config.processed / items)

    def _evaluate(self) -> Work:
        """Each of the four networks scores the test set."""
        total, shards = _nothing("evaluate"), Shards(self.start.shards["test"])
        student = self.measured.student
        for name, test in self.done.tests.items():
            found = self.measured.teacher if name == "teacher" else student
            if test or found is None:
                continue
            total = Work(
                stage=total.stage,
                images=total.images + shards.samples,
                seconds=total.seconds + found.start + self._labeling(shards, found),
                bytes_read=total.bytes_read + _bytes(shards),
                bytes_written=total.bytes_written + round(shards.samples * (student or found).bytes_per_row),
                memory=max(total.memory or 0, found.memory),
                device_memory=max(total.device_memory or 0, found.device_memory or 0) or None,
            )
        return total


def _nothing(stage: str) -> Work:
    return Work(stage=stage, images=0, seconds=0.0, bytes_read=0, bytes_written=0)


def _bytes(shards: Shards) -> int:
    return sum(shards.columns("bytes").column("bytes").to_pylist())


def _weight_bytes(model: Model, classes: int) -> int:
    import torch

    with torch.device("meta"):  # shapes only, no memory
        return sum(tensor.nbytes for tensor in build(model, classes).state_dict().values())
