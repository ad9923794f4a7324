"""Notices loose files that were edited in place and have as many bytes as before, after they were scored or trained on.

The fingerprint of loose files is a hash of their paths and sizes: a listing gives these without a request per file, and
a corpus that is copied, or whose files are touched, keeps its SCORES. So an edited file of the same size changes no
fingerprint. A listing also gives the time of the last change of each file, and that of an edited file is later than its
SCORES. But so is that of a copied or touched file, and to read a whole corpus again takes as long as to score it.
Therefore the times only say which files to read, and the digests in SCORES decide. In each run of files the
newest one is a candidate, since a file is edited after the corpus was copied, and of these the newest `CHECKED` are
read.

So an edited file is noticed unless `CHECKED` other runs have newer files, another file of its run was written in the
same second (S3 gives whole seconds), or it has an older time (a copy of an edited file that keeps its times). Of a
corpus that was copied after many of its files were edited, `CHECKED` files are a sample. A corpus that did not change
costs three requests per SCORES in the root.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from raylabel.compute.tasks import fetch
from raylabel.corpus import Corpus, Shards, Unit, read_rows
from raylabel.corpus.config import THREADS
from raylabel.corpus.sample import media_digest, sample_digest
from raylabel.errors import InputError
from raylabel.inference.reuse import Earlier, Piece, find_shards, parts_of
from raylabel.schema import DIGESTS, make_key, split_key
from raylabel.store.artifact import MANIFEST, RECIPE, Artifact, Root
from raylabel.store.files import filesystem, reading

CHECKED = {"image": 64, "video": 8}  # files that are read, at most, for each SCORES in the root
# Between reading the first samples of SCORES and writing their file, and between the clocks of two stores.
SLACK = 600 * 10**9  # nanoseconds


def check_edited(root: Root, corpus: Corpus, shards: Shards, newest: pa.Table, name: str = "scores") -> None:
    """InputError that names a file that was edited after SCORES or the EXAMPLES of the labeled set were made from it.
    `newest`: (time of the last change, row) of the newest file of each shard, as in survey.py. `name`: `pictures` to
    look at PICTURES in the place of SCORES."""
    modified, row = (newest.column(name).to_numpy() for name in ("modified", "row"))

    def candidates(later: np.ndarray) -> list[Unit]:
        """The newest files, each as a unit of one row."""
        some = np.flatnonzero(later)
        some = some[np.argsort(-modified[some], kind="stable")][: CHECKED[corpus.kind]]
        return [Unit(shard, int(row[shard]), 1) for shard in some.tolist()]

    labeled = [*root.named("media-labeled"), *root.named("examples-labeled")]  # the latter if they have their media
    for made in [*root.named(name), *(one for one in labeled if one.files("digests-"))]:
        later = modified > _begun(made) - SLACK
        if not later.any():
            continue
        known: list[Known] = []
        if made.name == name:
            if before := find_shards(root, made):
                earlier = Earlier(made, before, shards, *made.identity["unit"])
                pieces = [piece for unit in candidates(later & earlier.known) if (piece := earlier.find(unit))]
                known = [(make_key(piece.unit.shard, piece.unit.first), piece) for piece in pieces]
        elif made.identity["shards"] == shards.artifact.info["content"]:
            digests = made.table("digests-", DIGESTS)
            keys = pa.array([make_key(unit.shard, unit.first) for unit in candidates(later)], pa.int64())
            found = digests.filter(pc.is_in(digests.column("key"), value_set=keys))  # pyright: ignore
            known = [(one["key"], one["digest"]) for one in found.to_pylist()]
        if known and (edited := fetch(_find_edited.remote(corpus, shards, known))):
            raise InputError(
                f"'{edited}' was edited after {made.uri} was made: it has as many bytes as before, but other ones; "
                "restore it, or give it another name, or delete that folder to read all files again"
            )


def _begun(made: Artifact) -> int:
    """When the building of an artifact began, or wrote its first file, in nanoseconds since 1970."""
    fs, path = filesystem(made.uri)
    first = [file.name for prefix in ("scores-", "pictures-", "media-", "examples-") for file in made.files(prefix)[:1]]
    with reading(made.uri):
        infos = fs.get_file_info([f"{path}/{name}" for name in (RECIPE, MANIFEST, *first)])
    return min(info.mtime_ns for info in infos if info.mtime_ns)


Known = tuple[int, bytes | Piece]
"""The key of a sample, and its digest when it was read, or where that is."""


@ray.remote(num_cpus=0.5)
def _find_edited(corpus: Corpus, shards: Shards, known: list[Known]) -> str | None:
    """The first of these samples whose digest is another one now."""

    def edited(one: Known) -> str | None:
        (shard, row), digest = split_key(one[0]), _digest(one[1]) if isinstance(one[1], Piece) else one[1]
        (sample,) = read_rows(corpus, shards.row(shard), [row])
        if digest is None or sample.media is None:
            return None
        return sample.uri if sample_digest(media_digest(sample.media), sample.segment) != digest else None

    with ThreadPoolExecutor(THREADS if corpus.kind == "image" else 2) as pool:
        return next((uri for uri in pool.map(edited, known) if uri), None)


def _digest(piece: Piece) -> bytes | None:
    """The digest of a piece of one sample; None if it was rejected."""
    (row,), (part,) = parts_of(piece)
    fs, path = filesystem(piece.folder)
    name = piece.folder.rpartition("/")[2].rpartition("-")[0]
    file = f"{path}/{name}-{part:06d}.parquet"
    with reading(piece.folder):
        key = pc.field("key") == make_key(piece.layout.shard, int(row))
        found: Any = pq.read_table(file, columns=["digest"], filesystem=fs, filters=key)
    return found.column("digest")[0].as_py() if len(found) else None
