"""Label source: labels given by people, of which a sample may have several."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

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
            key, label = parse_labels(table["key"].to_numpy(), table["label"].to_pylist(), names)
            counts = np.bincount(label[label >= 0], minlength=len(names)).tolist()
            info = {"picks": len(label), "samples": len(table), "per_class": counts, "classes": list(names)}
            return Built([write_table(draft.uri, "picks-00000.parquet", sorted_picks(key, label))], info)

        return root.make(self.name, {"shards": shards.info["content"], **self.identity}, build)


def parse_labels(key: np.ndarray, texts: list[str], names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(key int64, label int64) of each class of each sample. `key`: int64 [N]. `texts`: its N labels."""
    number, keys, labels = {name: c for c, name in enumerate(names)}, list[int](), list[int]()
    for one, text in zip(key.tolist(), texts, strict=True):
        found = set[int]()
        for part in text.split(BETWEEN):
            name = part.removeprefix(UNSURE).strip()
            shard, row = split_key(one)
            where = f"the label '{text}' (shard {shard}, row {row}) has"
            if name not in number:
                raise InputError(f"{where} '{name}', which is no class: give some of {listed(names, 10)}")
            if number[name] in found:
                raise InputError(f"{where} '{name}' twice: give each class once")
            found.add(number[name])
            keys.append(one)
            labels.append(-1 - number[name] if part.startswith(UNSURE) else number[name])
    return np.array(keys, np.int64), np.array(labels, np.int64)
