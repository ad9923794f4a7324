"""A trained network and a corpus → what the network predicts for each sample, in files for other programs.

The corpus is scored by the pool that labels the corpus of a run, so a sample gets the class that it has in the
network's evaluation. SCORES are an artifact of the root; tasks write the files from its parts.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa
import ray

from raylabel.compute.resources import Resources
from raylabel.compute.watchdog import heartbeat
from raylabel.corpus import Corpus, Shards, index_corpus
from raylabel.errors import InputError
from raylabel.inference.reuse import read_part
from raylabel.labels.teacher import Label, TrainedNetwork
from raylabel.pipelines.edited import check_edited
from raylabel.schema import PREDICTIONS
from raylabel.ship.output import Output
from raylabel.ship.parts import Part, Places, as_dicts, parts_of, write_files, write_parts
from raylabel.ship.prediction import Prediction, predictions
from raylabel.ship.shipped import Shipped
from raylabel.store.artifact import Artifact, File, Root, digest

CORPUS = "corpus"
"""The name of a corpus to predict, in the options and in the root."""


@dataclass(frozen=True, kw_only=True)
class Writing:
    """What tasks write. Plain data, so that Ray can send it."""

    places: Places
    """Of the SCORES."""
    classes: tuple[str, ...]
    p: int
    output: Output[Prediction]


def predict(
    root: Root,
    shipped: Shipped,
    corpus: Corpus,
    label: Label,
    output: Output[Prediction],
    resources: Resources,
    retry_rejects: bool = False,
) -> Prediction:
    """Writes the `label.p` best classes of every sample of the corpus to the output. Without work if that was done.
    `shipped.label` is how the network was evaluated.

    InputError if the output has something else, the network or the corpus cannot be read, or too many samples cannot.
    """
    corpus = replace(corpus, kind="video" if shipped.view.clip else "image")
    corpus.check(CORPUS)
    output.check_outside(corpus)
    source = TrainedNetwork(
        network=shipped.network,
        view=shipped.view,
        config=label,
        resources=resources,
        retry_rejects=retry_rejects,
    )
    label.check_against(corpus, shipped.view)
    made = index_corpus(root, CORPUS, corpus, partial(check_edited, root, corpus))
    shards = Shards(made)
    output.check_size(shards.samples)
    source = replace(source, names=shards.format == "webdataset")
    wanted = _wanted(shipped, corpus, made, source, output)
    done = output.claim(wanted)  # an output with something else is found before the work
    if done and not retry_rejects:
        return done
    scores = source.label(root, corpus, made)
    if done and done.scores == scores.uri:
        return done
    if done:
        raise InputError(f"'{output.uri}' was written before samples were read again: delete it, or give another --to")
    output.write_summary(wanted)
    places = Places.of(scores, corpus, shards)
    files, per_class = _write(Writing(places=places, classes=shipped.classes, p=wanted.p, output=output), scores)
    info = scores.info
    found = replace(
        wanted,
        scores=scores.uri,
        samples=info["samples"],
        predicted=info["scored"],
        rejected=info["rejected"],
        reasons=info["reasons"],
        per_class=per_class.tolist(),
        files=as_dicts(files),
    )
    output.write_summary(found)
    return found


def _wanted(
    shipped: Shipped, corpus: Corpus, shards: Artifact, source: TrainedNetwork, output: Output[Prediction]
) -> Prediction:
    """What is known before the work. The addresses depend on where the corpus is, and so does the digest of SHARDS."""
    identity = {
        "source": dict(source.identity),
        "shards": shards.digest,
        "classes": shipped.classes,
        "form": [output.form, output.whole, *PREDICTIONS.names],
    }
    return Prediction(
        prediction=digest(identity),
        network=shipped.network.uri,
        corpus=list(corpus.uri),
        classes=list(shipped.classes),
        p=min(source.config.p, len(shipped.classes)),
        passed_over=shards.info["passed_over"],
    )


def _write(writing: Writing, scores: Artifact) -> tuple[list[File], np.ndarray]:
    """(the files, how many samples have each class as their best one)."""
    files, per_class = list[File](), np.zeros(len(writing.classes), np.int64)
    for some, counts in write_parts(_write_parts, writing, parts_of(scores), writing.output.whole, "write predictions"):
        files += some
        per_class += counts
    return files, per_class


@ray.remote(num_cpus=0.5, max_retries=3)
def _write_parts(writing: Writing, parts: list[Part]) -> tuple[list[File], np.ndarray]:
    """Writes parts. It may be repeated."""
    counts = np.zeros(len(writing.classes), np.int64)
    table = partial(_predictions, writing, counts)
    return write_files(writing.output, writing.places, parts, PREDICTIONS, table, writing.p), counts


def _predictions(writing: Writing, counts: np.ndarray, parts: list[Part]) -> Iterator[pa.Table]:
    """PREDICTIONS of each part; adds to `counts` how many samples have each class as their best one."""
    classes = pa.array(writing.classes, pa.string())
    for part in parts:
        heartbeat()
        scores = read_part(writing.places.folder, "scores", part.number)
        found = predictions(scores, writing.places.addresses(scores.column("key").to_numpy()), classes)
        counts += np.bincount(found.column("class_index").to_numpy(), minlength=len(counts))
        yield found
