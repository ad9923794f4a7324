"""The predicted requests and bytes against those that are counted: of readers and streams, and of a whole run."""

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloud
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cloud import Cloud, Limits, Requests, SlowFiles
from corpora import Indexed, write_files, write_parquet, write_tar
from examples import stored_examples
from helpers import digit_images
from paths import JOBS
from tracked import points

from raylabel.corpus import Corpus, Shards, Units, index_corpus
from raylabel.corpus.ahead import UnitReader
from raylabel.corpus.fingerprint import verify_shard
from raylabel.corpus.units import UNIT
from raylabel.datasets import digits
from raylabel.evaluate.results import Metric
from raylabel.plan import traffic
from raylabel.plan.cost import rows_read
from raylabel.plan.traffic import CorpusSize, Traffic
from raylabel.recipes import cifar10
from raylabel.report.charts import CURVES
from raylabel.schema import PICKS, SCORES, make_key
from raylabel.selection.config import Select
from raylabel.selection.duplicates import find_duplicates
from raylabel.selection.select import select
from raylabel.store.artifact import Built, Draft, Root, identity_of, write_table
from raylabel.store.fetch import Fetcher
from raylabel.store.files import write_file
from raylabel.store.uses import RecordedRoot
from raylabel.tracking.snapshot import Snapshot
from raylabel.tracking.tensorboard import TensorBoard
from raylabel.tracking.tracker import EVERY
from raylabel.training.examples import materialize, media_of
from raylabel.training.layout import BANDS, Layout
from raylabel.training.loop import POINTS
from raylabel.training.media import Materialize, WritingTask
from raylabel.training.stream import Stream


class Moved(Shards):
    """SHARDS of the local folder of a `SlowFiles`, as if they were in its store."""

    def row(self, number: int) -> dict[str, Any]:
        shard = super().row(number)
        return shard | {"uri": "s3://b/" + shard["uri"].rpartition("/store/b/")[2]}


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[SlowFiles]:
    """A store of which the bucket `b` is empty. It does not wait."""
    (tmp_path / "store" / "b").mkdir(parents=True)
    (tmp_path / "log").touch()
    store = SlowFiles(str(tmp_path / "store"), str(tmp_path / "log"), latency=0, rate=1e15)
    cloud.install(store)
    yield store
    cloud.uninstall()


FORMS = {"parquet": write_parquet, "webdataset": write_tar, "files": write_files}


@pytest.mark.long
@pytest.mark.parametrize("form", FORMS)
def test_requests_of_a_scoring_pass_are_counted(form: str, slow: SlowFiles, indexed: Indexed, tmp_path: Path):
    rng = np.random.default_rng(0)
    count = 300 if form == "files" else 6000
    rows = [(rng.bytes(int(rng.integers(10_000, 20_000))), "a") for _ in range(count)]
    shards = indexed(FORMS[form](Path(slow.folder, "b", form), rows))
    moved = Moved(shards.artifact)
    items = [list(Units(shards.rows, UNIT))[i::2] for i in range(2)]
    before, fetcher = len(slow.requests()), Fetcher()
    for units in items:
        for _, samples in UnitReader(Corpus(uri=()), moved, units, fetcher):
            for _ in samples:
                pass
    fetcher.close()
    if form != "files":
        for number in range(len(shards)):
            verify_shard(moved.row(number))
    found = Requests(slow.requests()[before:])
    corpus = CorpusSize.of(shards)
    runs = sum(len(units) for units in items)  # no two of them are neighbours
    expected = corpus.read(runs, corpus.samples, corpus.bytes) + corpus.verify
    assert expected.reads == pytest.approx(len(found), rel=0.1)
    assert expected.bytes_read == pytest.approx(found.bytes, rel=0.1)


@pytest.mark.parametrize("world", [1, 3, 4, 8, 12, 16])
@pytest.mark.parametrize("groups", [1, 3, 20])
def test_requests_of_a_training_stream_are_counted(slow: SlowFiles, world: int, groups: int):
    layout = Layout(samples=8 * groups * 16, lanes=8, row_group_samples=16)
    rows = [(key, b"%2000d" % key, [key % 10]) for key in range(layout.samples)]
    examples = stored_examples(Root("s3://b/root"), rows, layout)
    size = sum(file.bytes for file in media_of(examples).files("media-"))
    batch = 4 * world
    images = 2 * layout.samples // batch * batch  # two epochs
    before = len(slow.requests())
    for rank in range(world):
        for _ in Stream(examples, 0).items(0, images, rank, world, batch):
            pass
    found = Requests(slow.requests()[before:])
    media = found.of(".arrows")
    expected = traffic.stream(layout, world, size, images / layout.samples)
    assert expected.reads == pytest.approx(len(media), rel=0.1)
    assert expected.bytes_read == pytest.approx(media.bytes, rel=0.1)


