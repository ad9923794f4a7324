"""A stage releases its resources when it returns: stages on CPUs hold no GPU, and evaluation holds no worker."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from heads import environment
from paths import PYTHONPATH

# Only Ray's resource counts contain GPUs, which is enough to see whether they are held; the scorer does not use them.
LABEL = """
import json, os, sys, threading, time
import numpy as np
import ray
from helpers import png, write_parquet
from pathlib import Path
from raylabel.store.artifact import Root
from raylabel.corpus import Corpus, index_corpus
from raylabel.selection.duplicates import find_duplicates
from raylabel.inference.scores import Scoring, make_scores
from raylabel.compute.resources import Cluster, Pool, Resources
from wide import Wide

folder, over, seen = Path(sys.argv[1]), threading.Event(), []
rng = np.random.default_rng(0)
media = [png(rng.integers(0, 256, (64, 64, 3), np.uint8)) for _ in range(3000)]
ray.init(address="local", num_cpus=4, num_gpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
root, corpus = Root.open(str(folder / "root")), Corpus(uri=(str(write_parquet(folder / "a.parquet", media)),))
shards = index_corpus(root, "a", corpus)

def look():
    while not over.wait(0.05):
        seen.append(ray.available_resources().get("GPU", 0))

thread = threading.Thread(target=look)
thread.start()

class Seen(Wide):
    # Writes what an actor was given.
    def __init__(self, name):
        object.__setattr__(self, "name", name)

    def start(self, gpu):
        (folder / f"{self.name}-{os.getpid()}").write_text(json.dumps([gpu, *ray.get_gpu_ids()]))
        return super().start(gpu)

def label(root, name):
    scoring = Scoring(
        scorer=Seen(name), source={"wide": 1}, shards=shards, corpus=corpus, batch=32, reject_limit=0.0,
        resources=Resources(),
    )
    return make_scores(root, scoring)

scores = label(root, "whole")
over.set()
thread.join()
find_duplicates(root, scores)  # requests no GPU, and ends before a worker process with a GPU becomes idle
free = {"GPU": ray.available_resources().get("GPU", 0)}
begin = time.monotonic()  # Ray updates its counts with a delay
while (cpus := ray.available_resources().get("CPU", 0)) < 4 and time.monotonic() < begin + 10:
    time.sleep(0.1)
free["CPU"] = cpus
Cluster.teachers = lambda *_: Pool(actors=4, cpus=0.5, gpus=0.5, threads=1, grows=False)
parts = label(Root.open(str(folder / "other")), "part")
same = [file.sha256 for file in scores.files("scores-")] == [file.sha256 for file in parts.files("scores-")]
given = {name: sorted(json.loads(p.read_text()) for p in folder.glob(f"{name}-*")) for name in ("whole", "part")}
print(json.dumps([min(seen), free, given, scores.info["hardware"], same]))
"""

TRAIN = """
import json, sys, time
import ray
from pathlib import Path
from ray.util import placement_group_table
from trainings import fit, digits_examples
from raylabel.store.artifact import Root

ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
root = Root.open(str(Path(sys.argv[1]) / "root"))
examples = digits_examples(root, Path(sys.argv[1]))
fit(root, examples, workers=2)
begin = time.monotonic()  # Ray updates its counts with a delay
while (free := ray.available_resources().get("CPU", 0)) < 4 and time.monotonic() < begin + 10:
    time.sleep(0.1)
groups = {group["state"] for group in placement_group_table().values()}
print(json.dumps([list(groups), free, ray.util.list_named_actors()]))
"""


def result_of(script: str, folder: Path) -> list:
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)],
        env=environment(PYTHONPATH=PYTHONPATH),
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_labeling_uses_all_gpus_and_releases_them_before_the_next_stage(tmp_path: Path) -> None:
    least, free, given, hardware, same = result_of(LABEL, tmp_path)
    assert least == 0  # both GPUs were in use
    assert free == {"CPU": 4, "GPU": 2}
    assert hardware == "4 CPUs, 2 GPUs"
    # Each actor is told to use a GPU, and has one of its own or shares it with one other.
    assert given == {"whole": [[True, 0], [True, 1]], "part": [[True, 0]] * 2 + [[True, 1]] * 2}
    assert same


@pytest.mark.slow
def test_training_releases_its_placement_group_before_evaluation(tmp_path: Path) -> None:
    groups, free, actors = result_of(TRAIN, tmp_path)
    assert (groups, free) == (["REMOVED"], 4), actors
