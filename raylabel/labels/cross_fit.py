"""Labeled samples as a head ranks them that was fitted without them: HELD, by cross-fitting on stored features.

Letters: N samples, F folds.
"""

import numpy as np
import pyarrow as pa
import ray

from raylabel.compute.progress import say
from raylabel.compute.tasks import fetch
from raylabel.errors import InputError
from raylabel.labels.features import needs, read_labeled
from raylabel.schema import HELD
from raylabel.store.artifact import Artifact, Built, Draft, File, Root, write_table
from raylabel.training.head import Head
from raylabel.training.logistic import fit_logistic, folds_of

FOLDS = 5  # or as many as the smallest class has samples
ROWS = 1 << 14  # samples that are ranked together


def cross_fit(root: Root, features: Artifact, labels: Artifact, strength: float, p: int, seed: int) -> Artifact:
    """HELD of the labeled set, the artifact `held`: each sample as the head ranks it that is fitted to the other folds.
    `labels`: PICKS. `strength`: that of the teacher's head. Heads with other ones have other scores for equally certain
    samples. Info: samples, folds. InputError if a class has too few samples."""
    classes = len(labels.info["classes"])

    def build(draft: Draft) -> Built:
        asked = _cross_fit.options(**needs(features, classes))
        file, folds = fetch(asked.remote(draft.uri, features, labels, classes, strength, p, seed))
        say(f"audit: {file.rows:,} labeled samples, ranked by {folds} heads that were fitted without them")
        return Built([file], {"samples": file.rows, "folds": folds})

    identity = {"features": features.digest, "labels": labels.digest, "strength": strength}
    return root.make("held", {**identity, "p": p, "seed": seed, "folds": FOLDS}, build)


@ray.remote(num_cpus=1, max_retries=3)
def _cross_fit(
    folder: str, features: Artifact, labels: Artifact, classes: int, strength: float, p: int, seed: int
) -> tuple[File, int]:
    import torch

    from raylabel.inference.log_odds import top_classes

    found = read_labeled(features, labels)
    least = int(np.bincount(found.label, minlength=classes).min())
    folds = min(FOLDS, least)
    if folds < 2:
        raise InputError(
            f"a class has {least} labeled sample, too few for the audit, which fits heads without some of them: "
            "label more, or leave it out by --no-audit"
        )
    fold, config = folds_of(found.label, folds, seed), Head(kind="logistic", strengths=(strength,))
    columns = [np.empty((len(fold), p), dtype) for dtype in (np.int32, np.float32, np.float32)]
    device = "cuda" if ray.get_gpu_ids() else "cpu"
    for number in range(folds):
        held = fold == number
        head = fit_logistic(found.feature[~held], found.label[~held], classes, config, seed, device)
        for rows in np.array_split(np.flatnonzero(held), -(-held.sum() // ROWS)):
            logits = found.feature[rows].astype(np.float32) @ head.weight.T + head.bias
            for column, values in zip(columns, top_classes(torch.from_numpy(logits), p), strict=True):
                column[rows] = values.numpy()
    lists = [pa.array(list(column), HELD.field(2 + i).type) for i, column in enumerate(columns)]
    table = pa.table([found.key, found.label.astype(np.int32), *lists], schema=HELD)
    return write_table(folder, "held-00000.parquet", table), folds
