"""PICKS of a labeled set → PICKS of its training split, and of its validation split.

Letters: N labeled samples, C classes.
"""

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raylabel.errors import InputError
from raylabel.labels.picks import write_picks
from raylabel.schema import PICKS
from raylabel.store.artifact import Artifact, Built, Draft, Root


def hold_out(
    root: Root, labels: Artifact, groups: pa.Table, digests: pa.Table, share: float, seed: int, name: str = "validation"
) -> tuple[Artifact, Artifact]:
    """(training split, validation split) of a labeled set's PICKS, as two artifacts `truth`.

    Of each class the share is held out, rounded, at least one sample but never all: the samples whose sources come
    first in the order of a hash of (seed, source). The source of a sample is its video, by the video's name in `groups`
    ((key, group), as `read_groups` returns them), or else the sample itself, by its key. Samples with equal digests
    have one source, that of the first. All samples of a source are held out together, because the segments of a video
    are nearly the same images. InputError if no sample can be held out, or if a class has no training sample left;
    `name` is that of the share on the command line.
    """
    if not 0 < share < 1:
        raise InputError(f"{name} is {share}: give a share of the labeled set between 0 and 1")
    table = labels.table("picks", PICKS)
    label, key = table.column("label").to_numpy(), table.column("key").to_numpy()
    held, classes = _held_out(label, _source_hashes(key, groups, digests, seed), key, share), labels.info["classes"]
    where = f"{name} is {share:g} of the {len(key):,} labeled samples"
    if not held.any():
        raise InputError(f"{where}, but no class has two samples: label more")
    left = np.bincount(label[~held], minlength=len(classes))
    if empty := [name for name, count in zip(classes, left, strict=True) if not count]:
        raise InputError(
            f"{where}, but class '{empty[0]}' has no training sample left, since all segments of a video and all "
            f"copies of a file are held out together: lower --{name}, or label other samples of this class"
        )
    return _split(root, labels, table, ~held), _split(root, labels, table, held)


def _source_hashes(key: np.ndarray, groups: pa.Table, digests: pa.Table, seed: int) -> np.ndarray:
    """The hash of each sample's source, uint64 [N]: with 64 bits, equal hashes mean the same source."""
    at = np.searchsorted(groups.column("key").to_numpy(), key)
    group = groups.column("group").take(pa.array(at)).combine_chunks()
    found = pc.index_in(pa.array(key), value_set=digests.column("key").combine_chunks())  # pyright: ignore
    digest = digests.column("digest").combine_chunks().take(found)
    first = _first_of_source(key, [_codes(group), _codes(digest)])
    named = group.take(pa.array(first)).to_pylist()
    texts = (
        f"{seed} video {name}" if name else f"{seed} key {one}" for name, one in zip(named, key[first], strict=True)
    )
    hashes = (hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(b"".join(hashes), "<u8")


def _codes(column: pa.Array) -> np.ndarray:
    """A number for each distinct value, int64 [N]; each null has its own."""
    codes = column.dictionary_encode().indices
    own = pa.array(np.arange(len(column)) + len(column), pa.int64())
    return pc.coalesce(codes.cast(pa.int64()), own).to_numpy()  # pyright: ignore[reportAttributeAccessIssue]


def _first_of_source(key: np.ndarray, codes: list[np.ndarray]) -> np.ndarray:
    """The index of the sample with the smallest key of each sample's source, int64 [N]. Samples with an equal code have
    one source, also in several steps: a copy of a segment joins two videos."""
    order = np.argsort(key)
    rank = np.empty(len(key), np.int64)
    rank[order] = np.arange(len(key))  # the first sample has the smallest rank
    inverse = [np.unique(code, return_inverse=True)[1].ravel() for code in codes]
    while True:
        before = rank
        for code in inverse:
            least = np.full(len(key), len(key))
            np.minimum.at(least, code, rank)
            rank = least[code]
        if np.array_equal(rank, before):
            return order[rank]


def _held_out(label: np.ndarray, source: np.ndarray, key: np.ndarray, share: float) -> np.ndarray:
    """bool [N]: which samples are held out."""
    counts = np.bincount(label)
    many = np.rint(share * counts).astype(np.int64).clip(1, np.maximum(counts - 1, 1)) * (counts > 1)
    order = np.lexsort((key, source, label))
    position = np.arange(len(order)) - (np.cumsum(counts) - counts)[label[order]]
    first = order[position < many[label[order]]]
    return np.isin(source, source[first])


def _split(root: Root, labels: Artifact, table: pa.Table, kept: np.ndarray) -> Artifact:
    """PICKS of the samples that are kept. The identity depends on these samples, not on the share and the seed."""
    table = table.filter(pa.array(kept))
    label, key = table.column("label").to_numpy(), table.column("key").to_numpy()
    keys = hashlib.sha256(np.sort(key).astype("<i8").tobytes()).hexdigest()

    def build(draft: Draft) -> Built:
        return write_picks(draft, key, label, tuple(labels.info["classes"]))

    return root.make("truth", {"part of": labels.digest, "keys": keys}, build)
