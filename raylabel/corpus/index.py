"""A corpus as a table of SHARDS, and the fixed units of work in it."""

import hashlib
import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from raylabel.artifact import Artifact, Built, Draft, Root, digest, identity_of, write_table
from raylabel.corpus.config import THREADS, Corpus, Format, is_image, locate, read_lines
from raylabel.corpus.shards import Shards
from raylabel.corpus.tar import TarReader
from raylabel.errors import InputError
from raylabel.schema import SHARDS, check

RUN = 1024  # loose files of one shard
EDGE = 1 << 16  # bytes at either end of a file that its fingerprint covers; the last ones hold a parquet's footer


def index(corpus: Corpus) -> pa.Table:
    """SHARDS of the corpus, numbered in the natural order of their URIs (part-9 before part-10).

    The `uri` of loose files is their folder, with a slash at its end, and `paths` are relative to it; or it is their
    list, and `paths` are lines of it, with their label if they have one.
    InputError, naming the thing and the mend, if nothing is there, forms are mixed, a file cannot be read or lacks
    the media column, or the corpus has no rows.
    """
    found = sorted({source for uri in corpus.uri for source in _resolve(uri, corpus.format)}, key=_natural)
    forms = sorted({form for _, form in found})
    if len(forms) > 1:
        raise InputError(f"{_name(corpus)} mixes forms ({', '.join(forms)}): give one form only, or set format")
    jobs = [(uri, form, run) for uri, form in found for run in (_runs(uri) if form == "files" else [([], [])])]
    with ThreadPoolExecutor(THREADS) as pool:
        rows = list(pool.map(lambda job: _shard(corpus, *job), jobs))
    shards = pa.Table.from_pylist([{"shard": i, **row} for i, row in enumerate(rows)], schema=SHARDS)
    if not sum(row["rows"] for row in rows):
        raise InputError(f"{_name(corpus)} is empty: its {len(rows)} shards hold 0 rows; give a corpus with samples")
    return shards


def verify_packed(shards: Shards) -> None:
    """`verify` for parquet files and tars; a loose file that vanished costs one sample, a reject, and not the run."""
    if shards.format != "files":
        verify(shards)


def verify(shards: Shards) -> None:
    """Takes all fingerprints again; InputError naming the first shard that changed or vanished since it was indexed."""

    def changed(shard: dict[str, Any]) -> str | None:
        try:
            now = _stat(shard["uri"], shard["paths"])
        except FileNotFoundError:
            return "vanished"
        return None if now == (shard["bytes"], shard["fingerprint"]) else "changed"

    with ThreadPoolExecutor(THREADS) as pool:
        for first in range(0, len(shards), 64):
            rows = [shards.row(number) for number in range(first, min(first + 64, len(shards)))]
            for shard, what in zip(rows, pool.map(changed, rows), strict=True):
                if what:
                    where = f"'{shard['uri']}'" + (f" ({shard['paths'][0]} …)" if shard["paths"] else "")
                    raise InputError(f"{where} {what} since it was indexed: put it back, or index the corpus anew")


def _name(corpus: Corpus) -> str:
    return "corpus " + ", ".join(f"'{uri}'" for uri in corpus.uri)


def _natural(source: tuple[str, str]) -> tuple[list[str | int], str]:
    """Orders digits by their number; the text itself keeps a01 and a1 apart."""
    return [int(part) if part.isdigit() else part for part in re.split("([0-9]+)", source[0])], source[0]


def _form(name: str) -> Format | None:
    """The form that a file in a folder is of, by its extension."""
    extension = name.rpartition(".")[2].lower()
    if extension in ("parquet", "tar"):
        return "parquet" if extension == "parquet" else "webdataset"
    return "files" if is_image(name) else None


def _resolve(uri: str, form: str) -> Iterator[tuple[str, Format]]:
    """(URI, form) of what `uri` stands for: parquet files, tars, folders (with a slash at the end) and lists."""
    fs, path, prefix = locate(uri)
    try:
        info = fs.get_file_info(path)
        matches = [info] if info.type != pafs.FileType.NotFound else _glob(fs, path)
        if not matches:
            raise InputError(f"nothing found at '{uri}': give a file, a folder or a pattern that exists")
        for match in matches:
            place = prefix + match.path
            if match.type == pafs.FileType.Directory:
                yield from _resolve_folder(fs, match.path, prefix, form)
            elif match.path.lower().endswith(".txt") and form in ("auto", "files"):
                yield place, "files"
            elif form == "parquet" or form == "webdataset":
                yield place, form
            elif (guess := _form(match.path)) in ("parquet", "webdataset") and form == "auto":
                yield place, guess
            else:
                hint = "its folder" if guess == "files" else "a *.parquet, an uncompressed *.tar"
                raise InputError(f"'{place}' cannot be read as corpus of format '{form}': give {hint} or a *.txt list")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot look for '{uri}': {error}") from error


