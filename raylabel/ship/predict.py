"""A trained network and a corpus → what the network predicts for each sample, in files for other programs.

The corpus is scored by the pool that labels the corpus of a run, so a sample gets the class that it has in the
network's evaluation. SCORES are an artifact of the root; tasks write the files from its parts.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from raylabel.compute.progress import PatientProgress
from raylabel.compute.resources import Resources
from raylabel.compute.tasks import chunks, fetch
from raylabel.compute.watchdog import heartbeat
from raylabel.corpus import Corpus, Shards, index_corpus
from raylabel.corpus.addresses import addresses
from raylabel.corpus.config import absolute
from raylabel.errors import InputError
from raylabel.inference.reuse import read_part
from raylabel.labels.teacher import Label, TrainedNetwork
from raylabel.pipelines.edited import check_edited
from raylabel.schema import PREDICTIONS, UNPREDICTED, make_key
from raylabel.ship.prediction_output import ONE_FILE, PREDICTED, REJECTED, Output, Prediction
from raylabel.ship.prediction_tables import encode, predictions
from raylabel.ship.shipped import Shipped
from raylabel.store.artifact import Artifact, File, Root, digest

CORPUS = "corpus"
"""The name of a corpus to predict, in the options and in the root."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of SCORES: its number, and how many samples were scored and rejected."""

    number: int
    scored: int
    rejected: int


@dataclass(frozen=True, kw_only=True)
class Writing:
    """What tasks write. Plain data, so that Ray can send it."""

    scores: str
    """Folder of the SCORES."""
    corpus: Corpus
    shards: Shards
    named: bool
    """Whether the SCORES have NAMES."""
    classes: tuple[str, ...]
    p: int
    output: Output


def predict(
    root: Root,
    shipped: Shipped,
    corpus: Corpus,
    label: Label,
    output: Output,
    resources: Resources,
    retry_rejects: bool = False,
) -> Prediction:
    """Writes the `label.p` best classes of every sample of the corpus to the output. Without work if that was done.
    `shipped.label` is how the network was evaluated.

    InputError if the output has something else, the network or the corpus cannot be read, or too many samples cannot.
    """
    corpus = replace(corpus, kind="video" if shipped.view.clip else "image")
    corpus.check(CORPUS)
    _check_outside(output, corpus)
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
    _check_size(output, shards.samples)
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
    writing = Writing(
        scores=scores.uri,
        corpus=corpus,
        shards=shards,
        named=source.names,
        classes=shipped.classes,
        p=wanted.p,
        output=output,
    )
    files, per_class = _write(writing, _parts(scores))
    info = scores.info
    found = replace(
        wanted,
        scores=scores.uri,
        samples=info["samples"],
        predicted=info["scored"],
        rejected=info["rejected"],
        reasons=info["reasons"],
        per_class=per_class.tolist(),
        files=[dataclasses.asdict(file) for file in files],
    )
    output.write_summary(found)
    return found


def _wanted(shipped: Shipped, corpus: Corpus, shards: Artifact, source: TrainedNetwork, output: Output) -> Prediction:
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


def _check_size(output: Output, samples: int) -> None:
    if output.whole and samples > ONE_FILE:
        folder = output.uri.rpartition(".")[0]
        raise InputError(
            f"to is the file '{output.uri}', and the corpus has {samples:,} samples: a file gets at most "
            f"{ONE_FILE:,}, so give a folder, for example --to {folder} --form {output.form}"
        )


def _check_outside(output: Output, corpus: Corpus) -> None:
    for uri in map(absolute, corpus.uri):
        if f"{output.uri}/".startswith(f"{uri.rstrip('/')}/"):
            raise InputError(f"to is '{output.uri}', in the corpus '{uri}' itself: give a place outside of it")


def _parts(scores: Artifact) -> list[Part]:
    rows = {file.name: file.rows for file in scores.files()}
    count = len(scores.files("scores-"))
    return [
        Part(
            number=number,
            scored=rows[f"scores-{number:06d}.parquet"],
            rejected=rows.get(f"rejects-{number:06d}.parquet", 0),
        )
        for number in range(count)
    ]


def _write(writing: Writing, parts: list[Part]) -> tuple[list[File], np.ndarray]:
    """(the files, how many samples have each class as their best one)."""
    runs = [parts] if writing.output.whole else [parts[some.start : some.stop] for some in chunks(len(parts))]
    shared: Any = ray.put(writing)
    tasks = [_write_parts.remote(shared, run) for run in runs]
    files, per_class, done = list[File](), np.zeros(len(writing.classes), np.int64), 0
    with PatientProgress("write predictions", sum(part.scored for part in parts), "samples") as progress:
        for run, task in zip(runs, tasks, strict=True):
            some, counts = fetch(task)
            files += some
            per_class += counts
            progress.update(done := done + sum(part.scored for part in run))
    return files, per_class


@ray.remote(num_cpus=0.5, max_retries=3)
def _write_parts(writing: Writing, parts: list[Part]) -> tuple[list[File], np.ndarray]:
    """Writes parts, all into one file or each into its own. It may be repeated."""
    files, counts, output = list[File](), np.zeros(len(writing.classes), np.int64), writing.output
    for run in [parts] if output.whole else [[part] for part in parts]:
        rejected = sum(part.rejected for part in run)
        if rejected or output.whole:  # the file says that there are none
            data = encode(output.form, UNPREDICTED, writing.p, _rejects(writing, run))
            files.append(output.write(output.name(REJECTED, run[0].number), data, rejected))
        data = encode(output.form, PREDICTIONS, writing.p, _predictions(writing, run, counts))
        scored = sum(part.scored for part in run)
        files.append(output.write(output.name(PREDICTED, run[0].number), data, scored))
    return files, counts


def _predictions(writing: Writing, parts: list[Part], counts: np.ndarray) -> Iterator[pa.Table]:
    """PREDICTIONS of each part; adds to `counts` how many samples have each class as their best one."""
    classes = pa.array(writing.classes, pa.string())
    for part in parts:
        heartbeat()
        scores = read_part(writing.scores, "scores", part.number)
        found = predictions(scores, _addresses(writing, part, scores), classes)
        counts += np.bincount(found.column("class_index").to_numpy(), minlength=len(counts))
        yield found


def _rejects(writing: Writing, parts: list[Part]) -> Iterator[pa.Table]:
    """UNPREDICTED of each part."""
    for part in parts:
        if part.rejected:
            heartbeat()
            rejects = read_part(writing.scores, "rejects", part.number)
            uris = pa.array(_addresses(writing, part, rejects), pa.string())
            # Not the URI in REJECTS: SCORES of a corpus serve a copy of it elsewhere.
            columns = [uris, *(rejects.column(name) for name in UNPREDICTED.names[1:])]
            yield pa.Table.from_arrays(columns, schema=UNPREDICTED)


def _addresses(writing: Writing, part: Part, table: pa.Table) -> list[str]:
    """The address of each row of a table of a part, which is in key order."""
    key = table.column("key").to_numpy()
    names = [""] * len(key)
    if writing.named:
        known = read_part(writing.scores, "names", part.number)
        at = np.searchsorted(known.column("key").to_numpy(), key)
        names = known.column("name").take(pa.array(at)).to_pylist()
    found = list[str]()
    numbers, first = np.unique(key >> 32, return_index=True)
    for number, start, end in zip(numbers.tolist(), first, [*first[1:], len(key)], strict=True):
        rows = (key[start:end] - make_key(number, 0)).tolist()
        found += addresses(writing.corpus, writing.shards.row(number), rows, names[start:end])
    return found
