"""The remaining work of the passes of networks over corpora: features, the labels of the corpus, tests."""

from dataclasses import dataclass, replace

import numpy as np

from raylabel.compute.resources import Cluster
from raylabel.corpus import Shards, unit_rows
from raylabel.features.thumbnails import has_thumbnails
from raylabel.inference.pool import units_of_item
from raylabel.inference.scores import PART
from raylabel.labels.features import feature_width
from raylabel.models import Model
from raylabel.models.build import state_bytes
from raylabel.pipelines.inputs import Prepared
from raylabel.plan import traffic
from raylabel.plan.cost import labeling_seconds
from raylabel.plan.done import Done
from raylabel.plan.measure import Measured
from raylabel.plan.pilot import Labeled
from raylabel.plan.report import Work
from raylabel.plan.traffic import CorpusSize, Traffic
from raylabel.recipes.recipe import Recipe
from raylabel.schema import THUMBNAIL_SIDE

THUMBNAIL_ROW = THUMBNAIL_SIDE * THUMBNAIL_SIDE * 3 + 8
"""Bytes of a row of THUMBNAILS as it is stored."""
PICTURES_ROW = 26
"""Bytes of a row of PICTURES as it is stored."""
FEATURE_ROW = 24
"""Bytes of a row of FEATURES as it is stored, without its numbers, which take 2 bytes each."""


@dataclass(frozen=True)
class Passes:
    """What is left of each pass."""

    recipe: Recipe
    start: Prepared
    done: Done
    measured: Measured
    cluster: Cluster
    shards: dict[str, Shards]
    """By the name of the corpus, like `corpora`."""
    corpora: dict[str, CorpusSize]

    def labeled_features(self) -> Work:
        """The stage of a teacher with a head on features: those of the labeled set, if it is fitted."""
        found, network = self.measured.teacher, self.recipe.teacher.network
        if self.done["labeled_features"] or found is None or self.recipe.teacher.head.zero_shot:
            return Work.nothing("teacher")
        return self.then_score(Work.nothing("teacher"), "labeled", network, found, self._feature_row)

    def features(self) -> Work:
        """The features of the corpus, if they are stored."""
        if self.done["features"]:
            return Work.nothing("features")
        return self._pass("features", self.done.with_features, self._feature_row)

    def label(self) -> Work:
        """The labels of the corpus: by the network, or by its head from stored features."""
        found = self.measured.teacher
        if self.done["labels"] or found is None:
            return Work.nothing("label")
        if not self.recipe.teacher.features:
            work = self._pass("label", self.done.labeled, found.bytes_per_row + self.thumbnail_row)
            return replace(work, traffic=work.traffic + traffic.LABELED_LEAKS)
        samples, head = self.corpora["unlabeled"].samples - self.done.labeled, self.measured.head
        assert head is not None
        parts = -(-samples // (PART * unit_rows(self.start.corpora["unlabeled"])))
        tasks = min(parts, self.cluster.gpus or self.cluster.cpus)
        scored = found.bytes_per_row + self.thumbnail_row
        asked = traffic.rank_stored(samples, parts, self._feature_row, scored) + traffic.LABELED_LEAKS
        seconds = head.start + samples / (tasks * head.samples_per_second)
        return Work(stage="label", images=samples, seconds=seconds, traffic=asked.rounded())

    def audit(self) -> Work:
        """The teacher scores the validation set; heads without a part of the labeled set take a moment to fit."""
        found, held = self.measured.teacher, self.start.validation
        if self.done["held"] or found is None or not (self.recipe.audited and held):
            return Work.nothing("audit")
        network = self.recipe.teacher.network
        return self.then_score(Work.nothing("audit"), held[0], network, found, found.bytes_per_row)

    def evaluate(self) -> Work:
        """Each network scores the test set."""
        total, student = Work.nothing("evaluate"), self.measured.student
        for name, test in self.done.tests.items():
            found = self.measured.teacher if name == "teacher" else student
            if test or found is None:
                continue
            model = self.recipe.teacher.network if name == "teacher" else self.recipe.student
            total = self.then_score(total, "test", model, found, (student or found).bytes_per_row)
        return total

    def then_score(self, work: Work, corpus: str, model: Model, found: Labeled, bytes_per_row: float) -> Work:
        """The work and then that of scoring a labeled corpus."""
        return Work(
            stage=work.stage,
            images=work.images + self.corpora[corpus].samples,
            seconds=work.seconds + found.start + self._labeling(corpus, found),
            traffic=work.traffic + self._scoring(corpus, model, bytes_per_row),
            memory=max(work.memory or 0, found.memory),
            device_memory=max(work.device_memory or 0, found.device_memory or 0) or None,
        )

    def _pass(self, stage: str, done: int, bytes_per_row: float) -> Work:
        """What is left of a pass of the teacher over the corpus, if `done` samples are done."""
        found, samples = self.measured.teacher, self.corpora["unlabeled"].samples
        if found is None:
            return Work.nothing(stage)
        share = (samples - done) / samples
        return Work(
            stage=stage,
            images=samples - done,
            seconds=found.start + self._labeling("unlabeled", found) * share,
            traffic=self._scoring("unlabeled", self.recipe.teacher.network, bytes_per_row, share),
            memory=found.memory,
            device_memory=found.device_memory,
        )

    @property
    def _feature_row(self) -> float:
        """Bytes of a row of FEATURES of the corpus, and of its thumbnail."""
        width = feature_width(self.recipe.teacher.model, self.recipe.teacher_view)
        return 2 * width + FEATURE_ROW + self.thumbnail_row

    @property
    def thumbnail_row(self) -> int:
        """Bytes of a row of THUMBNAILS; 0 if the corpus has none."""
        return THUMBNAIL_ROW if has_thumbnails(self.recipe.teacher_view.tested_size) else 0

    def pictures(self, name: str) -> Work:
        """Making the thumbnails of a corpus that no network scores."""
        found, work = self.measured.pictures, Work.nothing("select")
        if found is None:
            return work
        seconds = found.start + self._labeling(name, found)
        return replace(work, seconds=seconds, traffic=self._scoring(name, None, PICTURES_ROW + THUMBNAIL_ROW))

    def _labeling(self, name: str, found: Labeled) -> float:
        actors, unit = self.cluster.teachers(self.recipe.resources).actors, unit_rows(self.start.corpora[name])
        batch = self.recipe.label.batch
        return labeling_seconds(self.shards[name].rows, unit, batch, actors, found.slots_per_second)

    def _scoring(self, name: str, model: Model | None, bytes_per_row: float, share: float = 1.0) -> Traffic:
        actors = self.cluster.teachers(self.recipe.resources).actors
        units = int(np.ceil(self.shards[name].rows / unit_rows(self.start.corpora[name])).sum())
        items, parts = -(-units // units_of_item(units, actors)), -(-units // PART)
        weights = state_bytes(model, len(self.start.classes)) if model else 0
        return traffic.label(self.corpora[name], items, parts, actors, weights, bytes_per_row, share).rounded()
