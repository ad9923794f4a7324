"""Every result is a folder `<name>-<digest>` that is complete once its manifest exists, and never changes after that.

The digest hashes what changes the bytes (settings, digests of inputs) and nothing else (workers, paths). The manifest
(files, rows, bytes, sha256) is written last, in one atomic step; readers read only what it lists. Naming the output of
a step by the hash of its settings and inputs is an idea of marin's StepSpec and, before it, of Nix.
"""

import dataclasses
import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from raylabel.compute.watchdog import progressed
from raylabel.errors import InputError, find_input_error
from raylabel.store.encoding import encode_table
from raylabel.store.files import (
    delete_folder,
    filesystem,
    is_local,
    read_file,
    reading,
    sweep,
    write_file,
    writing,
)

MANIFEST = "manifest.json"
WHOLE = 4 << 20  # bytes of a file up to which it is read in one request, of whatever columns
RECIPE = "recipe.json"
NOT_IDENTITY = {
    "identity": False
}  # metadata of a config field that changes how the work is done, but no byte of the result
# Metadata of a config field that a later version of raylabel added. While it has its default it is left out of the
# identity, so that existing artifacts are found. Its default must mean what was done before the field existed.
ADDED_LATER = {"added_later": True}


@dataclass(frozen=True)
class File:
    """One entry of a manifest."""

    name: str
    rows: int
    bytes: int
    sha256: str


def write_table(folder: str, name: str, *groups: pa.Table) -> File:
    """Writes tables of one schema as one parquet file, a row group each, atomically; equal tables give equal bytes."""
    return _put(folder, name, encode_table(*groups), sum(g.num_rows for g in groups))


def write_bytes(folder: str, name: str, data: bytes | memoryview) -> File:
    """Writes a file that is not a table, atomically; its manifest entry has 0 rows."""
    return _put(folder, name, data, 0)


def _put(folder: str, name: str, data: bytes | memoryview, rows: int) -> File:
    write_file(f"{folder}/{name}", data)
    return File(name, rows, len(data), hashlib.sha256(data).hexdigest())


@dataclass(frozen=True)
class Artifact:
    """A complete result. `uri` is its folder; `name`, `digest` and everything in `manifest` never change."""

    uri: str
    name: str
    digest: str

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return json.loads(read_file(f"{self.uri}/{MANIFEST}"))

    @property
    def info(self) -> dict[str, Any]:
        """What the build measured: counts, seconds, anything that is not part of the identity."""
        return self.manifest["info"]

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What the digest hashes."""
        return json.loads(read_file(f"{self.uri}/{RECIPE}"))["identity"]

    def files(self, prefix: str = "") -> list[File]:
        """The listed files whose name starts with `prefix`, in name order."""
        return [File(**f) for f in self.manifest["files"] if f["name"].startswith(prefix)]

    def read(self, name: str) -> bytes:
        with reading(f"{self.uri}/{name}"):
            return read_file(f"{self.uri}/{name}")

    @contextmanager
    def opened(self, file: File) -> Iterator[pq.ParquetFile]:
        """A listed parquet file. A small one is read in one request, of whatever columns."""
        fs, path = filesystem(self.uri)
        with reading(f"{self.uri}/{file.name}"):
            whole = file.bytes <= WHOLE
            source = pa.BufferReader(self.read(file.name)) if whole else fs.open_input_file(f"{path}/{file.name}")
            with source, pq.ParquetFile(source, pre_buffer=True) as opened:
                yield opened

    def table(self, prefix: str, schema: pa.Schema, columns: list[str] | None = None) -> pa.Table:
        """All listed parquet files that start with `prefix`, as one table in memory. For small tables."""
        tables = []
        for file in self.files(prefix):
            with self.opened(file) as opened:
                tables.append(opened.read(columns))
        if columns is not None:
            schema = pa.schema([schema.field(c) for c in columns])
        return pa.concat_tables(tables) if tables else schema.empty_table()


@dataclass(frozen=True)
class Draft:
    """A result that is being built, in its final folder, which may contain files of a run that was stopped."""

    uri: str

    def scratch(self, name: str) -> str:
        """A folder for files that only the build needs; deleted before the manifest is written."""
        return f"{self.uri}/scratch/{name}"

    def discard(self) -> None:
        """Deletes all that was built, for a build that finds that its input has changed."""
        delete_folder(self.uri)


@dataclass(frozen=True)
class Built:
    """What a build returns: the files of the artifact, and its info."""

    files: list[File]
    info: Mapping[str, Any]


def digest(identity: Mapping[str, Any]) -> str:
    """12 hex digits that name this identity; equal for equal JSON, in any order of keys."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def write_recipe(folder: str, name: str, identity: Mapping[str, Any]) -> None:
    """Writes what the digest in the name of a folder hashes."""
    recipe = {"name": name, "identity": dict(identity)}
    write_file(f"{folder}/{RECIPE}", json.dumps(recipe, indent=2, ensure_ascii=False).encode())


