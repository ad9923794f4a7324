"""The counts that Prometheus reads from a real head are equal to those in the run's tables."""

import json
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from heads import environment, started_head
from helpers import png, write_parquet
from paths import PYTHONPATH
from prometheus_client.parser import text_string_to_metric_families

SCORE = """
import json, sys
from raylabel.cli.connect import connect
from raylabel.cli.exit import readable
from raylabel.store.artifact import Root
from raylabel.corpus import Corpus, index_corpus
from raylabel.inference.scores import Scoring, make_scores
from raylabel.compute.resources import Resources
from wide import Wide

with readable():
    connect()
    root, corpus = Root.open("runs"), Corpus(uri=(sys.argv[1],))
    shards = index_corpus(root, "counted", corpus)
    made = make_scores(root, Scoring(
        scorer=Wide(), source={"wide": 1}, shards=shards, corpus=corpus, batch=32, reject_limit=0.5,
        resources=Resources(decode=sys.argv[2]),
    ))
    print(json.dumps(made.info))
"""


def read(address: str) -> Counter[tuple[str, str]]:
    """(metric, reason) → sum over processes."""
    found: Counter[tuple[str, str]] = Counter()
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address, timeout=30) as answer:
        for family in text_string_to_metric_families(answer.read().decode()):
            for one in family.samples:
                if one.name.startswith("ray_raylabel_samples"):
                    found[one.name, one.labels.get("reason", "")] += int(one.value)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("decode", ["beside", "cluster"])
def test_the_metrics_equal_the_counts_of_the_tables(tmp_path: Path, decode: str) -> None:
    rng = np.random.default_rng(0)
    media: list[bytes | None] = [png(rng.integers(0, 256, (8, 8), np.uint8)) for _ in range(90)]
    media[3::20] = [b"rubbish", b"", None, media[0][:40], b"GIF89a"]  # pyright: ignore[reportOptionalSubscript]
    corpus = write_parquet(tmp_path / "corpus.parquet", media)
    with started_head() as head:
        done = subprocess.run(
            [sys.executable, "-c", SCORE, str(corpus), decode],
            env=environment(PYTHONPATH=PYTHONPATH, **head.environment),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        info = json.loads(done.stdout.splitlines()[-1])
        deadline = time.monotonic() + 60  # an actor may end, and report, after its driver
        while sum((found := read(head.metrics)).values()) < len(media) and time.monotonic() < deadline:
            time.sleep(0.5)
    assert info["scored"] == 85 and len(info["reasons"]) > 1
    assert found.pop(("ray_raylabel_samples_scored_total", "")) == 85
    assert found == {("ray_raylabel_samples_rejected_total", r): n for r, n in info["reasons"].items()}