def _resolve_folder(fs: pafs.FileSystem, folder: str, prefix: str, form: str) -> Iterator[tuple[str, Format]]:
    found: list[tuple[str, Format]] = []
    for path, _ in _walk(fs, folder):
        if (kind := _form(path)) is not None and form in ("auto", kind):
            found.append((path, kind))
    if not found:
        what = "image, *.parquet or *.tar file" if form == "auto" else f"file of format '{form}'"
        raise InputError(f"nothing found at '{prefix}{folder}': the folder holds no {what}")
    if any(kind == "files" for _, kind in found):
        yield f"{prefix}{folder}/", "files"
    for path, kind in found:
        if kind != "files":
            yield f"{prefix}{folder}/{path}", kind


def _walk(fs: pafs.FileSystem, folder: str) -> list[tuple[str, int]]:
    """(path relative to the folder, bytes) of all files below it, sorted; bytes are -1 for what is no plain file."""
    if isinstance(fs, pafs.LocalFileSystem):
        files = list(_walk_local(folder, "", frozenset([os.path.realpath(folder)])))
    else:
        infos = fs.get_file_info(pafs.FileSelector(folder, recursive=True))
        files = [(info.path[len(folder) + 1 :], info.size) for info in infos if info.is_file]
    # Names with a leading dot are other programs' (.ipynb_checkpoints, macOS's ._a.jpg).
    return sorted(f for f in files if not f[0].startswith(".") and "/." not in f[0])


