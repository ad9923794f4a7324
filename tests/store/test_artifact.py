"""Artifacts are built once, resumed after a stop, and found by their identity; their bytes are reproducible."""

import dataclasses
import os
from dataclasses import dataclass, field

import pyarrow as pa
import pytest

from raylabel.errors import InputError
from raylabel.schema import PICKS, check
from raylabel.store.artifact import (
    ADDED_LATER,
    NOT_IDENTITY,
    Built,
    Root,
    digest,
    identity_of,
    write_bytes,
    write_table,
)
from raylabel.store.files import write_file


def test_an_artifact_is_built_once(tmp_path):
    root, built = Root.open(str(tmp_path)), []
    assert list(tmp_path.iterdir()) == []

    def build(draft):
        built.append(draft)
        return Built([write_bytes(draft.uri, "a.bin", b"abc")], {"found": 3})

    first = root.make("thing", {"x": 1}, build)
    again = root.make("thing", {"x": 1}, build)
    other = root.make("thing", {"x": 2}, build)
    assert len(built) == 2
    assert first == again and first.info["found"] == 3 and first.read("a.bin") == b"abc"
    assert first.uri != other.uri and {a.digest for a in root.named("thing")} == {first.digest, other.digest}
    assert first.files()[0].sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_stopped_build_is_not_an_artifact_and_is_resumed(tmp_path):
    root = Root.open(str(tmp_path))

    def stopped(draft):
        write_bytes(draft.uri, "part-0", b"kept")
        write_bytes(draft.scratch("x"), "y", b"deleted")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        root.make("thing", {"x": 1}, stopped)
    assert root.find("thing", {"x": 1}) is None and root.named("thing") == []

    def finished(draft):
        assert (tmp_path / os.path.basename(draft.uri) / "part-0").read_bytes() == b"kept"
        return Built([write_bytes(draft.uri, "part-1", b"")], {})

    done = root.make("thing", {"x": 1}, finished)
    assert [f.name for f in done.files()] == ["part-1"]  # readers use only files that the manifest lists
    assert not (tmp_path / os.path.basename(done.uri) / "scratch").exists()


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="cannot write .*No space left.*free space there"):
        write_file(str(tmp_path / "a" / "b"), b"data")
    assert list((tmp_path / "a").iterdir()) == []


@dataclass(frozen=True)
class Inner:
    k: int = 3


@dataclass(frozen=True)
class Config:
    inner: Inner = Inner()
    names: tuple[str, ...] = ("a", "b")
    actors: int = field(default=1, metadata=NOT_IDENTITY)


def test_an_identity_has_only_fields_that_change_bytes():
    assert identity_of(Config()) == {"inner": {"k": 3}, "names": ["a", "b"]}
    assert identity_of(Config(actors=7)) == identity_of(Config())
    assert digest(identity_of(Config(inner=Inner(k=4)))) != digest(identity_of(Config()))
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})


def test_equal_tables_give_equal_bytes_however_chunked(tmp_path):
    table = pa.table({"x": pa.array(range(1000), pa.int64())})
    chunked = pa.concat_tables([table.slice(i, 100) for i in range(0, 1000, 100)])
    one, two = (write_table(str(tmp_path), name, t) for name, t in (("one", table), ("two", chunked)))
    assert dataclasses.replace(one, name="") == dataclasses.replace(two, name="")


@pytest.mark.parametrize("uri", ["file/below", "ftp://host/x"])
def test_a_root_that_is_not_writable_is_an_error(tmp_path, uri):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="root|open"):
        Root.open(uri if "://" in uri else str(tmp_path / uri))


def test_a_table_of_another_schema_is_an_error():
    good = PICKS.empty_table()
    assert check(good, PICKS, "here") is good
    with pytest.raises(InputError, match="here: columns are"):
        check(good.drop_columns(["key"]), PICKS, "here")
    with pytest.raises(InputError, match="column 'label' is int64"):
        check(good.set_column(0, "label", pa.array([], pa.int64())), PICKS, "here")
    nulls = pa.table([pa.array([None], f.type) for f in PICKS], names=PICKS.names)
    with pytest.raises(InputError, match="has nulls"):
        check(nulls, PICKS, "here")


@dataclass(frozen=True, kw_only=True)
class Old:
    size: int = 3


@dataclass(frozen=True, kw_only=True)
class New(Old):
    mode: str = field(default="plain", metadata=ADDED_LATER)
    tags: list[str] = field(default_factory=list, metadata=ADDED_LATER)
    steps: int = 1


def test_a_field_added_later_is_in_the_identity_only_if_it_is_set():
    assert identity_of(New()) == {"size": 3, "steps": 1}
    assert identity_of(New(mode="other")) == {"size": 3, "steps": 1, "mode": "other"}
    assert identity_of(New(tags=["a"])) == {"size": 3, "steps": 1, "tags": ["a"]}
    assert digest({**identity_of(Old()), "steps": 1}) == digest(identity_of(New()))
    assert identity_of([New(size=4)]) == [{"size": 4, "steps": 1}]


def test_an_artifact_with_a_former_identity_is_used(tmp_path):
    root, built = Root.open(str(tmp_path)), []

    def build(draft):
        built.append(os.path.basename(draft.uri))
        return Built([write_bytes(draft.uri, "a", b"")], {})

    new, older, oldest = ({"x": 1, "version": version} for version in (3, 2, 1))
    old = root.make("thing", older, build)
    assert root.make("thing", new, build, former=[older, oldest]) == old
    root.make("thing", oldest, build)
    assert root.make("thing", new, build, former=[oldest, older]).digest == digest(oldest)  # in their order
    assert root.make("other", new, build, former=[older]).digest == digest(new)
    assert root.make("thing", new, build).digest == digest(new)
    assert root.make("thing", new, build, former=[older, oldest]).digest == digest(new)  # it is complete itself
    assert len(built) == 4


def test_a_draft_with_a_former_identity_is_continued(tmp_path):
    root, new, old = Root.open(str(tmp_path)), {"x": 1}, {"x": 1, "unused": 2}

    def stopped(draft):
        write_bytes(draft.uri, "part-0", b"kept")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        root.make("thing", old, stopped)

    def finished(draft):
        assert (tmp_path / os.path.basename(draft.uri) / "part-0").read_bytes() == b"kept"
        return Built([write_bytes(draft.uri, "part-1", b"")], {})

    done = root.make("thing", new, finished, former=[old])
    assert done.digest == digest(old) and done.identity == old
    assert root.make("thing", new, finished, former=[old]) == done and len(list(tmp_path.iterdir())) == 1
    # A draft of the identity itself is continued even if one with a former identity exists.
    with pytest.raises(KeyboardInterrupt):
        root.make("thing", {"y": 1}, stopped)
    with pytest.raises(KeyboardInterrupt):
        root.make("thing", {"y": 1, "unused": 2}, stopped)
    assert root.make("thing", {"y": 1}, finished, former=[{"y": 1, "unused": 2}]).digest == digest({"y": 1})
