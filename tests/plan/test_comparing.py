"""The predicted time of comparing pictures: sums by hand, and candidates counted by brute force."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from copies import COPIES, encoded, photographs
from helpers import random_model, write_parquet

from raylabel.compute.resources import Cluster, Resources
from raylabel.corpus import Corpus, Shards
from raylabel.features.thumbnails import descriptors
from raylabel.media.view import View
from raylabel.models import Model
from raylabel.models.trained import WEIGHTS
from raylabel.pipelines.inputs import prepare
from raylabel.pipelines.semi_supervised import Run
from raylabel.plan import measure
from raylabel.plan.cost import COMMON, comparing_seconds, copying_seconds
from raylabel.plan.done import Done
from raylabel.plan.measure import Measured, Pilot, scratch_root
from raylabel.plan.passes import Passes
from raylabel.plan.pilot import Compared, Inside, Labeled, comparing
from raylabel.plan.report import Work
from raylabel.plan.selection import Selection
from raylabel.plan.traffic import CorpusSize
from raylabel.recipes import digits
from raylabel.recipes.recipe import Teacher
from raylabel.selection import leaders
from raylabel.selection.compare import CANDIDATE
from raylabel.selection.config import Select
from raylabel.selection.copies import PARTITION
from raylabel.selection.pairs import TASK_PAIRS, task_parts
from raylabel.store.artifact import Root

ROW, PAIR, ALIGN = 1e-5, 1e-9, 1e-4


def test_comparing_seconds_count_tasks_of_whole_parts():
    found = Compared(ROW, PAIR, ALIGN, 1e-5, None)
    per_pair = PAIR + 1e-5 * ALIGN
    # One part of 46,000 rows is one task, whatever the number of CPUs.
    one = (46_000 + 10_000) * ROW + 46_000 * 10_000 * per_pair
    for cpus in (1, 64):
        assert comparing_seconds(46_000, 10_000, 65_536, cpus, found) == pytest.approx(one)
    # 100 parts are compared by tasks of 4 parts (the 4th reaches TASK_PAIRS): 25 tasks, each with all references.
    rows = 100 * 65_536
    assert 3 * 65_536 * 10_000 < TASK_PAIRS <= 4 * 65_536 * 10_000
    assert len(list(task_parts(dict.fromkeys(range(100), 65_536), 10_000))) == 25
    work = (rows + 25 * 10_000) * ROW + rows * 10_000 * per_pair
    assert comparing_seconds(rows, 10_000, 65_536, 1, found) == pytest.approx(work)
    assert comparing_seconds(rows, 10_000, 65_536, 10, found) == pytest.approx(work / 25 * 3)


def test_copying_seconds_count_pairs_within_partitions():
    quiet = Inside(PAIR, 2 * PAIR, 1e-3, np.zeros(100))
    found = Compared(ROW, PAIR, ALIGN, 0.0, quiet)
    # A corpus that is compared as a whole: each row with those before it.
    rows = 100_000
    assert copying_seconds(rows, 8, found) == pytest.approx(3 * rows * ROW + rows**2 / 2 * PAIR)
    # 1,000 partitions: each row is in three of them, and is compared with half of each.
    rows = 1000 * PARTITION
    train = 1000 * 64 * 1000 * 10 * 2 * PAIR
    divide = rows * (4 * ROW + 1000 * 2 * PAIR)
    compare = 3 * rows * (ROW + 3 * PARTITION / 2 * PAIR)
    assert copying_seconds(rows, 1, found) == pytest.approx(train + divide + compare)
    # 63 map tasks and 200 tasks that compare.
    assert copying_seconds(rows, 50, found) == pytest.approx(train + divide / 63 * 2 + compare / 200 * 4)


def test_copying_seconds_count_no_more_alignments_than_there_are():
    """Of every tenth picture, a share of all others is similar; the others have none."""
    rows, share = 1000 * PARTITION, np.where(np.arange(100) % 10, 0, 1e-6)
    some, many = (
        copying_seconds(rows, 1, Compared(0.0, 0.0, ALIGN, 0.0, Inside(0.0, 0.0, 0.0, share * times)))
        for times in (1, 1000)
    )
    assert some == pytest.approx(rows * 0.1 * 1e-6 * rows / 2 * COMMON * ALIGN)
    assert many == pytest.approx(rows * 0.1 * leaders.CONFIRMED * COMMON * ALIGN)


def test_candidates_of_other_units_are_counted(monkeypatch):
    """Against all cosines. The copies of a picture are in its own unit, and in another one."""
    monkeypatch.setattr(comparing, "SECONDS", 0.001)
    rng, some = np.random.default_rng(0), photographs(60)
    pictures = [*some, *(COPIES["jpeg"](one, rng) for one in some[:20])]
    pixels = np.stack([np.asarray(one.resize((24, 24)).convert("RGB")) for one in pictures]).reshape(80, -1)
    for unit_of in (np.arange(80) // 8, np.concatenate([np.arange(60) // 8, np.arange(20) // 8]), np.zeros(80, int)):
        key = unit_of * 1024 + np.arange(80)
        compared, inside = comparing.measure_sample((key, pixels), 1024, True)
        apart = unit_of[:, None] != unit_of if unit_of.any() else ~np.eye(80, dtype=bool)
        feature = descriptors(pixels).astype(np.float64)
        cosine = feature @ feature.T
        expected = (cosine >= CANDIDATE) & apart
        assert compared[3] == pytest.approx(expected.sum() / apart.sum())
        alike = ((cosine >= leaders.CANDIDATE) & apart).sum(1) / apart.sum(1)
        assert inside[-1] == pytest.approx(alike)
        assert (alike[:20] > 0).all() == (not unit_of.any() or unit_of[60] != unit_of[0])
        assert min(compared[:3]) > 0 and min(inside[:3]) > 0
    assert comparing.measure_sample((key, pixels), 1024, False)[1] == ()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_search_of_a_run_is_planned_until_it_is_done(ray_local, tmp_path):
    """Only its measurements of the pilot are made."""
    rng, some = np.random.default_rng(0), photographs(260)
    shown = {"labeled": some[:60], "test": some[60:120], "unlabeled": [COPIES["jpeg"](some[60], rng), *some[120:]]}
    shown["v2"] = photographs(40, 1)
    uris = {}
    for name, pictures in shown.items():
        media, labels = [encoded(one) for one in pictures], np.arange(len(pictures)) % 2
        uris[name] = str(write_parquet(tmp_path / f"{name}.parquet", media, labels))
    root = Root.open(str(tmp_path / "root"))
    weights = tmp_path / "teacher.safetensors"
    weights.write_bytes(random_model(root, classes=2).read(WEIGHTS))
    recipe = replace(
        digits(),
        **{name: Corpus(uri=(uri,)) for name, uri in uris.items() if name != "v2"},
        against={"v2": uris["v2"]},
        copies="near",
        view=View(size=32, resize=32),
        teacher=Teacher(model=Model(arch="resnet8x1"), checkpoint=str(weights), unchecked=True),
        select=Select(k=20, p=2),
        resources=Resources(teachers=1),
    )
    start = prepare(root, recipe)

    label = Pilot._label

    def label_corpus(self: Pilot, *rest: Any) -> Labeled | None:
        return label(self, *rest) if "unlabeled" in rest else None

    def planned() -> tuple[Selection, Measured]:
        cluster, done = Cluster.now(), Done(root, recipe, start)
        with scratch_root(root) as scratch, pytest.MonkeyPatch.context() as patch:
            patch.setattr(measure, "remaining", lambda *_: [])
            patch.setattr(measure, "examples_of", lambda *_: {})
            patch.setattr(measure, "measure_selection", lambda *_: None)
            patch.setattr(Pilot, "_label", label_corpus)
            measured = Pilot(scratch, recipe, start, done, cluster).run()
        shards = {name: Shards(one) for name, one in start.shards.items()}
        sizes = {name: CorpusSize.of(one) for name, one in shards.items()}
        return Selection(Passes(recipe, start, done, measured, cluster, shards, sizes), 0), measured

    selection, measured = planned()
    assert measured.teacher and measured.teacher.seen == 141
    assert measured.teacher.thumbnails[1].shape == (141, 24 * 24 * 3)
    found = measured.compared
    assert found and found.inside and measured.pictures
    work = selection.work()
    parts = [comparing_seconds(rows, 100, 65_536, 4, found) for rows in (60, 141)]
    parts += [copying_seconds(141, 4, found), *(selection.passes.pictures(name).seconds for name in ("labeled", "v2"))]
    assert min(parts) > 0 and work.seconds == pytest.approx(sum(parts)) and work.images == 141
    assert work.traffic.reads > 0 and work.traffic.writes > 0

    run = Run(root, recipe, start).build("labels")
    selection, measured = planned()  # the sample is that of the SCORES
    found = measured.compared
    assert measured.pictures is None and found and found.inside
    parts = comparing_seconds(141, 100, 65_536, 4, found), copying_seconds(141, 4, found)
    assert selection.work().seconds == pytest.approx(sum(parts))
    run.build("copies")
    selection, measured = planned()
    assert measured.compared is None and selection.work() == Work.nothing("select")
