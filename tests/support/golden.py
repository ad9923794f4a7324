"""The golden corpus of the fault tests, and the files that any run over it must leave, whatever faults happened.

The expected files are computed from the media only, in plain numpy: pixels by Pillow, lists by a sort of all
candidates, files by pyarrow. None of it uses the code under test.
"""

import hashlib
import io
import json
import tarfile
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from chaos_teacher import CLASSES, SIDE, P, rank
from PIL import Image

K = 100
SLICE = 64  # classes in a file of PICKS
SHARES = (0.23, 0.31, 0.38, 0.62, 0.80, 0.97)  # where one shard ends and the next begins

# Samples that are commands for the parsers of poison.py → reject reason. To other parsers they are invalid media.
COMMANDS = {
    "!segfault": "decoder_crash",
    "!abort": "decoder_crash",
    "!exit": "decoder_crash",
    "!eat": "out_of_memory",
    "!eat_outside_python": "decoder_crash",
}
SLOW_COMMANDS = {"!hang": "timeout", "!spin": "timeout"}  # each takes 20 seconds


@dataclass(frozen=True)
class Golden:
    """Media in the order of their keys, divided into shards."""

    media: list[bytes | None]
    reasons: dict[int, str]
    """Position → reject reason, of all samples that must be rejected."""
    crashing: int
    """The position of the image that begins with CRASHING; there is no copy of it."""

    @cached_property
    def ends(self) -> np.ndarray:
        """The position after each shard's last sample, int64 [S]."""
        return np.array([int(len(self.media) * share) for share in (*SHARES, 1)])

    @cached_property
    def keys(self) -> np.ndarray:
        """The keys, int64 [N]."""
        position = np.arange(len(self.media))
        shard = np.searchsorted(self.ends, position, side="right")
        return shard << 32 | (position - np.concatenate([[0], self.ends])[shard])

    @cached_property
    def scored(self) -> np.ndarray:
        """The positions of the samples that can be scored."""
        return np.array([i for i in range(len(self.media)) if i not in self.reasons])

    @cached_property
    def ranked(self) -> tuple[np.ndarray, np.ndarray]:
        """(classes, log-odds) of the samples in `scored`, each [., P]."""
        pixels = np.stack([_pixels(self.media[i] or b"") for i in self.scored])
        classes, log_odds, _ = rank(pixels)
        return classes, log_odds

    def copies(self, lost: Collection[int] = ()) -> dict[int, int]:
        """Key of each copy → key of the original, which is the first in the corpus."""
        first: dict[bytes | None, int] = {}
        found = {}
        for i in self.scored.tolist():
            if i not in lost:
                original = first.setdefault(self.media[i], i)
                if original != i:
                    found[int(self.keys[i])] = int(self.keys[original])
        return found

    def picks(self, lost: Collection[int] = ()) -> dict[str, str]:
        """Name of each file of PICKS → its sha256, if the samples `lost` are rejected too."""
        copies = self.copies(lost)
        keep = np.array([i not in lost and int(self.keys[i]) not in copies for i in self.scored.tolist()])
        key = self.keys[self.scored[keep]].repeat(P)
        label, score = (values[keep].ravel() for values in self.ranked)
        order = np.lexsort((key, -score, label))
        label, score, key = label[order], score[order], key[order]
        position = np.arange(len(label)) - np.searchsorted(label, label) + 1
        columns = {"label": label, "rank": position.astype(np.int32), "score": score, "key": key}
        schema = pa.schema(
            [pa.field(name, pa.from_numpy_dtype(values.dtype), nullable=False) for name, values in columns.items()]
        )
        files = {}
        for number, low in enumerate(range(0, CLASSES, SLICE)):
            some = (position <= K) & (low <= label) & (label < low + SLICE)
            sink = io.BytesIO()
            table = pa.Table.from_arrays([pa.array(values[some]) for values in columns.values()], schema=schema)
            pq.write_table(table, sink, compression="zstd", row_group_size=len(table))
            files[f"picks-{number:05d}.parquet"] = hashlib.sha256(sink.getvalue()).hexdigest()
        return files

    def write_parquet(self, folder: Path) -> list[str]:
        """Writes the corpus as parquet files; returns their paths."""
        paths = []
        for shard, media in enumerate(self._shards()):
            path = folder / f"{shard}.parquet"
            pq.write_table(pa.table({"image": pa.array(media, pa.binary())}), path, row_group_size=300)
            paths.append(str(path))
        return paths

    def write_tar(self, folder: Path) -> list[str]:
        """Writes the corpus as WebDataset tars; returns their paths. A sample without media has only a label."""
        paths = []
        for shard, media in enumerate(self._shards()):
            path = folder / f"{shard}.tar"
            with tarfile.open(path, "w") as tar:
                for row, data in enumerate(media):
                    member = tarfile.TarInfo(f"{row:06d}." + ("cls" if data is None else "jpg"))
                    member.size = len(data or b"")
                    tar.addfile(member, io.BytesIO(data or b""))
            paths.append(str(path))
        return paths

    def _shards(self) -> list[list[bytes | None]]:
        return [self.media[a:b] for a, b in zip([0, *self.ends[:-1]], self.ends, strict=True)]

    def check(self, root: Path, reasons: Mapping[int, str] | None = None) -> None:
        """AssertionError if the root does not contain exactly the files that a run over this corpus must leave.

        `reasons`: position → reject reason, of samples that must be rejected for a reason that is not in
        `self.reasons`.
        """
        expected = self.reasons | dict(reasons or {})
        lost = expected.keys() - self.reasons.keys()
        scores, duplicates, picks = (_only(root, name) for name in ("scores", "duplicates", "picks"))
        _check_folders(root)

        assert {f.name: _sha256(f) for f in picks.glob("picks-*")} == self.picks(lost)

        copies = self.copies(lost)
        info, n = _manifest(scores)["info"], len(self.media)
        found = (info["samples"], info["scored"], info["rejected"], info["reasons"])
        assert found == (n, n - len(expected), len(expected), dict(Counter(expected.values())))
        assert _manifest(duplicates)["info"]["duplicates"] == len(copies)
        table = _table(duplicates, "duplicates-")
        assert dict(zip(table["key"].to_pylist(), table["original"].to_pylist(), strict=True)) == copies

        table = _table(scores, "rejects-")
        rejects = dict(zip(table["key"].to_pylist(), table["reason"].to_pylist(), strict=True))
        assert rejects == {int(self.keys[i]): reason for i, reason in expected.items()} and len(table) == len(expected)

        keep = np.array([i not in lost for i in self.scored.tolist()])
        table = _table(scores, "scores-")
        assert np.array_equal(table["key"].to_numpy(), self.keys[self.scored[keep]])  # each key once, in order
        for name, values in zip(("classes", "log_odds"), self.ranked, strict=True):
            assert np.array_equal(table[name].combine_chunks().flatten().to_numpy(), values[keep].ravel())
        media = [self.media[i] or b"" for i in self.scored[keep]]
        assert table["digest"].to_pylist() == [hashlib.blake2b(data, digest_size=16).digest() for data in media]


def _pixels(data: bytes) -> np.ndarray:
    """The central square, uint8 [SIDE, SIDE, 3], by Pillow."""
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    top, left = (round((side - SIDE) / 2) for side in pixels.shape[:2])
    return pixels[top : top + SIDE, left : left + SIDE]


def _only(root: Path, name: str) -> Path:
    (folder,) = root.glob(f"{name}-*")
    return folder


def _manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


def _table(folder: Path, prefix: str) -> pa.Table:
    names = sorted(f["name"] for f in _manifest(folder)["files"] if f["name"].startswith(prefix))
    return pa.concat_tables([pq.read_table(folder / name) for name in names])


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _check_folders(root: Path) -> None:
    """AssertionError unless each folder is a complete artifact that contains its listed files and records of parts."""
    for folder in root.iterdir():
        listed = {f["name"]: f["sha256"] for f in _manifest(folder)["files"]}
        found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        assert {name: _sha256(found[name]) for name in listed} == listed
        others = {name for name in found if not name.startswith("parts/") or not name.endswith(".json")} - set(listed)
        assert others == {"manifest.json", "recipe.json"}, f"{folder.name} contains {others}"
        assert not (folder / "scratch").exists()
