"""A root with PICKS, their EXAMPLES and a run that lists them, without the time of a run."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from raylabel.corpus import Corpus, Shards, index_corpus, read_keys
from raylabel.schema import PICKS
from raylabel.store.artifact import Artifact, Built, Root, write_bytes, write_table
from raylabel.store.names import SUMMARY
from raylabel.training.examples import materialize
from raylabel.training.media import Materialize, WritingTask

HOSTILE = ("=cmd|' /C calc'!A0", 'a/b,"c"', "ünï & <b>", "-3-")
"""Names of classes that a CSV, a path, XML or a spreadsheet may take for something else."""

Pick = tuple[str, str, int, float]  # address, class, rank, score


@dataclass
class PickedRoot:
    """PICKS of a corpus in a root."""

    root: Root
    corpus: Corpus
    shards: Shards
    picks: Artifact
    classes: tuple[str, ...]

    def materialize(self, config: Materialize) -> Artifact:
        task = WritingTask(shards=self.shards, corpus=self.corpus, config=config)
        return materialize(self.root, "pseudo", self.picks, task, 0.5)

    def finished_run(self, *made: Artifact, name: str = "run-made-up", classes: Sequence[str] = ()) -> Artifact:
        """A run that lists the PICKS and what is given."""
        folders = [one.uri.rpartition("/")[2] for one in (self.picks, self.shards.artifact, *made)]
        summary = {
            "run": "made up",
            "classes": list(classes or self.classes),
            "artifacts": {one: one for one in folders},
        }
        text = json.dumps(summary).encode()
        return self.root.make(name, summary, lambda draft: Built([write_bytes(draft.uri, SUMMARY, text)], {}))

    @property
    def rows(self) -> list[dict]:
        return self.picks.table("picks-", PICKS).to_pylist()

    def expected(self, left_out: frozenset[str] = frozenset()) -> dict[Pick, bytes]:
        """Every pick and the bytes of its sample in the corpus; without samples at these addresses."""
        samples = read_keys(self.corpus, self.shards, [row["key"] for row in self.rows])
        found = {}
        for row in self.rows:
            sample = samples[row["key"]]
            if sample.uri not in left_out:
                pick = sample.uri, self.classes[row["label"]], row["rank"], row["score"]
                found[pick] = sample.media or b""
        return found


def picked_root(folder: Path, corpus: Corpus, classes: tuple[str, ...], each: int, seed: int = 0) -> PickedRoot:
    """PICKS of `each` samples of every class, drawn at random: some samples are picked for several classes. A file of
    PICKS for each two classes."""
    root = Root.open(str(folder / "runs"))
    made = index_corpus(root, "unlabeled", corpus)
    shards = Shards(made)
    keys = np.concatenate([(n << 32) + np.arange(rows, dtype=np.int64) for n, rows in enumerate(shards.rows.tolist())])
    rng, tables = np.random.default_rng(seed), []
    for label in range(len(classes)):
        score = np.sort(rng.normal(size=each).astype(np.float32))[::-1]
        columns = [np.full(each, label, np.int32), np.arange(1, each + 1, dtype=np.int32), score]
        tables.append(pa.table([*columns, rng.choice(keys, each, replace=False)], schema=PICKS))
    scores = root.make("scores", {"shards": made.info["content"]}, lambda draft: Built([], {}))

    def build(draft) -> Built:
        halves = [pa.concat_tables(tables[first : first + 2]) for first in range(0, len(tables), 2)]
        files = [write_table(draft.uri, f"picks-{number:05d}.parquet", half) for number, half in enumerate(halves)]
        samples = len(set(pa.concat_tables(tables).column("key").to_pylist()))
        info = {"picks": each * len(tables), "samples": samples, "per_class": [each] * len(tables)}
        return Built(files, {**info, "k": each, "p": 2, "rank": "softmax"})

    picks = root.make("picks", {"select": {"k": each}, "scores": scores.digest, "seed": seed}, build)
    return PickedRoot(root, corpus, shards, picks, classes)
