"""The addresses of samples, found without media, against those that reading them gives."""

from dataclasses import replace
from pathlib import Path

import pytest
from corpora import FORMS, Indexed, read_all, rows_of

from raylabel.corpus import Corpus, Shards
from raylabel.corpus.addresses import addresses
from raylabel.schema import split_key


@pytest.mark.parametrize("share", [1.0, 0.4])
@pytest.mark.parametrize("form", FORMS)
def test_addresses_are_those_of_the_samples_that_are_read(
    indexed: Indexed, tmp_path: Path, form: str, share: float
) -> None:
    corpus = replace(FORMS[form](tmp_path / "corpus", rows_of(40)), share=share)
    shards = indexed(corpus)
    expected = {sample.key: sample.uri for sample in read_all(corpus, shards)}
    assert 0 < len(expected) < 41
    assert found_of(corpus, shards, expected) == expected


def found_of(corpus: Corpus, shards: Shards, expected: dict[int, str]) -> dict[int, str]:
    """The addresses of every second row of each shard, and of the others."""
    found = {}
    for number in range(len(shards)):
        shard = shards.row(number)
        for start in (0, 1):
            keys = [key for key in expected if split_key(key)[0] == number][start::2]
            names = [expected[key].removeprefix(f"{shard['uri']}#") for key in keys]  # used of tars
            if keys:
                some = addresses(corpus, shard, [split_key(key)[1] for key in keys], names)
                found |= dict(zip(keys, some, strict=True))
    return found


def test_segments_of_one_file_have_their_own_addresses(indexed: Indexed, tmp_path: Path) -> None:
    (tmp_path / "a b.mp4").write_bytes(b"a video")
    (tmp_path / "list.csv").write_text("path,from,to\na b.mp4,,\na b.mp4,1,2.50\na b.mp4,3,\na b.mp4,,4\n")
    corpus = Corpus(uri=(str(tmp_path / "list.csv"),), kind="video", start="from", end="to")
    shards = indexed(corpus)
    found = list(addresses(corpus, shards.row(0), range(4), [""] * 4))
    assert found == [f"{tmp_path}/a b.mp4{segment}" for segment in ("", "#t=1.0,2.5", "#t=3.0", "#t=0.0,4.0")]
