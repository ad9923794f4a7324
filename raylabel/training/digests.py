"""DIGESTS of a labeled set, which tell the samples that are byte-identical to others or to test samples."""

from typing import Any

import numpy as np
import pyarrow as pa
import ray

from raylabel.compute.progress import PatientProgress
from raylabel.compute.tasks import fetch
from raylabel.compute.watchdog import heartbeat
from raylabel.corpus import Corpus, Shards
from raylabel.corpus.sample import media_digest, sample_digest
from raylabel.schema import DIGESTS, PICKS
from raylabel.store.artifact import Artifact, Built, Draft, Root, write_table
from raylabel.training.examples import media_of
from raylabel.training.media import read_sorted

TASK = {"image": 4096, "video": 512}  # samples that a task reads


def find_digests(root: Root, labels: Artifact, shards: Artifact, corpus: Corpus, examples: Artifact) -> pa.Table:
    """DIGESTS of the samples of a labeled set that can be read. `labels` are its PICKS, `examples` its EXAMPLES, which
    have them, unless an earlier version of raylabel wrote them; then they are read from the corpus."""
    media = media_of(examples)
    if media.files("digests-") or not media.info["samples"]:
        return media.table("digests-", DIGESTS).sort_by("key")
    return read_digests(root, labels, shards, corpus)


def read_digests(root: Root, labels: Artifact, shards: Artifact, corpus: Corpus) -> pa.Table:
    """DIGESTS from one pass over the bytes of a labeled set, without decoding them; the artifact `digests`. To be used
    before the set is materialized."""

    def build(draft: Draft) -> Built:
        keys, size = np.sort(labels.table("picks", PICKS, ["key"]).column("key").to_numpy()), TASK[corpus.kind]
        of: Any = ray.put(Shards(shards))
        tasks = [_read.remote(of, corpus, keys[i : i + size]) for i in range(0, len(keys), size)]
        tables = [DIGESTS.empty_table()]
        with PatientProgress("compare the labeled samples", len(keys), f"{corpus.kind}s") as progress:
            for number, task in enumerate(tasks):
                tables.append(fetch(task))
                progress.update(min((number + 1) * size, len(keys)))
        return Built([write_table(draft.uri, "digests.parquet", pa.concat_tables(tables))], {})

    made = root.make("digests", {"picks": labels.digest, "shards": shards.info["content"]}, build)
    return made.table("digests", DIGESTS)


@ray.remote(num_cpus=0.5, max_retries=3)
def _read(shards: Shards, corpus: Corpus, keys: np.ndarray) -> pa.Table:
    rows = []
    for sample in read_sorted(corpus, shards, keys.tolist()):
        heartbeat()
        if sample.media is not None:
            rows.append({"key": sample.key, "digest": sample_digest(media_digest(sample.media), sample.segment)})
    return pa.Table.from_pylist(rows, DIGESTS)
