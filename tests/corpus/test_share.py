"""`Corpus.share`: the same samples from every form, a smaller share in a larger one, and SCORES that serve it."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from corpora import FORMS, read_all, rows_of
from helpers import digit_images
from helpers import write_parquet as write_images
from hypothesis import given
from hypothesis import strategies as st
from scoring import score

from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus, Shards, index_corpus, read_groups, read_keys, read_labels, units
from raylabel.corpus.share import of_files, of_packed
from raylabel.corpus.share import rows_of as rows_of_share
from raylabel.errors import InputError
from raylabel.inference import scores as stage
from raylabel.inference.reuse import Earlier
from raylabel.labels.teacher import Label
from raylabel.schema import REJECTS, SCORES, split_key
from raylabel.store.artifact import Root

FINGERPRINT = "0123456789abcdef0123456789abcdef"


def test_the_same_rows_belong_to_a_share_for_ever():
    """A golden list: another hash would give every user another share."""
    assert np.flatnonzero(of_packed(0.1, FINGERPRINT, 64)).tolist() == [29, 31, 34, 58]
    names = [f"n{number % 3}/{number}.jpg" for number in range(64)]
    assert np.flatnonzero(of_files(0.1, "d/", names)).tolist() == [8, 12, 16, 27, 30, 40, 41, 59, 60]


@given(st.floats(0.001, 1), st.floats(0.001, 1), st.text(max_size=8), st.integers(0, 3000))
def test_a_smaller_share_is_part_of_a_larger_one(one, other, fingerprint, count):
    small, large = (of_packed(share, fingerprint, count) for share in sorted((one, other)))
    assert not (small & ~large).any()
    rows = np.flatnonzero(small)
    shard = {"format": "parquet", "fingerprint": fingerprint, "rows": len(rows)}
    if sorted((one, other))[0] < 1:
        assert (rows_of_share(sorted((one, other))[0], shard) == rows).all()
    # At most six standard deviations from the share.
    assert abs(len(rows) - min(one, other) * count) <= 6 * (count / 4) ** 0.5


@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("form", FORMS)
def test_a_share_of_each_form_has_the_samples_of_the_whole_with_their_labels(tmp_path, form):
    whole = FORMS[form](tmp_path / "c", rows_of(200))
    root = Root.open(str(tmp_path / "root"))
    seen = []
    for share in (1.0, 0.5, 0.25, 0.5):
        corpus = replace(whole, share=share)
        shards = Shards(index_corpus(root, "c", corpus))
        samples = read_all(corpus, shards, size=16)
        assert shards.samples == len(samples)
        assert [sample.key for sample in samples] == read_labels(corpus, shards)["key"].to_pylist()
        assert [sample.label for sample in samples] == read_labels(corpus, shards)["label"].to_pylist()
        assert read_groups(corpus, shards).num_rows == len(samples)
        last = samples[-1]
        assert read_keys(corpus, shards, [last.key]) == {last.key: replace(last, label=None)}
        assert split_key(last.key)[1] == shards.rows[split_key(last.key)[0]] - 1
        seen.append({sample.uri: (sample.media, sample.label) for sample in samples})
    assert len(seen[0]) == 200 and 60 < len(seen[1]) < 140 and 20 < len(seen[2]) < 80
    assert seen[2].items() <= seen[1].items() <= seen[0].items() and seen[3] == seen[1]


@pytest.mark.usefixtures("ray_local")
def test_all_segments_of_a_listed_file_belong_together(tmp_path):
    lines = [f"v{video}.mp4,{start},{start + 1}\n" for video in range(100) for start in range(5)]
    (tmp_path / "all.csv").write_text("path,start,end\n" + "".join(lines))
    (tmp_path / "v0.mp4").write_bytes(b"a video")
    corpus = Corpus(uri=(str(tmp_path / "all.csv"),), kind="video", start="start", end="end", share=0.3)
    shards = Shards(index_corpus(Root.open(str(tmp_path / "root")), "c", corpus))
    samples = read_all(replace(corpus, label=None), shards)
    _, counts = np.unique([sample.uri for sample in samples], return_counts=True)
    assert set(counts) == {5} and 10 < len(counts) < 50


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("form", ["parquet", "files"])
def test_scores_of_the_whole_serve_the_share_and_equal_its_own(tmp_path, monkeypatch, form):
    monkeypatch.setattr(units, "UNIT", 64)
    monkeypatch.setattr(stage, "PART", 3)
    media = [b"no picture" if row % 50 == 7 else one for row, one in enumerate(digit_images()[0][:700])]
    folder = tmp_path / "c"
    folder.mkdir()
    if form == "parquet":
        write_images(folder / "a.parquet", media[:450])
        write_images(folder / "b.parquet", media[450:])
    else:
        for row, data in enumerate(media):
            (folder / f"{row}.png").write_bytes(data)
    whole, config = Corpus(uri=(str(folder),)), Label(batch=32, p=10, reject_limit=0.5)
    root, scratch = Root.open(str(tmp_path / "root")), Root.open(str(tmp_path / "scratch"))

    def scores(root: Root, share: float) -> tuple[pa.Table, pa.Table, dict]:
        corpus = replace(whole, share=share)
        shards = index_corpus(root, "unlabeled", corpus)
        made = score(root, corpus, shards, config, Resources(teachers=1))
        # A part without rejects has no file of them.
        return made.table("scores-", SCORES), made.table("rejects-", REJECTS), made.info

    everything, rejects, info = scores(root, 1.0)
    assert info["images"] == 700 and rejects.num_rows == 14
    for share in (0.5, 0.2, 0.02):
        some, rejected, info = scores(root, share)
        assert info["images"] == 0 and info["earlier"] == info["samples"] == some.num_rows + rejected.num_rows
        assert 0 < info["samples"] / 700 < 1.5 * share + 0.02  # of files, by their paths, which differ from run to run
        # The oracle: the rows of the whole with these digests; those of the digits are unique.
        kept = everything.filter(pc.is_in(everything["digest"], some["digest"].combine_chunks()))  # pyright: ignore[reportAttributeAccessIssue]
        assert kept.drop(["key"]) == some.drop(["key"])
        assert set(rejected["uri"].to_pylist()) <= set(rejects["uri"].to_pylist())
    direct, rejected, info = scores(scratch, 0.5)
    assert info["earlier"] == 0
    again = scores(root, 0.5)
    assert direct == again[0] and rejected == again[1]
    # A smaller share is also served by the SCORES of a larger one; the whole is not.
    assert scores(scratch, 0.2)[2]["images"] == 0 and scores(scratch, 0.2)[0] == scores(root, 0.2)[0]
    half, all_of_it = (Shards(index_corpus(scratch, "unlabeled", replace(whole, share=s))) for s in (0.5, 1.0))
    (made, _) = sorted(scratch.named("scores"), key=lambda one: -one.info["samples"])
    assert Earlier(made, half, all_of_it, 64, 3).shards == 0 < Earlier(made, half, half, 64, 3).shards


@pytest.mark.parametrize("share", [0, -0.1, 1.5, float("nan")])
def test_a_share_outside_its_range_is_an_error(share):
    with pytest.raises(InputError, match="unlabeled.share is .*: give a share of the samples above 0 and at most 1"):
        Corpus(uri=("d",), share=share).check("unlabeled")


@pytest.mark.usefixtures("ray_local")
def test_a_share_without_samples_is_an_error(tmp_path):
    write_images(tmp_path / "a.parquet", digit_images()[0][:3])
    with pytest.raises(InputError, match="1 shards contain 0 rows of the share 1e-09; .* or a larger share"):
        index_corpus(Root.open(str(tmp_path / "r")), "c", Corpus(uri=(str(tmp_path / "a.parquet"),), share=1e-9))
