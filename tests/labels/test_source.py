"""The interface of label sources, tested with a source of ten lines and a whole run of it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from raylabel.corpus import Corpus, Shards
from raylabel.labels.source import gives_scores, make_picks
from raylabel.pipelines.inputs import prepare
from raylabel.pipelines.semi_supervised import Run
from raylabel.recipes.registry import digits
from raylabel.report.run import write_report
from raylabel.schema import PICKS, SAMPLES
from raylabel.store.artifact import Artifact, Root, identity_of
from raylabel.training.config import Train

NAMES = tuple("0123456789")


@dataclass(frozen=True, kw_only=True)
class RowNumbers:
    """Labels by row number and round, so that the label of a sample changes with each round."""

    name: str = "row-numbers"

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"row numbers": True}

    def label(self, root: Root, corpus: Corpus, shards: Artifact, round: int = 0) -> Artifact:
        key = np.arange(Shards(shards).samples)
        return make_picks(root, self, shards, lambda: (key, (key + round) % 10, NAMES), round)


def short(train: Train, images: int) -> Train:
    return replace(train, images=images)


@pytest.fixture(scope="module")
def started(ray_local, tmp_path_factory: pytest.TempPathFactory) -> Run:
    root, recipe = Root.open(str(tmp_path_factory.mktemp("root"))), digits()
    assert recipe.teacher.train
    recipe = replace(
        recipe,
        source=RowNumbers(),
        teacher=replace(recipe.teacher, train=short(recipe.teacher.train, 128)),
        pretrain=short(recipe.pretrain, 128),
        finetune=short(recipe.finetune, 128),
    )
    return Run(root, recipe, prepare(root, recipe))


def test_each_round_is_a_separate_artifact(started: Run):
    source, shards, corpus = started.source, started.start.shards["unlabeled"], started.start.corpora["unlabeled"]
    first, second, again = (source.label(started.root, corpus, shards, round) for round in (0, 1, 0))
    assert first.uri == again.uri != second.uri
    for round, artifact in enumerate((first, second)):
        table = artifact.table("picks", PICKS)
        key, label, rank = (table.column(name).to_numpy() for name in ("key", "label", "rank"))
        assert sorted(key) == list(range(1247))
        assert ((key + round) % 10 == label).all()
        for one in range(10):  # rank is the position of the key among those of the label
            assert (np.sort(key[label == one])[rank[label == one] - 1] == key[label == one]).all()
    assert not gives_scores(first)


def test_a_run_of_another_source_trains_on_its_picks_and_trains_no_teacher(started: Run):
    started.build("pseudo_examples")
    assert started.picks.name == "row-numbers" and started.duplicates is None and started.teacher_test is None
    assert not started.root.named("teacher") and not started.root.named("scores")
    assert started.pseudo_examples.identity["picks"] == started.picks.digest
    table = started.pseudo_examples.table("examples-", SAMPLES, ["key", "labels"])
    assert {key: [key % 10] for key in range(1247)} == dict(
        zip(table.column("key").to_pylist(), table.column("labels").to_pylist(), strict=True)
    )


@pytest.mark.slow
def test_the_report_of_another_source_counts_all_samples(started: Run):
    page, summary = write_report(started)
    assert summary.counts.samples == 1247 == summary.counts.scored + summary.counts.rejected
    assert {row.model for row in summary.metrics} == {"control", "pretrained", "student"}
    assert not any(name.startswith("teacher") for name in json.loads(page.read("summary.json"))["artifacts"])


def test_the_identity_of_a_recipe_without_a_source_has_no_source(started: Run):
    assert "source" not in identity_of(digits())
    assert identity_of(started.recipe)["source"] == {"name": "row-numbers"}