def identity_of(config: Any) -> Any:
    """A config dataclass as plain JSON, without the fields marked `metadata=NOT_IDENTITY`, which change no byte, and
    those marked `metadata=ADDED_LATER` that hold their default."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        kept = [f for f in dataclasses.fields(config) if f.metadata.get("identity", True) and not _is_absent(f, config)]
        return {f.name: identity_of(getattr(config, f.name)) for f in kept}
    if isinstance(config, (list, tuple)):
        return [identity_of(x) for x in config]
    return config


def _is_absent(field: dataclasses.Field, config: Any) -> bool:
    """Whether the field was added later and has its default."""
    if not field.metadata.get("added_later"):
        return False
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    return getattr(config, field.name) == default


@dataclass(frozen=True)
class Root:
    """The folder that holds all artifacts of a project; several runs share what they have in common."""

    uri: str

    @classmethod
    def open(cls, uri: str) -> Self:
        """The root at `uri`, created if it does not exist. InputError if it is not writable."""
        fs, path = filesystem(uri)
        full = path if is_local(uri) else uri.rstrip("/")
        probe = f"{full}/.probe-{uuid.uuid4().hex}"
        try:
            with writing(full):
                fs.create_dir(path, recursive=True)
                write_file(probe, b"")
                fs.delete_file(filesystem(probe)[1])
        except InputError as error:
            raise InputError(f"cannot write to root '{uri}': {error}; or give another --root") from error
        return cls(full)

    def workers_folder(self) -> str:
        """A new folder for the state of training workers that stay for several artifacts."""
        return f"{self.uri}/.workers-{uuid.uuid4().hex}"

    def find(self, name: str, identity: Mapping[str, Any]) -> Artifact | None:
        """The artifact, if it is complete."""
        artifact = Artifact(f"{self.uri}/{name}-{digest(identity)}", name, digest(identity))
        try:
            artifact.manifest  # noqa: B018  (reads and caches it; FileNotFoundError if there is none)
        except FileNotFoundError:
            return None
        return artifact

    def named(self, name: str) -> list[Artifact]:
        """Every complete artifact of that name, in digest order."""
        fs, path = filesystem(self.uri)
        found = []
        with reading(self.uri):
            for info in fs.get_file_info(pafs.FileSelector(path)):
                stem, _, tail = os.path.basename(info.path).rpartition("-")
                if stem == name and fs.get_file_info(f"{info.path}/{MANIFEST}").is_file:
                    found.append(Artifact(f"{self.uri}/{stem}-{tail}", name, tail))
        return sorted(found, key=lambda a: a.digest)

    def has(self, file: str) -> bool:
        """Whether the root has a file of that name, relative to it."""
        fs, path = filesystem(f"{self.uri}/{file}")
        return fs.get_file_info(path).is_file

    def begins(self, folder: str) -> None:
        """Called before a folder of the root is begun or continued. Does nothing here; see store/uses.py."""

    def settle(
        self, name: str, identity: Mapping[str, Any], former: Sequence[Mapping[str, Any]] = ()
    ) -> Mapping[str, Any]:
        """The first of the identity and the former ones whose artifact is complete, or else was begun; else itself."""
        for file in (MANIFEST, RECIPE) if former else ():
            for one in (identity, *former):
                if self.has(f"{name}-{digest(one)}/{file}"):
                    return one
        return identity

    def make(
        self,
        name: str,
        identity: Mapping[str, Any],
        build: Callable[[Draft], Built],
        former: Sequence[Mapping[str, Any]] = (),
    ) -> Artifact:
        """The artifact of that identity, built if it does not exist.

        `build` writes its files into the draft's folder, each atomically. The folder may contain files of a run that
        was stopped. `seconds`, the wall time of the build that completed, is added to its info. `former`: identities
        that earlier versions of raylabel gave to the same result: if such an artifact exists it is returned, and if one
        was begun it is completed, under its former digest. Its `build` must be able to continue in that draft.
        """
        identity = self.settle(name, identity, former)
        if done := self.find(name, identity):
            return done
        draft = Draft(f"{self.uri}/{name}-{digest(identity)}")
        self.begins(f"{name}-{digest(identity)}")
        write_recipe(draft.uri, name, identity)
        progressed(name)
        start = time.monotonic()
        try:
            built = build(draft)
        except Exception as error:
            if (found := find_input_error(error)) and found is not error:
                raise found from error  # the remote process's own error, without what Ray wraps around it
            raise
        progressed()
        info = {"seconds": round(time.monotonic() - start, 3), **built.info}
        delete_folder(f"{draft.uri}/scratch")
        sweep(draft.uri)
        files = [dataclasses.asdict(f) for f in sorted(built.files, key=lambda f: f.name)]
        manifest = {"name": name, "digest": digest(identity), "files": files, "info": info}
        write_file(f"{draft.uri}/{MANIFEST}", json.dumps(manifest, indent=2, ensure_ascii=False).encode())
        artifact = self.find(name, identity)
        assert artifact is not None
        return artifact