def asked(requests: Requests) -> Traffic:
    reads, writes = requests.of("", "GET", "HEAD"), requests.of("", "PUT", "POST", "LIST")
    return Traffic(len(reads), len(writes), reads.of("", "GET").bytes, writes.of("", "PUT").bytes)


@pytest.mark.slow
def test_requests_of_selection_are_counted(ray_local: None, server: Cloud, bucket: str):
    rng, root, files, rows, classes, p = np.random.default_rng(0), Root.open(f"{bucket}/root"), 30, 400, 150, 3

    def build(draft: Draft) -> Built:
        made = []
        for number in range(files):
            order = rng.random((rows, classes)).argsort(axis=1)[:, :p].tolist()
            scores = np.sort(rng.normal(size=(rows, p)), axis=1)[:, ::-1].tolist()
            digests = [rng.bytes(16) for _ in range(rows)]
            keys = [make_key(0, number * rows + row) for row in range(rows)]
            columns = [keys, digests, [0] * rows, order, scores, scores, [[]] * rows]
            table = pa.Table.from_arrays(
                [pa.array(column, field.type) for column, field in zip(columns, SCORES, strict=True)], schema=SCORES
            )
            made.append(write_table(draft.uri, f"scores-{number:06d}.parquet", table))
        return Built(made, {"p": p})

    scores = root.make("scores", {}, build)
    config = Select(k=40, p=p)
    with server.counting() as found:
        duplicates = find_duplicates(root, scores)
        picks = select(root, scores, duplicates, config, tuple(map(str, range(classes))))
    size, picked = sum(file.bytes for file in scores.files("scores-")), sum(f.bytes for f in picks.files("picks-"))
    expected = traffic.select(files * rows, files, size, p, config.k, classes, 4, picked)
    compare(expected, asked(found))


@pytest.mark.slow
def test_requests_of_materializing_are_counted(ray_local: None, server: Cloud, bucket: str):
    """Every second sample of 12 shards, with one or two labels: some parts, each of which reads several shards."""
    media, _ = digit_images()
    for number in range(12):
        table, out = pa.table({"image": (media * 2)[:3000]}), io.BytesIO()
        pq.write_table(table, out, row_group_size=1000)
        write_file(f"{bucket}/data/{number:02d}.parquet", out.getvalue())
    root = RecordedRoot.of(Root.open(f"{bucket}/root"), "run", "test", {}, "test")
    corpus = Corpus(uri=(f"{bucket}/data",))
    shards = Shards(index_corpus(root, "unlabeled", corpus))
    pairs = [(label, make_key(n, row)) for n in range(12) for row in range(0, 3000, 2) for label in range(1 + row % 4)]
    columns = [[label for label, _ in pairs], [1] * len(pairs), [0.0] * len(pairs), [key for _, key in pairs]]
    table = pa.Table.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, PICKS, strict=True)], schema=PICKS
    )
    picks = root.make("picks", {}, lambda draft: Built([write_table(draft.uri, "picks-00000.parquet", table)], {}))
    task = WritingTask(shards=shards, corpus=corpus, config=Materialize(lanes=4))
    with server.counting() as found:
        made = media_of(materialize(root, "picked", picks, task, 0.05))
    layout = task.layout(18_000)
    assert layout.parts >= 3
    rows = rows_read(shards.samples, 0.5, 1000, BANDS * (layout.parts - 1) + 1)
    size = sum(file.bytes for file in made.files("media-"))
    compare(traffic.materialize(CorpusSize.of(shards), layout, rows, len(pairs), size), asked(found))


def compare(expected: Traffic, found: Traffic) -> None:
    for name, value in dataclasses.asdict(found).items():
        print(f"{name}: predicted {getattr(expected, name):,.0f}, counted {value:,}")
    for name, value in dataclasses.asdict(found).items():
        assert getattr(expected, name) == pytest.approx(value, rel=0.2), name


