"""Groups of DUPLICATES and COPIES, against brute force."""

import tempfile
from collections import defaultdict

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raylabel.schema import COPIES, DUPLICATES
from raylabel.selection import groups
from raylabel.selection.groups import Group, find_groups
from raylabel.store.artifact import Artifact, Built, Draft, Root, write_table


def made(root: Root, name: str, files: list[pa.Table]) -> Artifact:
    def build(draft: Draft) -> Built:
        return Built([write_table(draft.uri, f"{name}-{i:05d}.parquet", table) for i, table in enumerate(files)], {})

    return root.make(name, {}, build)


@settings(max_examples=60)
@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 4), st.data())
def test_groups_are_those_of_brute_force(count: int, shown: int, members: int, data: st.DataObject) -> None:
    """Keys 0, 3, 6, ... Each is a byte copy of one before it, or, if it is the first with its bytes, a near-duplicate
    of one that is kept, or it is kept."""
    duplicate, near, similarity = dict[int, int](), dict[int, int](), dict[int, float]()
    for key in range(0, 3 * count, 3):
        first = [one for one in range(0, key, 3) if one not in duplicate]
        kept = [one for one in first if one not in near]
        kind = data.draw(st.sampled_from(["kept", "bytes", "near"])) if first else "kept"
        if kind == "bytes":
            duplicate[key] = data.draw(st.sampled_from(first))
        elif kind == "near":
            near[key] = data.draw(st.sampled_from(kept))
            similarity[key] = data.draw(st.sampled_from([0.93, 0.95, 1.0]))
    buckets: dict[int, list[int]] = defaultdict(list)
    for key, original in duplicate.items():
        buckets[original % 2].append(key)
    tables = [
        pa.table([keys, [duplicate[key] for key in keys]], schema=DUPLICATES) for keys in (buckets[0], buckets[1])
    ]
    copies = pa.table([list(near), list(near.values()), list(similarity.values())], schema=COPIES)
    expected: dict[int, list[int]] = defaultdict(list)
    for key in sorted({*duplicate, *near}):
        original = duplicate.get(key, key)
        expected[near.get(original, original)].append(key)
    order = sorted(expected, key=lambda kept: (-len(expected[kept]), kept))[:shown]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        root = Root.open(folder)
        patch.setattr(groups, "run_tasks", lambda task, arguments, **_: [task(*one) for one in arguments])
        found = find_groups(made(root, "duplicates", tables), made(root, "copies", [copies]), shown, members, 3)
        only = find_groups(made(root, "duplicates", tables), None, shown, members, 3)
    assert found.count == len(expected)
    assert found.largest == tuple(
        Group(kept, len(expected[kept]) + 1, tuple(expected[kept][:members])) for kept in order
    )
    least = sorted(near, key=lambda key: (np.float32(similarity[key]), key))[:3]
    assert found.nearest == tuple((key, near[key], float(np.float32(similarity[key]))) for key in least)
    assert only.count == len(set(duplicate.values())) and not only.nearest
