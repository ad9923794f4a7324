"""A subset of a corpus is scored as the whole corpus is: the same rows, of the samples in the table alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from helpers import contents, digit_images, write_parquet
from hypothesis import given
from hypothesis import strategies as st
from projection import CLASSES, Projection
from scoring import keys_table, scored_in_this_process

from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus, Units, index_corpus, units
from raylabel.corpus.ahead import _runs
from raylabel.inference import scores as stage
from raylabel.inference.scores import Scoring, make_scores
from raylabel.inference.subset import Subset, units_between
from raylabel.schema import REJECTS, SCORES, make_key
from raylabel.store.artifact import Artifact, Root

UNIT = 16


def scoring(root: Root, corpus: Corpus, shards: Artifact, subset: Artifact | None) -> Scoring:
    return Scoring(
        scorer=Projection(8, min(3, CLASSES)),
        source={"size": 8},
        shards=shards,
        corpus=corpus,
        batch=8,
        reject_limit=0.5,
        resources=Resources(teachers=1),
        subset=subset,
    )


@pytest.mark.parametrize("files", [1, 3])
def test_the_rows_are_those_of_the_whole_corpus(ray_local, tmp_path: Path, monkeypatch, files: int):
    monkeypatch.setattr(units, "UNIT", UNIT)
    monkeypatch.setattr(stage, "PART", 2)
    media: list[bytes | None] = list(digit_images()[0][:150])
    media[4], media[140] = b"no picture", None
    uris = [str(write_parquet(tmp_path / f"{i}.parquet", media[75 * i : 75 * i + 75])) for i in range(2)]
    corpus, root = Corpus(uri=tuple(uris)), Root.open(str(tmp_path / "root"))
    shards = index_corpus(root, "unlabeled", corpus)
    rows = np.array([0, 3, 4, *range(30, 50), 74, 75, 76, 100, 140, 149])  # of some units none, of one all
    keys = np.array([make_key(row // 75, row % 75) for row in rows.tolist()])
    with scored_in_this_process(tmp_path):
        whole = make_scores(root, scoring(root, corpus, shards, None))
        some = make_scores(root, scoring(root, corpus, shards, keys_table(root, keys, files)))
    assert some.digest != whole.digest and (some.info["samples"], some.info["rejected"]) == (len(rows), 2)
    assert some.info["scored"] == len(rows) - 2 and some.info["earlier"] == 0
    for name, schema in (("scores-", SCORES), ("rejects-", REJECTS)):
        mine, all_rows = some.table(name, schema), whole.table(name, schema)
        assert mine.equals(all_rows.filter(pa.array(np.isin(all_rows["key"].to_numpy(), keys))))
    assert len(some.files("scores-")) == len(whole.files("scores-"))


@pytest.mark.timeout(200)
def test_the_bytes_are_those_of_another_cluster_and_rejects_are_read_again(ray_local, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(units, "UNIT", UNIT)
    monkeypatch.setattr(stage, "PART", 2)
    media = list(digit_images()[0][:60])
    corpus = Corpus(uri=(str(write_parquet(tmp_path / "a.parquet", [*media[:5], b"x", *media[5:]])),))
    made, again = [], None
    for name in ("here", "ray"):
        root = Root.open(str(tmp_path / name))
        shards = index_corpus(root, "unlabeled", corpus)
        task = scoring(root, corpus, shards, keys_table(root, np.arange(0, 61, 5), 2))
        if name == "here":
            with scored_in_this_process(tmp_path):
                made.append(make_scores(root, task))
                again = make_scores(root, replace(task, retry_rejects=True))
        else:
            made.append(make_scores(root, task))
    assert contents(made[0]) == contents(made[1]) and made[0].info["rejected"] == 1
    assert again and again.uri == made[0].uri  # nothing was gained


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=4).flatmap(
        lambda rows: st.tuples(
            st.just(rows), st.sets(st.integers(0, sum(rows) - 1), min_size=1), st.integers(1, 3), st.integers(1, 9)
        )
    )
)
def test_units_have_the_rows_of_the_table(tmp_path_factory, case):
    rows, chosen, files, size = case
    root = Root.open(str(tmp_path_factory.mktemp("root")))
    ends = np.cumsum(rows)
    places = [(int(np.searchsorted(ends, at, side="right")), at) for at in sorted(chosen)]
    keys = np.array([make_key(shard, at - int(ends[shard]) + rows[shard]) for shard, at in places])
    subset = Subset.of(keys_table(root, keys, files), size)
    of_corpus = Units(np.array(rows), size)
    index, count = np.unique(of_corpus.containing(keys >> 32, keys & 0xFFFFFFFF), return_counts=True)
    counts = np.zeros(len(of_corpus), np.int32)
    counts[index] = count
    found = []
    for first in range(0, len(of_corpus), 3):
        some = units_between(of_corpus, counts, first, first + 3)
        narrowed = subset.narrow(list(some))
        assert [(unit.shard, unit.rows) for unit in narrowed] == [(unit.shard, unit.rows) for unit in some]
        for unit in narrowed:
            found += [make_key(unit.shard, row) for row in unit.only]
        for run in _runs(narrowed):  # adjacent ones of a shard are read together
            assert len({unit.shard for unit in run}) == 1
        assert len(list(_runs(narrowed))) == len({unit.shard for unit in narrowed})
        assert subset.narrow(narrowed) == narrowed
    assert found == keys.tolist()
