"""The predicted requests and bytes against those that are counted: of readers and streams, and of a whole run."""

import dataclasses
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
import pytest
from cloud import Cloud, Limits, Requests, SlowFiles
from corpora import Indexed, write_files, write_parquet, write_tar
from examples import stored_examples
from paths import JOBS

from raylabel.corpus import Corpus, Shards, Units
from raylabel.corpus.ahead import UnitReader
from raylabel.corpus.fingerprint import verify_shard
from raylabel.corpus.units import UNIT
from raylabel.datasets import digits
from raylabel.plan import traffic
from raylabel.plan.traffic import Traffic
from raylabel.store.artifact import Root
from raylabel.store.fetch import Fetcher
from raylabel.store.files import write_file
from raylabel.training.examples import media_of
from raylabel.training.layout import Layout
from raylabel.training.stream import Stream


class Moved(Shards):
    """SHARDS of the local folder of a `SlowFiles`, as if they were in its store."""

    def row(self, number: int) -> dict[str, Any]:
        shard = super().row(number)
        return shard | {"uri": "s3://b/" + shard["uri"].rpartition("/store/b/")[2]}


def sizes(shards: Shards) -> traffic.Corpus:
    size = sum(shards.columns("bytes").column("bytes").to_pylist())
    return traffic.Corpus(format=shards.format, samples=shards.samples, shards=len(shards), bytes=size)


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
    corpus = sizes(shards)
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
    "leaks": "select",
    "duplicates": "select",
    "picks": "select",
    "pretrained": "pretrain",
    "student": "finetune",
    "control": "control",
}
"""Name of an artifact → the stage of the plan; others are of the driver, and SCORES of label or evaluate."""


def by_stage(found: Requests) -> tuple[dict[str, Traffic], int]:
    """(what was requested in each stage, heartbeats of the root lock)."""
    lock = found.of("/drivers")
    rest = Requests(request for request in found if "/drivers" not in request.key)
    begun = next(i for i, request in enumerate(rest) if "/examples-labeled-" in request.key)
    parts = {"": [rest[:begun]]}
    for artifact, some in Requests(rest[begun:]).stages().items():
        name = artifact.partition("-")[0]
        scored = "label" if some.of("corpus/unlabeled.parquet") else "evaluate"
        parts.setdefault(scored if name == "scores" else STAGES.get(name, ""), []).append(some)
    counted: dict[str, Traffic] = {}
    for stage, several in parts.items():
        all_of = Requests(request for some in several for request in some)
        reads, writes = all_of.of("", "GET", "HEAD"), all_of.of("", "PUT", "POST", "LIST")
        read, written = reads.of("", "GET").bytes, writes.of("", "PUT").bytes
        counted[stage or "driver"] = Traffic(len(reads), len(writes), read, written)
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
    stages["driver"] |= dataclasses.asdict(driver + lock * -1)  # its number of heartbeats is a prediction of the time
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
