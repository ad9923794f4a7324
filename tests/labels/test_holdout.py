"""The validation split: a share of every class, whole videos, and the same split for a sample if others are added."""

import tempfile

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raylabel.errors import InputError
from raylabel.labels.holdout import hold_out
from raylabel.schema import DIGESTS, PICKS
from raylabel.store.artifact import Artifact, Built, Draft, Root, write_table


def labeled(root: Root, label: np.ndarray, key: np.ndarray, classes: int) -> Artifact:
    order = np.lexsort((key, label))
    counts = np.bincount(label, minlength=classes)
    rank = np.concatenate([np.arange(1, n + 1) for n in counts])
    columns = [label[order].astype(np.int32), rank.astype(np.int32), np.zeros(len(key), np.float32), key[order]]
    table = pa.Table.from_arrays([pa.array(c) for c in columns], schema=PICKS)

    def build(draft: Draft) -> Built:
        return Built(
            [write_table(draft.uri, "picks-00000.parquet", table)], {"classes": [str(c) for c in range(classes)]}
        )

    return root.make("truth", {"rows": table.to_pylist()}, build)


def rows(picks: Artifact) -> dict[int, int]:
    table = picks.table("picks", PICKS)
    label, rank = table["label"].to_numpy(), table["rank"].to_numpy()
    assert picks.info["per_class"] == np.bincount(label, minlength=len(picks.info["classes"])).tolist()
    for one in np.unique(label):
        assert rank[label == one].tolist() == list(range(1, picks.info["per_class"][one] + 1))
    return dict(zip(table["key"].to_pylist(), label.tolist(), strict=True))


def groups_of(key: np.ndarray, names: list[str | None]) -> pa.Table:
    order = np.argsort(key)
    return pa.table([pa.array(key[order]), pa.array([names[i] for i in order], pa.string())], ["key", "group"])


def digests_of(key: np.ndarray, numbers: list[int]) -> pa.Table:
    """DIGESTS of samples with these contents; none where the number is negative."""
    rows = sorted((k, n.to_bytes(16, "big")) for k, n in zip(key.tolist(), numbers, strict=True) if n >= 0)
    return pa.Table.from_pylist([{"key": k, "digest": digest} for k, digest in rows], DIGESTS)


@settings(max_examples=40)
@given(
    counts=st.lists(st.integers(1, 40), min_size=2, max_size=6),
    share=st.sampled_from([0.05, 0.2, 0.5, 0.9]),
    seed=st.integers(0, 3),
    videos=st.sampled_from([0, 2, 8]),
    copies=st.sampled_from([0, 3, 30]),
    data=st.data(),
)
def test_a_share_of_each_class_is_held_out_and_no_video_or_copy_is_in_both(counts, share, seed, videos, copies, data):
    label = np.repeat(np.arange(len(counts)), counts)
    key = np.array(data.draw(st.permutations(range(len(label)))), np.int64) * 7
    # A video is of one class. Without videos, each sample is its own source.
    names = [f"{c}/{data.draw(st.integers(0, videos))}" if videos else None for c in label.tolist()]
    with tempfile.TemporaryDirectory() as folder:
        root = Root.open(folder)
        picks = labeled(root, label, key, len(counts))
        groups = groups_of(key, names)
        # Copies are of any class. Some samples could not be read, so they have no digest.
        number = [data.draw(st.integers(-1, copies)) if copies else i for i in range(len(key))]
        digests = digests_of(key, number)
        try:
            rest, held = hold_out(root, picks, groups, digests, share, seed)
        except InputError:
            assert videos or copies or max(counts) == 1  # one source is a whole class, or no class has two samples
            return
        assert (rest, held) == hold_out(root, picks, groups, digests, share, seed)
        if not copies:
            assert (rest, held) == hold_out(root, picks, groups, digests[:0], share, seed)  # as if nothing were read
        left, out = rows(rest), rows(held)
    whole = dict(zip(key.tolist(), label.tolist(), strict=True))
    assert not left.keys() & out.keys() and {**left, **out} == whole
    source = {k: n if n else str(k) for k, n in zip(key.tolist(), names, strict=True)}
    assert not {source[k] for k in left} & {source[k] for k in out}
    digest = {k: n for k, n in zip(key.tolist(), number, strict=True) if n >= 0}
    assert not {digest.get(k) for k in left} & {digest.get(k, -1) for k in out}
    for c, n in enumerate(counts):
        wanted = min(max(round(share * n), 1), n - 1) if n > 1 else 0
        got = sum(found == c for found in out.values())
        assert sum(found == c for found in left.values()) >= 1
        assert got == wanted if not (videos or copies) else got >= wanted


def test_a_sample_keeps_its_split_when_others_are_added_and_the_seed_changes_it(tmp_path):
    root, key = Root.open(str(tmp_path)), np.arange(4000, dtype=np.int64)
    label, none = key % 2, groups_of(key, [None] * 4000)
    held = {
        seed: set(
            rows(hold_out(root, labeled(root, label, key, 2), none, digests_of(key, list(range(4000))), 0.25, seed)[1])
        )
        for seed in (0, 1)
    }
    assert len(held[0] & held[1]) == pytest.approx(250, abs=60)  # two independent quarters
    more = np.arange(4400, dtype=np.int64)
    grown = hold_out(
        root, labeled(root, more % 2, more, 2), groups_of(more, [None] * 4400), DIGESTS.empty_table(), 0.25, 0
    )[1]
    assert len(held[0] - set(rows(grown))) < 60  # the split depends on a hash of the key, not on the order of samples


def test_a_copy_of_a_segment_joins_two_videos(tmp_path):
    root, key = Root.open(str(tmp_path)), np.arange(400, dtype=np.int64)
    names: list[str | None] = [f"v{k // 4}" for k in key.tolist()]
    number = key.tolist()
    number[3], number[7] = 1000, 1000  # one segment of v0 and of v1
    digests = digests_of(key, number)
    for seed in range(8):
        held = rows(hold_out(root, labeled(root, key % 2, key, 2), groups_of(key, names), digests, 0.3, seed)[1])
        assert len(held.keys() & set(range(8))) in (0, 8)
