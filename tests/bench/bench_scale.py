"""Seconds per million samples, and the driver's memory, as a corpus grows from 1 to 100 million samples.

    python tests/bench/bench_scale.py --work FOLDER         needs 14 GB there
    python tests/bench/bench_scale.py --quick

The samples are tiny and the scorer takes no time (`scale_corpus.py`), so this measures raylabel's own work per sample,
end to end from SHARDS to PICKS: label, find_duplicates, select with C = 1,000, P = 3, K = 1,000. Each run has its own
process and its own Ray. It uses the first N samples of one corpus; smaller N run more often, because their noise is
larger.

Start-up is the time of the same three stages on one shard, warm: the median of three runs after one that is not
counted, in the same process right before the run. It is reported separately, and subtracted together with the samples
of that shard.

Driver memory is the peak of RssAnon (anonymous memory) of the process that calls the stages, sampled ten times a
second, from before Ray starts. PICKS of 1 million samples are compared with a sort of all candidates; for more samples,
only the numbers of copies and of picks are checked.
"""

import argparse
import functools
import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from figures import print_value
from processes import connect, in_fresh_process
from scale_corpus import CLASSES, ROWS, NullScorer, build, copies, payload, rank

from raylabel.compute.resources import Resources
from raylabel.corpus import UNIT, Corpus, index_corpus
from raylabel.inference.scores import Scoring, make_scores
from raylabel.schema import PICKS
from raylabel.selection.config import Select
from raylabel.selection.duplicates import find_duplicates
from raylabel.selection.select import select
from raylabel.store.artifact import Artifact, Root

P, K = 3, 1000
CHECKED = 1_000_000  # samples for which the PICKS are also computed by a sort of all candidates
STAGES = ("label", "find_duplicates", "select")
NAMES = tuple(map(str, range(CLASSES)))


def times(rows: int) -> int:
    """Number of runs over a corpus of so many samples."""
    return 5 if rows <= 2_000_000 else 3 if rows <= 20_000_000 else 1


def measure(work: str, paths: list[str]) -> tuple[dict[str, float], float, float]:
    """(seconds of each stage without start-up, seconds of start-up, the driver's peak in MB); runs in a new process."""
    peak = _Peak()
    connect()
    _stages(work, paths[:1])
    starts = [_stages(work, paths[:1]) for _ in range(3)]
    start = {stage: statistics.median(found[stage] for found in starts) for stage in STAGES}
    whole = _stages(work, paths)
    return {stage: whole[stage] - start[stage] for stage in STAGES}, sum(start.values()), peak.stop()


def _stages(work: str, paths: list[str]) -> dict[str, float]:
    """Seconds of each stage over these shards, in a new root that is deleted afterwards."""
    folder, rows, seconds = tempfile.mkdtemp(dir=work), len(paths) * ROWS, {}
    try:
        root, corpus = Root.open(folder), Corpus(uri=tuple(paths))
        shards = index_corpus(root, "bench", corpus)
        clock = time.perf_counter()
        scoring = Scoring(
            scorer=NullScorer(P),
            source={"null": P},
            shards=shards,
            corpus=corpus,
            batch=UNIT,
            reject_limit=0.0,
            resources=Resources(),
        )
        scores = make_scores(root, scoring)
        seconds["label"] = time.perf_counter() - clock
        clock = time.perf_counter()
        duplicates = find_duplicates(root, scores)
        seconds["find_duplicates"] = time.perf_counter() - clock
        clock = time.perf_counter()
        picks = select(root, scores, duplicates, Select(k=K, p=P), NAMES)
        seconds["select"] = time.perf_counter() - clock
        _check(rows, scores, duplicates, picks)
    finally:
        shutil.rmtree(folder)
    return seconds


