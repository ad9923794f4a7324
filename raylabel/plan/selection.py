"""The remaining work of the stage `select`: the comparison with the evaluation sets, duplicates, and the picks."""

from dataclasses import dataclass, replace

from raylabel.corpus import unit_rows
from raylabel.inference.scores import PART
from raylabel.plan import traffic
from raylabel.plan.cost import comparing_seconds, copying_seconds, sorting_seconds
from raylabel.plan.passes import PICTURES_ROW, Passes
from raylabel.plan.report import Work
from raylabel.plan.traffic import Traffic
from raylabel.selection.duplicates import BUCKET_ROWS
from raylabel.selection.select import GROUP_CANDIDATES


@dataclass(frozen=True)
class Selection:
    """What is left of each part of it."""

    passes: Passes
    picks: int
    """Expected pairs of a sample and a label."""

    def work(self) -> Work:
        parts = [*self._pictures(), self._labeled_pairs(), self._pairs(), self._copies(), self._picks()]
        seconds, asked = sum(part.seconds for part in parts), sum((part.traffic for part in parts), Traffic())
        images = self._rows * any(part.seconds or part.traffic.reads for part in parts)
        return Work(stage="select", images=images, seconds=seconds, traffic=asked.rounded())

    @property
    def _rows(self) -> int:
        return self.passes.corpora["unlabeled"].samples

    @property
    def _others(self) -> list[str]:
        """The evaluation sets besides the test set, and the validation set if it has files of its own."""
        return sorted(self.passes.corpora.keys() - {"labeled", "unlabeled", "test"})

    @property
    def _stored(self) -> tuple[int, float]:
        """(files, bytes) of SCORES of the corpus."""
        scores = self.passes.done["labels"]
        stored = [file.bytes for file in scores.files("scores-")] if scores else []
        files = len(stored) or -(-self._rows // self._part("unlabeled"))
        return files, sum(stored) or self._rows * self._score_row

    @property
    def _score_row(self) -> float:
        labeled = self.passes.measured.teacher
        return labeled.bytes_per_row if labeled else 0.0

    @property
    def _sets(self) -> float:
        """Bytes of the evaluation sets, as they are compared."""
        row, corpora = self.passes.thumbnail_row, self.passes.corpora
        size = corpora["test"].samples * (self._score_row + row)
        if row:  # of samples that no network scores, the thumbnails are made
            size += sum(corpora[name].samples for name in self._others) * (PICTURES_ROW + row)
        return size

    @property
    def _references(self) -> int:
        """Samples of the evaluation sets, without a validation set that is a part of the labeled set."""
        return sum(self.passes.corpora[name].samples for name in ("test", *self._others))

    def _part(self, name: str) -> int:
        return PART * unit_rows(self.passes.start.corpora[name])

    def _pictures(self) -> list[Work]:
        """Of the samples that no network scores."""
        return [self.passes.pictures(name) for name in ("labeled", *self._others)]

    def _labeled_pairs(self) -> Work:
        """The labeled set, compared with the evaluation sets."""
        if self.passes.done["labeled_pairs"] or not self.passes.thumbnail_row:
            return Work.nothing("select")
        return self._compare("labeled", self._references, traffic.pairs(1, 0, 0, self._sets))

    def _pairs(self) -> Work:
        """The corpus, compared with the evaluation sets."""
        if self.passes.done["pairs"]:
            return Work.nothing("select")
        recipe, validation, held = self.passes.recipe, self.passes.start.validation, 0
        if recipe.holdout and validation:
            held = validation[1].info["samples"]
        files, size = self._stored
        asked = traffic.pairs(files, size, self._rows * self.passes.thumbnail_row, self._sets)
        return self._compare("unlabeled", self._references + held, asked)

    def _compare(self, name: str, references: int, asked: Traffic) -> Work:
        """Seconds only if near-duplicates are searched for: equal bytes are found in a moment."""
        found, rows, seconds = self.passes.measured.compared, self.passes.corpora[name].samples, 0.0
        if found:
            seconds = comparing_seconds(rows, references, self._part(name), self.passes.cluster.cpus, found)
        return replace(Work.nothing("select"), seconds=seconds, traffic=asked)

    def _copies(self) -> Work:
        """The corpus, compared with itself. Its requests and bytes are not counted."""
        found, work = self.passes.measured.compared, Work.nothing("select")
        if self.passes.done["copies"] or not (found and found.inside):
            return work
        return replace(work, seconds=copying_seconds(self._rows, self.passes.cluster.cpus, found))

    def _picks(self) -> Work:
        """Copies with the same bytes, and the picks."""
        passes, work = self.passes, Work.nothing("select")
        found, rows, cpus, select = passes.measured.selected, self._rows, passes.cluster.cpus, passes.recipe.select
        if found is None:
            return work
        files, size = self._stored
        classes, picked = len(passes.start.classes), self.picks * found.bytes_per_pick
        asked = traffic.select(rows, files, size, select.p, select.k, classes, cpus, picked)
        seconds = sorting_seconds(rows, min(cpus, -(-rows // BUCKET_ROWS)), found.duplicates)
        seconds += sorting_seconds(rows, min(cpus, -(-rows * select.p // GROUP_CANDIDATES)), found.select)
        return replace(work, seconds=seconds, traffic=asked)
