"""A corpus in an object store is read like a local one. Arrow's S3 client sends real requests to a local S3 server."""

import os
import urllib.request
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pytest
from corpora import FORMS, Indexed, read_all, rows_of

from raylabel.corpus import Corpus, class_names, read_keys, read_labels, verify
from raylabel.errors import InputError
from raylabel.schema import SHARDS
from raylabel.store.files import filesystem


def put(bucket: str, key: str) -> None:
    """Writes an object with any key; Arrow refuses some."""
    address = f"{os.environ['AWS_ENDPOINT_URL']}/{bucket.removeprefix('s3://')}/{key}"
    urllib.request.urlopen(urllib.request.Request(address, b"x", method="PUT")).close()


@pytest.mark.parametrize("form", FORMS)
def test_a_corpus_in_s3_equals_the_local_one(form: str, bucket: str, tmp_path: Path, indexed: Indexed) -> None:
    local = FORMS[form](tmp_path / "a b", rows_of(12))
    fs, _ = filesystem(bucket)
    pafs.copy_files(str(tmp_path), f"pictures/{form}", destination_filesystem=fs)
    remote = Corpus(uri=tuple(uri.replace(str(tmp_path), f"{bucket}/{form}") for uri in local.uri))

    here, there = indexed(local), indexed(remote)
    rows, expected = (shards.artifact.table("shards", SHARDS) for shards in (there, here))
    assert rows.drop(["uri"]) == expected.drop(["uri"])
    assert all(uri.startswith(f"{bucket}/{form}/a b/") for uri in rows["uri"].to_pylist())
    verify(there)
    found = read_all(remote, there, 5)
    assert [(s.key, s.media, s.label) for s in found] == [(s.key, s.media, s.label) for s in read_all(local, here)]
    assert [s.uri.replace(f"{bucket}/{form}", str(tmp_path)) for s in found] == [s.uri for s in read_all(local, here)]
    assert read_labels(remote, there) == read_labels(local, here)
    assert read_keys(remote, there, [1])[1].media == found[1].media

    deleted = found[0].uri.partition("#")[0] if form != "list" else found[0].uri
    fs.delete_file(deleted.removeprefix("s3://"))
    with pytest.raises(InputError, match="(vanished|changed) since it was indexed"):
        verify(there)
    if form in ("files", "list"):
        assert read_all(remote, there)[0].error == "missing"
    else:
        with pytest.raises(InputError, match="vanished since it was indexed"):
            read_all(remote, there)


def test_a_missing_path_or_bucket_is_an_error(bucket: str, indexed: Indexed) -> None:
    with pytest.raises(InputError, match="nothing found at 's3://pictures/none'"):
        indexed(Corpus(uri=(f"{bucket}/none",)))
    with pytest.raises(InputError, match="s3://no-such-bucket"):
        indexed(Corpus(uri=("s3://no-such-bucket/x",)))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("uri", ["{}/top", "{}/*", "{}"])
@pytest.mark.parametrize("empty", ["top//notes", "top//", "/notes", "top/d//e//"])
def test_keys_with_an_empty_part_end_the_listing(empty: str, uri: str, bucket: str, indexed: Indexed) -> None:
    """Arrow lists a folder with such a key in itself. Each other object is listed once."""
    for key in ("top/a.png", "top/d/b.png", "top/d/c.png", empty):
        put(bucket, key)
    shards = indexed(Corpus(uri=(uri.format(bucket),)))
    samples = read_all(Corpus(uri=(uri.format(bucket),)), shards)
    assert [s.uri for s in samples] == [f"{bucket}/top/{name}" for name in ("a.png", "d/b.png", "d/c.png")]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("empty", ["top//b.png", "top/d//b.PNG", "/b.parquet", "top/d///e/b.jpg"])
def test_media_at_a_key_with_an_empty_part_is_an_error(empty: str, bucket: str, indexed: Indexed) -> None:
    for key in ("top/a.png", "top/d/c.png", empty):
        put(bucket, key)
    for uri in (bucket, f"{bucket}/*"):
        with pytest.raises(InputError, match=f"object 'pictures/{empty}' cannot be read.*rename it"):
            indexed(Corpus(uri=(uri,)))


def test_a_classes_file_in_s3(bucket: str) -> None:
    fs, _ = filesystem(bucket)
    with fs.open_output_stream("pictures/classes.txt") as out:
        out.write(b"cat\r\ndog\r\n")
    corpus = Corpus(uri=("x",), classes=f"{bucket}/classes.txt")
    assert class_names(corpus, pa.table({"key": [0], "label": ["1"]})) == ("cat", "dog")