def _check(rows: int, scores: Artifact, duplicates: Artifact, picks: Artifact) -> None:
    found = scores.info["scored"], duplicates.info["duplicates"]
    if found != (rows, copies(rows)):
        raise SystemExit(
            f"{rows} samples: the numbers of scored samples and of copies are {found}, not {(rows, copies(rows))}"
        )
    if rows > CHECKED:
        if set(picks.info["per_class"]) != {K}:
            raise SystemExit(f"{rows} samples: a class does not have {K} picks")
    elif rows == CHECKED:
        in_fresh_process(_check_picks, rows, picks)


def _check_picks(rows: int, picks: Artifact) -> None:
    """Compares PICKS with a sort of all candidates. Not in the driver, because its memory is measured."""
    sample = np.arange(rows, dtype=np.uint64)
    sample = sample[payload(sample)[:, 0] != payload(sample - np.uint64(1))[:, 0]]  # without copies
    classes, log_odds, _ = rank(payload(sample), P)
    key = (sample // np.uint64(ROWS) << np.uint64(32) | sample % np.uint64(ROWS)).astype(np.int64).repeat(P)
    label, score = classes.ravel(), log_odds.ravel()
    order = np.lexsort((key, -score, label))
    label, score, key = label[order], score[order], key[order]
    rank_in_class = np.arange(len(label)) - np.searchsorted(label, label)
    best = rank_in_class < K
    table = picks.table("picks-", PICKS)
    expected = {"label": label[best], "rank": rank_in_class[best] + 1, "score": score[best], "key": key[best]}
    for name, values in expected.items():
        if not np.array_equal(table[name].to_numpy(), values):
            raise SystemExit(f"{rows} samples: column '{name}' of PICKS differs from that of a sort of all candidates")


class _Peak:
    """The largest RssAnon of this process from now until `stop`, MB."""

    def __init__(self):
        self._peak, self._stopped = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stopped.wait(0.1):
            status = Path("/proc/self/status").read_text()
            self._peak = max(self._peak, int(status.partition("RssAnon:")[2].split()[0]) / 1024)

    def stop(self) -> float:
        self._stopped.set()
        self._thread.join()
        return self._peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", help="folder for the corpus, kept and reused; default: a temporary folder")
    parser.add_argument("--rows", default="1000000,10000000,100000000", help="values of N: %(default)s")
    parser.add_argument("--quick", action="store_true", help="N of 500,000 and 1 million, once")
    options = parser.parse_args()
    sizes = [500_000, CHECKED] if options.quick else [int(n) for n in options.rows.split(",")]
    if bad := [n for n in sizes if n % ROWS or n < 2 * ROWS]:
        parser.error(f"--rows {bad[0]}: give multiples of {ROWS:,}, at least two")
    per_million: dict[int, float] = {}
    memory: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or temporary
        paths = build(f"{work}/corpus", max(sizes))
        for rows in sizes:
            run = functools.partial(in_fresh_process, measure, work, paths[: rows // ROWS])
            runs = [run() for _ in range(1 if options.quick else times(rows))]
            million = (rows - ROWS) / 1e6
            name = f"N = {rows / 1e6:g} million"
            for stage in STAGES:
                print_value("scale", f"{name}: {stage}", [found[stage] / million for found, _, _ in runs], "s/million")
            totals = [sum(found.values()) / million for found, _, _ in runs]
            per_million[rows] = print_value("scale", f"{name}: SHARDS to PICKS", totals, "s/million")
            print_value("scale", f"{name}: start-up", [start for _, start, _ in runs], "s")
            memory[rows] = print_value("scale", f"{name}: driver memory", [peak for _, _, peak in runs], "MB")
            print(f"{name}: {per_million[rows]:.3g} s/million, {memory[rows]:.0f} MB", file=sys.stderr, flush=True)
    named = ", ".join(f"{n / 1e6:g}" for n in sizes)
    spread = max(per_million.values()) / min(per_million.values())
    print_value("scale", f"seconds per million, largest over smallest of N = {named} million", [spread], "x")
    print_value(
        "scale", "driver memory, the same: largest less smallest", [max(memory.values()) - min(memory.values())], "MB"
    )


if __name__ == "__main__":
    main()
