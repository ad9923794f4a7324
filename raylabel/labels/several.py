"""Label source: labels given by people, of which a sample may have several."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from raylabel.corpus import Corpus, Shards, read_labels
from raylabel.corpus.label_rule import BETWEEN, UNSURE
from raylabel.corpus.labels import read_classes
from raylabel.errors import InputError
from raylabel.labels.picks import sorted_picks
from raylabel.schema import split_key
from raylabel.store.artifact import Artifact, Built, Draft, Root, write_table
from raylabel.text import listed


@dataclass(frozen=True, kw_only=True)
class SeveralLabels:
    """The labels of a set in which a sample shows things of several classes, as a label source. The label of a sample
    is the names of its classes, such as 'dog|person'. With '?chair' among them nothing is said about chairs, as for
    objects that Pascal VOC calls difficult."""

    classes: tuple[str, ...] | None = None
    """Class names in the order of class indices; None: the lines of `Corpus.classes`."""

    @property
    def name(self) -> str:
        return "truth"

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"truth": True, "several": True, "classes": list(self.classes) if self.classes else None}

    def label(self, root: Root, corpus: Corpus, shards: Artifact, round: int = 0) -> Artifact:
        """PICKS of a labeled set, the same in every round: a row for each class c that a sample has, and one with the
        label -1 - c for each of which nothing is said. Info: as of other PICKS; `per_class` counts the former.

        InputError if the set has no labels, `corpus.classes` is not given, or a label has a name that is no class or
        twice the same one.
        """

        def build(draft: Draft) -> Built:
            names = self.classes or read_classes(corpus)
            if not names:
                raise InputError(
                    f"{', '.join(corpus.uri)}: samples have several labels, but corpus.classes is not given: give a "
                    "text file with one class name per line"
                )
            table = read_labels(corpus, Shards(shards))
            key, label = encode_several(table, names)
            counts = np.bincount(label[label >= 0], minlength=len(names)).tolist()
            info = {"picks": len(label), "samples": len(table), "per_class": counts, "classes": list(names)}
            return Built([write_table(draft.uri, "picks-00000.parquet", sorted_picks(key, label))], info)

        return root.make(self.name, {"shards": shards.info["content"], **self.identity}, build)


def encode_several(labels: pa.Table, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(key int64, label int64) of each class of each sample, of labels with the columns key and label."""
    encoded = labels["label"].combine_chunks().dictionary_encode()
    code, parsed = encoded.indices.to_numpy(), list[np.ndarray]()
    first = np.unique(code, return_index=True)[1]  # the row at which each text is first found
    for text, at in zip(encoded.dictionary.to_pylist(), first.tolist(), strict=True):
        shard, row = split_key(labels["key"][at].as_py())
        parsed.append(np.array(_parse(text, names, f"the label '{text}' (shard {shard}, row {row})"), np.int64))
    each = np.array([len(one) for one in parsed], np.int64)[code]
    label = np.concatenate([np.empty(0, np.int64), *(parsed[one] for one in code)])
    return np.repeat(labels["key"].to_numpy(), each), label


def _parse(text: str, names: tuple[str, ...], what: str) -> list[int]:
    """The labels in a text."""
    found = dict[int, int]()  # class → label
    for part in map(str.strip, text.split(BETWEEN)):
        name = part.removeprefix(UNSURE).strip()
        if name not in names:
            raise InputError(f"{what} has '{name}', which is no class: give some of {listed(names, 10)}")
        number = names.index(name)
        if number in found:
            raise InputError(f"{what} has '{name}' twice: give each class once")
        found[number] = -1 - number if part.startswith(UNSURE) else number
    return list(found.values())
