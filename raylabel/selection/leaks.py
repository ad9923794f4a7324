"""Test set leakage: source videos of the test set, or copies and near-duplicates of its files, in the training data.

Segments of one video are nearly the same images: a test set that shares videos with the training set measures
memorization. For this reason each of the 25 groups of a class of UCF101 is on one side of a split only (Soomro et al.
2012, section 2.2).

Letters: N test samples, G source videos and D digests of the test set.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raylabel.errors import InputError
from raylabel.inference.pictures import schema_of
from raylabel.schema import split_key
from raylabel.selection.compare import IN_A_SET
from raylabel.selection.pairs import count_samples, find_references
from raylabel.store.artifact import Artifact
from raylabel.text import printable

Policy = Literal["report", "remove", "error", "skip"]
EXAMPLES = 5  # source videos named in the message
TEST = "test"  # the name of the test set in PAIRS


KINDS_IN_WORDS = {"bytes": "byte-identical", "near": "near-duplicates", "video": "of one video"}


@dataclass(frozen=True, kw_only=True)
class SharedSet:
    """How much of another evaluation set is also in the training data: samples by kind of PAIRS. A sample may be of
    several kinds."""

    name: str
    labeled: dict[str, int]
    unlabeled: dict[str, int]

    @property
    def sentence(self) -> str:
        """The result in words; empty if nothing is shared."""
        named = {"labeled samples": self.labeled, "samples of the corpus": self.unlabeled}
        found = [
            f"{what} ({', '.join(f'{count:,} {KINDS_IN_WORDS[kind]}' for kind, count in counts.items())})"
            for what, counts in named.items()
            if counts
        ]
        return f"{' and '.join(found)} are also in {self.name}" if found else ""


@dataclass(frozen=True, kw_only=True)
class Leaks:
    """How much of the test set is also in the training data."""

    known: int
    """Test samples whose source video is known."""
    videos: int
    """Source videos of the test set that are also in the labeled set or in the corpus."""
    labeled: int
    """Labeled samples that are from these videos."""
    unlabeled: int
    """Scored samples of the corpus that are from these videos."""
    labeled_copies: int
    """Labeled samples that are byte-identical to a test sample."""
    copies: int
    """Scored samples of the corpus that are byte-identical to a test sample."""
    labeled_near: int = 0
    """Labeled samples that are near-duplicates of a test sample, without copies."""
    near: int = 0
    """Scored samples of the corpus that are near-duplicates of a test sample, without copies."""
    threshold: float | None = None
    """Similarity from which pictures are near-duplicates; None if they were not searched for."""
    removed: int = 0
    """Samples of the corpus that are not selected, since they are in an evaluation set."""
    others: list[SharedSet] = field(default_factory=list)
    """The evaluation sets other than the test set."""
    test: int
    """Test samples that are from these videos, or have such a copy or near-duplicate."""
    n: int
    """Test samples."""
    examples: list[str]
    """Names of the first of these videos."""

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Self:
        """As it is in summary.json."""
        return cls(**{**plain, "others": [SharedSet(**one) for one in plain.get("others", [])]})

    @property
    def sentence(self) -> str:
        """The result in words; empty if no source videos are known and nothing is shared."""
        others = [text for one in self.others if (text := one.sentence)]
        removed = f" ({self.removed:,} samples of the corpus are not selected)" if self.removed else ""
        if not self.test:
            none = "no source video of the test set is in the labeled set or in the corpus" if self.known else ""
            return "; ".join([none] * bool(none) + others) + removed
        found = []
        if self.videos:
            more = ", ..." if self.videos > len(self.examples) else ""
            found.append(
                f"{self.videos:,} source videos of the test set ({', '.join(self.examples)}{more}) are also the source "
                f"of {self.labeled:,} labeled samples and {self.unlabeled:,} samples of the corpus"
            )
        copies = {"labeled samples": self.labeled_copies, "samples of the corpus": self.copies}
        if any(copies.values()):
            those = " and ".join(f"{count:,} {name}" for name, count in copies.items() if count)
            found.append(f"{those} are byte-identical to test samples")
        near = {"labeled samples": self.labeled_near, "samples of the corpus": self.near}
        if any(near.values()):
            those = " and ".join(f"{count:,} {name}" for name, count in near.items() if count)
            found.append(f"{those} are near-duplicates of test samples")
        return f"{self.test:,} of {self.n:,} test samples leak: {'; '.join(found + others)}{removed}"


@dataclass(frozen=True)
class Leaking:
    """Leaks, and the test samples concerned."""

    leaks: Leaks
    keys: np.ndarray
    """int64: of the test samples that leak, ascending."""


def find_leaks(
    policy: Policy,
    labeled: pa.Table,
    test: pa.Table,
    tested: Artifact | None = None,
    digests: pa.Table | None = None,
    pairs: Artifact | None = None,
    labeled_pairs: Artifact | None = None,
) -> Leaking:
    """How much of the test set is also in the labeled set or in the corpus.

    labeled, test: (key, group) of all samples, in key order, as `read_groups` returns them. The groups are names of
    source videos; equal names are the same video. tested: SCORES of the test set by any model, or its PICTURES.
    digests: DIGESTS of the labeled set. pairs, labeled_pairs: PAIRS of the corpus and of the labeled set, among them
    those with the set 'test'.
    What is not given is not compared, so that a leak of the labeled set is found before anything is trained or labeled.
    The labeled set is compared by name and by digest; the corpus by digest and by the `group` of SCORES, which
    identifies a video without a name by its bytes; both by near-duplicates.

    InputError that names some of the videos if anything is shared and the policy is 'error'.
    """
    key, names = test.column("key").to_numpy(), test.column("group").combine_chunks()
    mine = labeled.column("group").combine_chunks()
    video, copy, group = _among(names, mine), np.zeros(len(key), bool), np.zeros(len(key), np.int64)
    labeled_copies = 0
    if tested:
        rows = tested.table(f"{tested.name}-", schema_of(tested), ["key", "digest", "group"])
        at, theirs = np.searchsorted(key, rows.column("key").to_numpy()), rows.column("digest").combine_chunks()
        if digests is not None:
            ours = digests.column("digest").combine_chunks()
            labeled_copies = int(_among(ours, theirs).sum())
            copy[at] = _among(theirs, ours)
        if pairs:
            group[at] = rows.column("group").to_numpy()
            found = find_references(pairs, TEST)
            video |= np.isin(key, found["video"])
            # PAIRS name some of the test samples with the same bytes; the others are as these.
            same = theirs.filter(pa.array(np.isin(rows.column("key").to_numpy(), found["bytes"])))
            copy[at] |= _among(theirs, same)
    near = [np.isin(key, find_references(one, TEST)["near"]) for one in (pairs, labeled_pairs) if one]
    source, known = _sources(names, group)
    first = np.unique(source, return_index=True)[1][np.unique(source[video])]
    video = np.isin(source, source[video])  # includes segments that could not be read and are in no SCORES
    leaking = np.logical_or.reduce([video, copy, *near])
    leaks = Leaks(
        known=known,
        videos=len(first),
        labeled=int(_among(mine, names).sum()),
        unlabeled=count_samples(pairs, TEST, "video") if pairs else 0,
        labeled_copies=labeled_copies,
        copies=count_samples(pairs, TEST, "bytes") if pairs else 0,
        labeled_near=count_samples(labeled_pairs, TEST, "near") if labeled_pairs else 0,
        near=count_samples(pairs, TEST, "near") if pairs else 0,
        threshold=pairs.info["threshold"] if pairs else None,
        removed=pairs.info["removed"] if pairs and policy == "remove" else 0,
        others=_others(pairs, labeled_pairs),
        test=int(leaking.sum()),
        n=len(key),
        examples=[names[i].as_py() or _location(int(key[i])) for i in np.sort(first)[:EXAMPLES].tolist()],
    )
    if policy == "error" and (leaks.test or any(one.sentence for one in leaks.others)):
        raise InputError(
            f"{printable(leaks.sentence)}: remove them from the evaluation sets or the training data, or set --leaks "
            "remove"
        )
    return Leaking(leaks, key[leaking])


def _others(pairs: Artifact | None, labeled_pairs: Artifact | None) -> list[SharedSet]:
    """What of the evaluation sets other than the test set is in PAIRS."""

    def counts(made: Artifact | None, name: str) -> dict[str, int]:
        if not made:
            return {}
        found = {kind: count_samples(made, name, kind) for kind in IN_A_SET}
        return {kind: count for kind, count in found.items() if count}

    names = {name for made in (pairs, labeled_pairs) if made for name in made.identity["sets"]} - {TEST}
    return [
        SharedSet(name=name, labeled=counts(labeled_pairs, name), unlabeled=counts(pairs, name))
        for name in sorted(names)
    ]


def _among(names: pa.Array, others: pa.Array) -> np.ndarray:
    """bool [n]: which of the names are among the others; nulls are not."""
    return pc.is_in(names, value_set=others.drop_null()).to_numpy(zero_copy_only=False)  # pyright: ignore


def _sources(names: pa.Array, group: np.ndarray) -> tuple[np.ndarray, int]:
    """(index of each sample's source video, int64 [N]; how many samples have a known source video).

    The source video is known by its name, or else by its group. Any other sample is its own source.
    """
    name = names.dictionary_encode().indices.fill_null(-1).to_numpy().astype(np.int64)
    group = np.where(name < 0, group, 0)
    alone = (name < 0) & (group == 0)
    columns = np.stack([name, group, np.where(alone, np.arange(len(group)), -1)])
    return np.unique(columns, axis=1, return_inverse=True)[1].ravel(), int((~alone).sum())


def _location(key: int) -> str:
    shard, row = split_key(key)
    return f"row {row} of shard {shard} of the test set"
