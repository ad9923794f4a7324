"""Test set leakage: source videos of the test set, or copies of its files, in the training data.

Segments of one video are nearly the same images: a test set that shares videos with the training set measures
memorization. For this reason each of the 25 groups of a class of UCF101 is on one side of a split only (Soomro et al.
2012, section 2.2).

Letters: N test samples, G source videos and D digests of the test set.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raylabel.compute.progress import PatientProgress
from raylabel.errors import InputError
from raylabel.schema import SCORES, split_key
from raylabel.selection.shuffle import BATCH_ROWS, group_files, open_scores, run_tasks
from raylabel.store.artifact import Artifact, Built, Draft, Root, write_table
from raylabel.text import printable

Policy = Literal["report", "error"]
TASK_ROWS = 1 << 25  # rows of the corpus that one task compares with the test set: some seconds of work
EXAMPLES = 5  # source videos named in the message

# Test samples that are in the corpus: by their source video, or byte for byte.
SHARED = pa.schema([("key", pa.int64()), ("video", pa.bool_()), ("copy", pa.bool_())])


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
    test: int
    """Test samples that are from these videos or have such a copy."""
    n: int
    """Test samples."""
    examples: list[str]
    """Names of the first of these videos."""

    @property
    def sentence(self) -> str:
        """The result in words; empty if no source videos are known and nothing is shared."""
        if not self.test:
            none = "no source video of the test set is in the labeled set or in the corpus"
            return none if self.known else ""
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
        return f"{self.test:,} of {self.n:,} test samples leak: {'; '.join(found)}"


def find_leaks(
    root: Root,
    policy: Policy,
    labeled: pa.Table,
    test: pa.Table,
    tested: Artifact | None = None,
    digests: pa.Table | None = None,
    scores: Artifact | None = None,
) -> Leaks:
    """How much of the test set is also in the labeled set or in the corpus.

    labeled, test: (key, group) of all samples, in key order, as `read_groups` returns them. The groups are names of
    source videos; equal names are the same video. tested: SCORES of the test set by any model. digests: DIGESTS of the
    labeled set. scores: SCORES of the corpus. What is not given is not compared, so that a leak of the labeled set is
    found before anything is trained or labeled. The labeled set is compared by name and by digest. The corpus is
    compared by digest and by the `group` of SCORES, which identifies a video without a name by its bytes.

    InputError that names some of the videos if anything is shared and the policy is 'error'.
    """
    key, names = test.column("key").to_numpy(), test.column("group").combine_chunks()
    mine = labeled.column("group").combine_chunks()
    video, copy, group = _among(names, mine), np.zeros(len(key), bool), np.zeros(len(key), np.int64)
    unlabeled = labeled_copies = copies = 0
    if tested and digests is not None:
        rows = tested.table("scores-", SCORES, ["key", "digest"])
        theirs, ours = (table.column("digest").combine_chunks() for table in (rows, digests))
        labeled_copies = int(_among(ours, theirs).sum())
        copy[np.searchsorted(key, rows.column("key").to_numpy())] = _among(theirs, ours)
    if scores and tested:
        compared = _compare(root, scores, tested)
        unlabeled, copies = compared.info["unlabeled"], compared.info["copies"]
        rows = tested.table("scores-", SCORES, ["key", "group"])
        group[np.searchsorted(key, rows.column("key").to_numpy())] = rows.column("group").to_numpy()
        shared = compared.table("shared", SHARED)
        at = np.searchsorted(key, shared.column("key").to_numpy())
        video[at] |= shared.column("video").to_numpy()
        copy[at] |= shared.column("copy").to_numpy()
    source, known = _sources(names, group)
    first = np.unique(source, return_index=True)[1][np.unique(source[video])]
    video = np.isin(source, source[video])  # includes segments that could not be read and are in no SCORES
    leaks = Leaks(
        known=known,
        videos=len(first),
        labeled=int(_among(mine, names).sum()),
        unlabeled=unlabeled,
        labeled_copies=labeled_copies,
        copies=copies,
        test=int((video | copy).sum()),
        n=len(key),
        examples=[names[i].as_py() or _location(int(key[i])) for i in np.sort(first)[:EXAMPLES].tolist()],
    )
    if policy == "error" and leaks.test:
        raise InputError(
            f"{printable(leaks.sentence)}: remove them from the test set or the training data, or set --leaks report"
        )
    return leaks


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


def _compare(root: Root, scores: Artifact, tested: Artifact) -> Artifact:
    """The artifact `leaks`: SHARED, the rows of `tested` that have a counterpart in `scores`.

    Info: unlabeled (samples of the corpus whose source video is one of the test set's), copies (those that are
    byte-identical to a test sample).
    """
    files, tests = scores.files("scores-"), [file.name for file in tested.files("scores-")]
    rows = sum(file.rows for file in files)
    # Column `group` is read only if both have source videos.
    grouped = bool(scores.info.get("groups") and tested.info.get("groups"))

    def build(draft: Draft) -> Built:
        tasks = [(scores.uri, run, tested.uri, tests, grouped) for run in group_files(files, -(-rows // TASK_ROWS))]
        with PatientProgress("compare with the test set", rows, "samples") as progress:
            memory = 100 * sum(file.rows for file in tested.files("scores-"))
            found = run_tasks(_count_shared, tasks, lambda share: progress.update(int(share * rows)), memory)
        videos, same, unlabeled, copies = zip(*found, strict=True)
        video, copy = np.any(videos, axis=0), np.any(same, axis=0)
        key = tested.table("scores-", SCORES, ["key"]).column("key").to_numpy()
        either = np.logical_or(video, copy)
        shared = pa.table([key[either], video[either], copy[either]], schema=SHARED)
        info = {"unlabeled": sum(unlabeled), "copies": sum(copies)}
        return Built([write_table(draft.uri, "shared.parquet", shared)], info)

    return root.make("leaks", {"scores": scores.digest, "tested": tested.digest}, build)


def _count_shared(
    scores: str, names: list[str], tested: str, tests: list[str], grouped: bool
) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Compares some SCORES files of the corpus with those of the test set.

    Returns which test rows share a source video with a row of the corpus, and which share a digest, bool [N] each; then
    how many rows of the corpus share a source video with a test row, and how many share a digest.
    """
    columns = ["digest"] + ["group"] * grouped
    test = pa.concat_tables([SCORES.empty_table().select(columns), *_read(tested, tests, columns)]).combine_chunks()
    test = {name: test.column(name).combine_chunks() for name in columns}
    values = {name: column.unique() for name, column in test.items()}
    if grouped:
        values["group"] = values["group"].filter(pc.not_equal(values["group"], 0))  # pyright: ignore
    seen = {name: np.zeros(len(column), bool) for name, column in values.items()}
    rows = dict.fromkeys(values, 0)
    for name in names:
        with open_scores(scores, name) as file:
            for batch in file.iter_batches(BATCH_ROWS, columns=columns, use_threads=False):
                for which, wanted in values.items():
                    found = pc.index_in(batch.column(which), value_set=wanted).drop_null().to_numpy()  # pyright: ignore
                    rows[which] += len(found)
                    seen[which][found] = True
    none = np.zeros(len(test["digest"]), bool)
    video, copy = (
        _among(test[which], values[which].filter(pa.array(seen[which]))) if which in values else none
        for which in ("group", "digest")
    )
    return video, copy, rows.get("group", 0), rows["digest"]


def _read(folder: str, names: list[str], columns: list[str]) -> list[pa.Table]:
    tables = []
    for name in names:
        with open_scores(folder, name) as file:
            tables.append(file.read(columns=columns, use_threads=False))
    return tables
