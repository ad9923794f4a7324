"""PICKS of a labeled set → PICKS of the part to learn from, and of the part that is held out to choose by.

Letters: N labeled samples, C classes.
"""

import hashlib

import numpy as np
import pyarrow as pa

from raylabel.errors import InputError
from raylabel.labels.picks import write_picks
from raylabel.schema import PICKS
from raylabel.store.artifact import Artifact, Built, Draft, Root


def hold_out(root: Root, labels: Artifact, groups: pa.Table, share: float, seed: int) -> tuple[Artifact, Artifact]:
    """(the part to learn from, the part held out) of a labeled set's PICKS, as two artifacts `truth`.

    Of each class the share, rounded, at least one sample and not its only one: those whose sources come first in an
    order that is a hash of (seed, source). The source is the video that a sample is a part of, by its name in `groups`
    ((key, group), as `read_groups` gives them), or else the sample itself, by its key. All parts of a video go with
    it: they are all but the same pictures. InputError if nothing can be held out, or a class has nothing left.
    """
    if not 0 < share < 1:
        raise InputError(f"validation is {share}: give a share of the labeled set between 0 and 1")
    table = labels.table("picks", PICKS)
    label, key = table.column("label").to_numpy(), table.column("key").to_numpy()
    held, classes = _held_out(label, _mixed(key, groups, seed), key, share), labels.info["classes"]
    where = f"{share:g} of the {len(key):,} labeled samples held out for validation"
    if not held.any():
        raise InputError(f"{where}: no class has two samples of which one could be: label more")
    left = np.bincount(label[~held], minlength=len(classes))
    if empty := [name for name, count in zip(classes, left, strict=True) if not count]:
        raise InputError(
            f"{where}: class '{empty[0]}' has none left to learn from, for all are of one video: lower --validation, "
            "or label other videos of it"
        )
    return _part(root, labels, table, ~held), _part(root, labels, table, held)


def _mixed(key: np.ndarray, groups: pa.Table, seed: int) -> np.ndarray:
    """The hash of each sample's source, uint64 [N]: 64 bits, so that equal ones are the same source."""
    at = np.searchsorted(groups.column("key").to_numpy(), key)
    named = groups.column("group").take(pa.array(at)).to_pylist()
    texts = (f"{seed} video {name}" if name else f"{seed} key {one}" for name, one in zip(named, key, strict=True))
    hashes = (hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(b"".join(hashes), "<u8")


def _held_out(label: np.ndarray, mixed: np.ndarray, key: np.ndarray, share: float) -> np.ndarray:
    """bool [N]: which samples are held out."""
    counts = np.bincount(label)
    many = np.rint(share * counts).astype(np.int64).clip(1, np.maximum(counts - 1, 1)) * (counts > 1)
    order = np.lexsort((key, mixed, label))
    place = np.arange(len(order)) - (np.cumsum(counts) - counts)[label[order]]
    first = order[place < many[label[order]]]
    return np.isin(mixed, mixed[first])


def _part(root: Root, labels: Artifact, table: pa.Table, kept: np.ndarray) -> Artifact:
    """PICKS of the samples that are kept. Its identity is what it holds, whatever share and seed chose it."""
    table = table.filter(pa.array(kept))
    label, key = table.column("label").to_numpy(), table.column("key").to_numpy()
    keys = hashlib.sha256(np.sort(key).astype("<i8").tobytes()).hexdigest()

    def build(draft: Draft) -> Built:
        return write_picks(draft, key, label, tuple(labels.info["classes"]))

    return root.make("truth", {"part of": labels.digest, "keys": keys}, build)