def _walk_local(folder: str, below: str, above: frozenset[str]) -> Iterator[tuple[str, int]]:
    """As `_walk`. Arrow's own walk leaves out links that lead nowhere and walks in circles where a link leads back."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                real = os.path.realpath(entry.path)
                if real not in above:
                    yield from _walk_local(entry.path, f"{below}{entry.name}/", above | {real})
            elif any("\ud800" <= letter <= "\udfff" for letter in below + entry.name):
                raise InputError(f"the name of {os.fsencode(entry.path)!r} is not UTF-8: rename the file")
            else:
                yield below + entry.name, entry.stat().st_size if entry.is_file() else -1


def _glob(fs: pafs.FileSystem, pattern: str) -> list[pafs.FileInfo]:
    """What matches the pattern, sorted; a folder is listed for each of its parts that has a wildcard."""
    parts = pattern.split("/")
    wild = next((i for i, part in enumerate(parts) if set(part) & set("*?[")), len(parts))
    level = [fs.get_file_info("/".join(parts[:wild]) or "/")]
    for part in parts[wild:]:
        folders = [info.path for info in level if info.type == pafs.FileType.Directory]
        listed = [info for folder in folders for info in fs.get_file_info(pafs.FileSelector(folder))]
        level = [i for i in listed if fnmatchcase(i.base_name, part) and not i.base_name.startswith(".")]
    return sorted((i for i in level if i.type != pafs.FileType.NotFound), key=lambda info: info.path)


def _runs(uri: str) -> Iterator[tuple[list[str], list[int]]]:
    """Runs of (paths, or lines of the list; their bytes if known already) of a folder's or a list's loose files."""
    if uri.endswith("/"):
        fs, path, _ = locate(uri)
        files = [(name, size) for name, size in _walk(fs, path) if is_image(name)]
        names, sizes = [name for name, _ in files], [size for _, size in files]
    else:
        names, sizes = list(_list_lines(uri)), []
    for first in range(0, len(names), RUN):
        yield names[first : first + RUN], sizes[first : first + RUN]


def _list_lines(uri: str) -> Iterator[str]:
    for number, line in enumerate(read_lines(uri), 1):
        path, *labels = line.split("\t")
        if not path or path.startswith("/") or "://" in path or len(labels) > 1:
            raise InputError(
                f"line {number} of '{uri}' is {line!r}: give a path relative to the list's folder, then at most a TAB "
                "and a label"
            )
        yield line


def file_root(uri: str) -> str:
    """The folder that the paths of loose files are relative to."""
    return uri.rpartition("/")[0]


def _shard(corpus: Corpus, uri: str, form: Format, run: tuple[list[str], list[int]]) -> dict[str, Any]:
    """A row of SHARDS but for its number."""
    paths, sizes = run
    try:
        size, fingerprint = _stat(uri, paths, sizes)
        if form == "files":
            rows = len(paths)
        elif form == "webdataset":
            with TarReader(uri) as tar:
                rows = sum(1 for _ in tar.samples())
        else:
            rows = _parquet_rows(corpus, uri)
    except OSError as error:
        raise InputError(f"cannot read '{uri}': {error}; mend it or take it out") from error
    return {"uri": uri, "format": form, "rows": rows, "bytes": size, "fingerprint": fingerprint, "paths": paths}


def _parquet_rows(corpus: Corpus, uri: str) -> int:
    fs, path, _ = locate(uri)
    with fs.open_input_file(path) as source:
        try:
            with pq.ParquetFile(source) as file:
                schema, rows = file.schema_arrow, file.metadata.num_rows
        except pa.ArrowException as error:
            raise InputError(f"cannot read the parquet footer of '{uri}': {error}; mend it or take it out") from error
    column = corpus.media_column
    if column not in schema.names:
        raise InputError(f"no column '{column}' in '{uri}': it has {', '.join(schema.names)}; set media to one of them")
    kind = schema.field(column).type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if kind not in (pa.binary(), pa.large_binary()):
        raise InputError(
            f"column '{column}' of '{uri}' is {schema.field(column).type}: expected encoded bytes "
            "(binary, large_binary or struct<bytes, path>); set media to the column that has them"
        )
    return rows


def _stat(uri: str, paths: list[str], sizes: Sequence[int] = ()) -> tuple[int, str]:
    """(bytes, fingerprint) of a shard. Neither the place nor the time of a file is part of it.

    A parquet or tar: of its size, first and last 64 KiB. Loose files: of each path (or line) and size, -1 if missing.
    FileNotFoundError if a parquet or tar is not there.
    """
    digest = hashlib.blake2b(digest_size=16)
    if paths:
        fs, root, _ = locate(file_root(uri))
        if not sizes:
            places = [file_path(root, uri, line) for line in paths]
            sizes = [-1 if info.size is None else info.size for info in fs.get_file_info(places)]
        for path, size in zip(paths, sizes, strict=True):
            digest.update(f"{size} {path}\n".encode())
        return sum(max(0, size) for size in sizes), digest.hexdigest()
    fs, path, _ = locate(uri)
    with fs.open_input_file(path) as file:
        size = file.size()
        digest.update(f"{size}\n".encode())
        digest.update(file.read_at(min(size, EDGE), 0))
        digest.update(file.read_at(min(size, EDGE), max(0, size - EDGE)))
    return size, digest.hexdigest()


def file_path(root: str, uri: str, line: str) -> str:
    """The path, in its file system, of a loose file; `line` is its path in the folder or its line of the list."""
    return f"{root}/{line}" if uri.endswith("/") else posixpath.normpath(f"{root}/{line.partition(chr(9))[0]}")


def index_corpus(root: Root, name: str, corpus: Corpus) -> Artifact:
    """SHARDS of the corpus as it is now, as artifact `shards-<name>`.

    info["content"] names what is in it, wherever it lies: the identity that everything made from the corpus builds on.
    InputError if a shard that was indexed in this root before has changed since: what was made from it is stale.
    """
    shards = check(index(corpus), SHARDS, ", ".join(corpus.uri))
    _guard(root, name, shards)
    content = {
        "format": shards.column("format")[0].as_py(),
        "media": corpus.media,
        "label": corpus.label,
        "classes": read_lines(corpus.classes) if corpus.classes else None,
        "shards": shards.select(["rows", "bytes", "fingerprint"]).to_pylist(),
    }
    info = {"content": digest(content), "samples": sum(shards.column("rows").to_pylist())}

    def build(draft: Draft) -> Built:
        return Built([write_table(draft.uri, "shards.parquet", shards)], info)

    places = [[row["uri"], row["fingerprint"]] for row in shards.select(["uri", "fingerprint"]).to_pylist()]
    return root.make(f"shards-{name}", {"corpus": identity_of(corpus), "places": places}, build)


def _guard(root: Root, name: str, shards: pa.Table) -> None:
    now = {(r["uri"], *r["paths"][:1]): r["fingerprint"] for r in shards.to_pylist()}
    for earlier in root.named(f"shards-{name}"):
        for row in earlier.table("shards", SHARDS).to_pylist():
            place = (row["uri"], *row["paths"][:1])
            if now.get(place, row["fingerprint"]) != row["fingerprint"]:
                raise InputError(
                    f"shard '{row['uri']}' changed since it was indexed: restore it, or, if the change is meant, "
                    f"delete {earlier.uri} and run again"
                )