def test_requests_of_tracking_are_counted(server: Cloud, bucket: str):
    """Of two trainings: one takes 50 s, the other was done before."""
    made = json.loads(json.dumps(identity_of(cifar10("s3://bucket/data"))))
    running = Snapshot(recipe="cifar10", run="cifar10-0", settings=made)
    with server.counting() as found:
        board = TensorBoard(f"{bucket}/tracking/cifar10-0")
        curves = {}
        for step in range(11):
            curves = {"teacher": points(POINTS), "student": points(1 + step * POINTS // 10)}
            board.send(dataclasses.replace(running, points=curves))
        row = Metric(model="student", seed=0, dataset="d", split="test", metric="top1", value=0.5, n=9)
        board.send(dataclasses.replace(running, points=curves, metrics=[row]))
    compare(traffic.tracking([0.0, 10 * EVERY]), asked(found))


def run(job: str, bucket: str, root: str, *options: str) -> subprocess.Popen[str]:
    """A job of the recipe `digits` with its corpora and its root in the bucket."""
    command = [sys.executable, str(JOBS / job), "digits", "--root", f"{bucket}/{root}", *options]
    for name in SETS:
        command += [f"--{name}.uri", f"{bucket}/corpus/{name}.parquet"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def finish(process: subprocess.Popen[str]) -> str:
    """Its standard output."""
    out, errors = process.communicate(timeout=500)
    assert process.returncode == 0, out[-3000:] + errors[-3000:]
    return out


def kill_when(server: Cloud, process: subprocess.Popen[str], written: str) -> None:
    """Kills the driver once a key that contains `written` was written, and waits until its Ray has ended."""
    first = len(server.requests)
    while not Requests(server.requests[first:]).of(written, "PUT"):
        assert process.poll() is None, process.communicate()[1][-3000:]
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    time.sleep(10)


SETS = ("labeled", "unlabeled", "test")
STAGES = {
    "teacher": "teacher",
    "samples": "materialize",
    "media": "materialize",
    "examples": "materialize",
    "pairs": "select",
    "duplicates": "select",
    "picks": "select",
    "pretrained": "pretrain",
    "student": "finetune",
    "control": "control",
}
"""Name of an artifact → the stage of the plan; others are of the driver, and SCORES of label or evaluate."""


def by_stage(found: Requests) -> tuple[dict[str, Traffic], int]:
    """(what was requested in each stage, without the curves; heartbeats of the root lock)."""
    lock = found.of("/drivers")
    apart = "/drivers", "/tracking"
    rest = Requests(request for request in found if not any(one in request.key for one in apart))
    begun = next(i for i, request in enumerate(rest) if "/examples-labeled-" in request.key)
    parts = {"": [rest[:begun]]}
    for artifact, some in Requests(rest[begun:]).stages().items():
        name = artifact.partition("-")[0]
        scored = "label" if some.of("corpus/unlabeled.parquet") else "evaluate"
        parts.setdefault(scored if name == "scores" else STAGES.get(name, ""), []).append(some)
    counted: dict[str, Traffic] = {}
    for stage, several in parts.items():
        counted[stage or "driver"] = asked(Requests(request for some in several for request in some))
    return counted, len(lock.of("", "LIST"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_in_an_object_store_is_as_planned_and_resumes_to_the_same_lists(
    server: Cloud, bucket: str, tmp_path: Path
):
    """Issued by two commands, as a user does. The times of the plan are not compared."""
    made = digits(Root.open(str(tmp_path)))
    for name in SETS:
        write_file(f"{bucket}/corpus/{name}.parquet", made.read(f"{name}.parquet"))
    server.limits = Limits()
    try:
        planned = json.loads(finish(run("plan.py", bucket, "root", "--json")))
        with server.counting() as found:
            finish(run("semi_supervised.py", bucket, "root"))
        for written in ("/teacher-", "/scores-", "/pretrained-"):
            kill_when(server, run("semi_supervised.py", bucket, "killed"), written)
        finish(run("semi_supervised.py", bucket, "killed"))
    finally:
        server.limits = Limits(latency=0)

    counted, beats = by_stage(found)
    stages = {stage["stage"]: stage for stage in planned["stages"]}
    seconds = sum(stage["seconds"] for stage in planned["stages"])
    driver = Traffic(*(stages["driver"][field.name] for field in dataclasses.fields(Traffic)))
    lock = traffic.lock(seconds)
    tracking = traffic.tracking(stages[name]["seconds"] for name in CURVES if name in stages)
    # The numbers of heartbeats and of event files that are written are predictions of the time.
    stages["driver"] |= dataclasses.asdict(driver + (lock + tracking) * -1)
    wrong = {}
    for stage, one in counted.items():
        for name, value in dataclasses.asdict(one).items():
            ratio = stages[stage][name] / value
            print(f"{stage}: {name}: predicted {stages[stage][name]:,.0f}, counted {value:,}: {ratio:.2f}")
            if not 0.8 <= ratio <= 1.2:
                wrong[stage, name] = ratio
    assert not wrong and set(counted) == set(stages)
    assert lock.reads / 2 * (found[-1].time - found[0].time) / seconds == pytest.approx(beats, rel=0.2)

    one, other = (Root.open(f"{bucket}/{root}") for root in ("root", "killed"))
    for name in ("picks", "samples-picked", "media-picked", "examples-picked", "student", "control"):
        (first,), (second,) = one.named(name), other.named(name)
        assert first.files() == second.files(), name
