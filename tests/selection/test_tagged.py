"""Lists of tagged samples, against plain Python."""

import functools
import itertools

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from raylabel.schema import PICKS, TAGS
from raylabel.selection.candidates import Scored, random_numbers, read_candidates
from raylabel.selection.config import Select
from raylabel.selection.select import select
from raylabel.store.artifact import Built, Root, write_table


def tags_of(root: Root, rows: list[tuple[int, list[int]]], files: int = 2):
    def build(draft) -> Built:
        ends = [i * len(rows) // files for i in range(files + 1)]
        parts = [rows[low:high] for low, high in itertools.pairwise(ends)]
        dicts = [[dict(zip(TAGS.names, row, strict=True)) for row in part] for part in parts]
        tables = [pa.Table.from_pylist(some, schema=TAGS) for some in dicts]
        written = [write_table(draft.uri, f"tags-{i:06d}.parquet", table) for i, table in enumerate(tables)]
        return Built(written, {"pairs": sum(len(classes) for _, classes in rows)})

    return root.make("tags", {"rows": rows}, build)


def _number(key: int, label: int, seed: int) -> float:
    return float(random_numbers(np.array([key]), np.array([label]), seed)[0])


rows_of_tags = st.lists(st.lists(st.integers(0, 4), min_size=1, unique=True).map(sorted), min_size=1, max_size=30)


@settings(max_examples=50)
@given(rows_of_tags, st.integers(0, 3), st.sets(st.integers(0, 30)))
def test_each_tag_of_a_class_is_a_candidate(tmp_path_factory, classes, seed, dropped):
    rows = [(key, some) for key, some in enumerate(classes)]
    tags = tags_of(Root.open(str(tmp_path_factory.mktemp("root"))), rows)
    config = Select(k=3, p=1, rank="random", seed=seed)
    scored, drop = Scored(folder=tags.uri, kept=0, classes=5, grouped=False, tagged=True), np.array(sorted(dropped))
    found = []
    for file in tags.files("tags-"):
        for label, score, (key,) in read_candidates(scored, file.name, config, drop):
            found += zip(label.tolist(), score.tolist(), key.tolist(), strict=True)
    expected = [(c, key) for key, some in rows for c in some if key not in dropped]
    assert [(c, key) for c, _, key in found] == expected
    numbers = [_number(key, c, seed) for c, key in expected]
    assert [score for _, score, _ in found] == numbers


def test_lists_are_random_samples_of_each_tag(ray_local, tmp_path):
    root, rng = Root.open(str(tmp_path)), np.random.default_rng(0)
    rows = [(key, sorted(rng.choice(3, rng.integers(1, 3), replace=False).tolist())) for key in range(200)]
    tags, names = tags_of(root, rows), ("a", "b", "c")
    found = {}
    for seed in (0, 1):
        picks = select(root, tags, None, Select(k=20, p=1, rank="random", seed=seed), names)
        number = functools.partial(_number, seed=seed)
        lists = {c: sorted((-number(key, c), key) for key, some in rows if c in some) for c in range(3)}
        expected = [(c, rank, key) for c in range(3) for rank, (_, key) in enumerate(lists[c][:20], 1)]
        table = picks.table("picks-", PICKS)
        assert list(zip(*(table[name].to_pylist() for name in ("label", "rank", "key")), strict=True)) == expected
        assert picks.info["per_class"] == [20] * 3 and picks.info["rank"] == "random"
        found[seed] = set(table["key"].to_pylist())
    assert found[0] != found[1]
    counts = [sum(c in some for _, some in rows) for c in range(3)]
    shared = select(root, tags, None, Select(k=20, p=1, rank="random", counts="corpus"), names).info
    whole = 60 - 3
    assert sum(shared["lengths"]) == 60
    assert all(abs(n - 1 - whole * c / sum(counts)) < 1 for n, c in zip(shared["lengths"], counts, strict=True))
