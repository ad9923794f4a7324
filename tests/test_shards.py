"""SHARDS as an artifact: a corpus that moved is the same, one that changed is an error."""

import shutil

import pytest
from helpers import digit_images, write_parquet

from raylabel.artifact import Root
from raylabel.corpus import Corpus, index_corpus
from raylabel.errors import InputError


def test_content_names_what_is_there_wherever_it_lies(ray_local, tmp_path):
    media, _ = digit_images()
    root = Root.open(str(tmp_path / "root"))
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    write_parquet(one / "a.parquet", media[:20])
    first = index_corpus(root, "unlabeled", Corpus(uri=(str(one),)))
    shutil.copytree(one, two)
    moved = index_corpus(root, "unlabeled", Corpus(uri=(str(two),)))
    assert first.info["content"] == moved.info["content"] and first.digest != moved.digest
    assert first.info["samples"] == 20
    assert index_corpus(root, "unlabeled", Corpus(uri=(str(one),))) == first
    write_parquet(two / "b.parquet", media[:3])  # the corpus grew: another content, no error
    assert index_corpus(root, "unlabeled", Corpus(uri=(str(two),))).info["content"] != first.info["content"]


def test_a_shard_that_changed_since_it_was_indexed_is_an_error(ray_local, tmp_path):
    media, _ = digit_images()
    root, corpus = Root.open(str(tmp_path / "root")), Corpus(uri=(str(tmp_path / "data"),))
    (tmp_path / "data").mkdir()
    path = write_parquet(tmp_path / "data" / "a.parquet", media[:20])
    shards = index_corpus(root, "unlabeled", corpus)
    write_parquet(path, media[1:21])
    with pytest.raises(InputError, match=f"shard '{path}' changed since it was indexed.*delete {shards.uri}"):
        index_corpus(root, "unlabeled", corpus)
    shutil.rmtree(shards.uri)  # the mend that the message gives
    assert index_corpus(root, "unlabeled", corpus).info["samples"] == 20
