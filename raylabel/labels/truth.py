"""label source: the labels that people gave. Every sample of a labeled set is picked once, under its own label."""

import numpy as np
import pyarrow as pa

from raylabel.corpus import Corpus, Shards, class_names, encode_labels, read_labels
from raylabel.errors import InputError
from raylabel.schema import PICKS, check
from raylabel.store.artifact import Artifact, Built, Draft, Root, write_table


def truth(root: Root, shards: Artifact, corpus: Corpus, classes: tuple[str, ...] | None = None) -> Artifact:
    """PICKS of a labeled set, rank in key order, score 0; info holds `classes`, the names in index order.

    `classes`: the names of the set that a model was trained on; None: this set's own. InputError for a set without
    labels, with a single class, or, where `classes` are given, with an unknown class or without one of them.
    """

    def build(draft: Draft) -> Built:
        labels = read_labels(corpus, Shards(shards))
        names: tuple[str, ...] = classes or class_names(corpus, labels)
        label = encode_labels(labels, names, corpus)
        where, counts = ", ".join(corpus.uri), np.bincount(label, minlength=len(names))
        if len(names) < 2:
            raise InputError(f"{where}: all samples are of one class, '{''.join(names)}': give labels of two or more")
        if missing := [name for name, count in zip(names, counts, strict=True) if count == 0]:
            shown = ", ".join(f"'{name}'" for name in missing[:5])
            raise InputError(f"{where}: {len(missing)} of {len(names)} classes have no sample ({shown}): add some")
        key = labels.column("key").to_numpy()
        order = np.lexsort((key, label))
        rank = np.arange(len(order)) - (np.cumsum(counts) - counts)[label[order]] + 1
        columns = [label[order].astype(np.int32), rank.astype(np.int32), np.zeros(len(order), np.float32), key[order]]
        table = check(pa.Table.from_arrays([pa.array(c) for c in columns], schema=PICKS), PICKS, where)
        per_class = counts.tolist()
        return Built(
            [write_table(draft.uri, "picks-00000.parquet", table)],
            {"picks": len(order), "samples": len(order), "per_class": per_class, "classes": list(names)},
        )

    identity = {"shards": shards.info["content"], "truth": True, "classes": list(classes) if classes else None}
    return root.make("truth", identity, build)
