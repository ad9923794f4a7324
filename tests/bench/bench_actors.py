"""Scoring by many actors whose scorer sleeps: commits per second, the driver's CPU and memory, time to the first row.

    python tests/bench/bench_actors.py [--actors 64] [--seconds 60]

The actors are real processes of Ray Data on a Ray with that many logical CPUs. Their scorer sleeps for each batch, so
they need about as much CPU as a GPU's actor leaves idle; 700 of them take some 100 MB of memory each. The corpus is
that of bench_scale.py.
"""

import argparse
import logging
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cheap_scorers import SleepingScorer
from figures import print_value
from processes import in_fresh_process
from scale_corpus import ROWS, build

from raylabel.compute.resources import Resources
from raylabel.corpus import UNIT, Corpus, index_corpus
from raylabel.inference.scores import Scoring, make_scores
from raylabel.store.artifact import Root

BATCH_SECONDS = 0.5  # for which the scorer sleeps: of 256 images, as a GPU of 500 images per second


def measure(work: str, paths: list[str], actors: int) -> dict[str, float]:
    """Scores all shards with so many actors; runs in a new process."""
    import ray

    from raylabel.inference import pool

    quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    ray.init(address="local", num_cpus=actors + 2, object_store_memory=500_000_000, **quiet)
    for name in ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    root, corpus = Root.open(tempfile.mkdtemp(dir=work)), Corpus(uri=tuple(paths))
    shards = index_corpus(root, "bench", corpus)
    commits: list[float] = []
    plain = pool.score

    def score(*arguments: Any) -> Any:
        for record in plain(*arguments):
            commits.append(time.perf_counter())
            yield record

    from raylabel.inference import scores

    scores.score = score  # pyright: ignore[reportAttributeAccessIssue]
    begin, cpu = time.perf_counter(), time.process_time()
    made = make_scores(
        root,
        Scoring(
            scorer=SleepingScorer(3, BATCH_SECONDS),
            source={"sleeping": 3},
            shards=shards,
            corpus=corpus,
            batch=256,
            reject_limit=0.0,
            resources=Resources(teachers=actors),
        ),
    )
    wall = time.perf_counter() - begin
    found = {
        "first": commits[0] - begin,
        "commits": (len(commits) - 1) / max(1e-9, commits[-1] - commits[0]),
        "cpu": time.process_time() - cpu,
        "wall": wall,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "busy": made.info["scored"] / 256 * BATCH_SECONDS / actors / wall,
        "parts": len(commits),
    }
    ray.shutdown()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--actors", type=int, default=64, help="actors: %(default)s")
    parser.add_argument("--seconds", type=float, default=60, help="about how long all actors sleep: %(default)s")
    parser.add_argument("--work", help="folder for the corpus, kept and reused; default: a temporary folder")
    options = parser.parse_args()
    rows = int(options.seconds / BATCH_SECONDS * 256 * options.actors)
    rows = max(2, rows // ROWS) * ROWS
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or temporary
        paths = build(str(Path(work) / "corpus"), rows)
        found = in_fresh_process(measure, work, paths, options.actors)
    name = f"{options.actors} actors, {rows:,} samples in units of {UNIT}"
    print_value("actors", f"{name}: time to the first commit", [found["first"]], "s")
    print_value("actors", f"{name}: commits", [found["commits"]], "parts/s")
    print_value("actors", f"{name}: the driver's CPU", [found["cpu"]], "s")
    print_value("actors", f"{name}: the driver's CPU per part", [1000 * found["cpu"] / found["parts"]], "ms")
    print_value("actors", f"{name}: the driver's memory", [found["memory"]], "MB")
    print_value("actors", f"{name}: time that an actor sleeps, of the whole", [found["busy"]], "x")
    print(f"{found['wall']:.0f} s in all", file=sys.stderr)


if __name__ == "__main__":
    main()
