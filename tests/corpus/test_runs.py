"""Loose files are cut into runs by their names, so that added files change few of them."""

import hashlib
import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raylabel.corpus import Corpus, Shards, index, index_corpus
from raylabel.corpus.fingerprint import measure_files
from raylabel.corpus.runs import LEAST, MOST, RUN, cut
from raylabel.store.artifact import MANIFEST, Artifact, Root


def runs_of(paths: list[str], by_number: bool = False) -> list[list[str]]:
    return [[path for path, *_ in run] for run in cut(((path, 1, 0) for path in paths), by_number)]


def fingerprints(paths: list[str], by_number: bool = False) -> set[str]:
    return {measure_files(run, [7] * len(run))[1] for run in runs_of(paths, by_number)}


def kept(paths: list[str], added: list[str], by_number: bool = False) -> tuple[int, int]:
    """(runs before, how many of these are there after the files were added)."""
    before = fingerprints(paths, by_number)
    return len(before), len(before & fingerprints(sorted({*paths, *added}), by_number))


NAMES = {
    "numbers": lambda i: f"{i:08}.jpg",
    "in class folders": lambda i: f"n{i // 1300:03}/{i}.jpg",
    "hashes": lambda i: hashlib.sha256(b"%d" % i).hexdigest() + ".jpg",
}


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("where", ["0", "00001234", "n003/0", "7", "zz"])
def test_ten_more_files_in_a_folder_keep_most_runs(names: str, where: str) -> None:
    paths = sorted(NAMES[names](i) for i in range(10_240))
    before, left = kept(paths, [f"{where}-new{i}.jpg" for i in range(10)])
    assert 5 <= before <= 20 and left >= before - 2 and left >= 0.8 * before


def test_earlier_versions_kept_one_run_of_ten() -> None:
    paths = [f"{i:08}.jpg" for i in range(10_240)]
    assert kept(paths, [f"00000000-new{i}.jpg" for i in range(10)], by_number=True) == (10, 0)
    assert kept(paths, [f"00001500-new{i}.jpg" for i in range(10)], by_number=True) == (10, 1)


@settings(max_examples=30)
@given(st.integers(0, 30_000), st.integers(1, 300), st.integers(0, 2**32), st.booleans())
def test_runs_contain_all_files_in_order_and_end_at_names(count: int, change: int, seed: int, add: bool) -> None:
    rng = random.Random(seed)
    paths = sorted({f"{rng.getrandbits(40):010x}.jpg" for _ in range(count)})
    runs = runs_of(paths)
    assert [path for run in runs for path in run] == paths
    assert all(LEAST <= len(run) <= MOST for run in runs[:-1]) and all(runs)
    # Consecutive files are added or deleted: the runs before them and, soon after, those behind them are the same.
    at = rng.randrange(len(paths) + 1)
    if add:
        near = paths[at - 1] if at else ""
        other = paths[:at] + [f"{near}-{i:04}" for i in range(change)] + paths[at:]
    else:
        other = paths[:at] + paths[at + change :]
    after = runs_of(other)
    first = sum(len(run) for run in runs if run in after)
    assert first >= len(paths) - change - 6 * MOST
    before = [run for run in runs if run[-1] < (paths[at - 1] if at else "")]
    assert all(run in after for run in before)


def test_the_mean_length_of_runs() -> None:
    sizes = [len(run) for run in runs_of([f"{i}.png" for i in range(300_000)])]
    assert 0.9 * RUN < sum(sizes) / len(sizes) < 1.1 * RUN
    assert {len(run) for run in runs_of([f"{i}.png" for i in range(5000)], by_number=True)} == {1024, 904}


@pytest.mark.usefixtures("ray_local")
def test_a_corpus_of_an_earlier_version_is_still_cut_by_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    for number in range(2100):
        (folder / f"{number:05}.jpg").touch()
    root, corpus, survey = Root.open(str(tmp_path / "root")), Corpus(uri=(str(folder),)), index.survey
    with monkeypatch.context() as patch:
        patch.setattr(index, "survey", lambda corpus, title, earlier, by_number: survey(corpus, title, earlier, True))
        made = index_corpus(root, "unlabeled", corpus)
    assert Shards(made).rows.tolist() == [1024, 1024, 52]
    # Earlier versions did not say how they cut.
    manifest = json.loads(Path(made.uri, MANIFEST).read_text())
    del manifest["info"]["cut"]
    Path(made.uri, MANIFEST).write_text(json.dumps(manifest))
    assert index_corpus(root, "unlabeled", corpus) == Artifact(made.uri, made.name, made.digest)
    (folder / "99999.jpg").touch()
    grown = index_corpus(root, "unlabeled", corpus)
    assert Shards(grown).rows.tolist() == [1024, 1024, 53] and "cut" not in grown.info
    # Another root, and another corpus in this one.
    expected = [len(run) for run in runs_of(sorted(path.name for path in folder.iterdir()))]
    for other, uri in ((Root.open(str(tmp_path / "new")), str(folder)), (root, f"{tmp_path}/?")):
        shards = Shards(index_corpus(other, "unlabeled", Corpus(uri=(uri,))))
        assert shards.artifact.info["cut"] == "by name"
        assert shards.rows.tolist() == expected
