"""Checkpoints of a training: one folder each, complete once its checksums stand, and never overwritten in place.

The files are written first and `checksums.json`, the sha256 of each, last. A checkpoint is used only if every byte of
it is the one that was written; a newer one that was cut off or damaged is passed over, and said so, never silently.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from raylabel.errors import InputError
from raylabel.store.files import delete_folder, list_files, read_file, write_file

CHECKSUMS = "checksums.json"


@dataclass(frozen=True)
class Checkpoint:
    """What a training goes on from."""

    step: int
    """Steps done; 0: the start of the training."""
    files: Mapping[str, bytes]
    """Name → content; empty at step 0."""
    passed_over: tuple[str, ...]
    """What is wrong with each newer one, the newest first."""


class Checkpoints:
    """The checkpoints of one training, in a folder of their own: the newest two are kept. One process writes."""

    def __init__(self, folder: str):
        """`folder`: a local path or an `s3://`, `gs://` URI; need not be there."""
        self.folder = folder
        self._good: int | None = None

    def newest(self) -> Checkpoint:
        """The newest one that is whole; that of step 0 if none was ever finished.

        InputError if there are some and every one of them is damaged, or if they cannot be read.
        """
        stands = self._list()
        passed_over: list[str] = []
        for step in sorted(stands, reverse=True):
            files, wrong = self._read(step, stands[step])
            if not wrong:
                self._good = step
                return Checkpoint(step, files, tuple(passed_over))
            passed_over.append(f"checkpoint {_name(step)} {wrong}")
        if any(CHECKSUMS in names for names in stands.values()):
            raise InputError(
                f"{self.folder}: not one of its checkpoints is whole ({'; '.join(passed_over)}); put back a copy, or "
                "delete that folder to train anew from the start"
            )
        return Checkpoint(0, {}, tuple(passed_over))

    def save(self, step: int, files: Mapping[str, bytes]) -> None:
        """Writes the checkpoint of that step, then deletes all but it and the one that is known to be good.

        InputError if it cannot be written; what stood before still stands then.
        """
        stands = self._list()
        if step in stands:  # a part of one that was cut off, or one that was passed over
            self._delete(step)
        for name, data in files.items():
            write_file(f"{self.folder}/{_name(step)}/{name}", data)
        sums = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        write_file(f"{self.folder}/{_name(step)}/{CHECKSUMS}", json.dumps(sums, indent=2).encode())
        if self._good is not None:
            for other in stands.keys() - {step, self._good}:
                self._delete(other)
        self._good = step

    def _list(self) -> dict[int, set[str]]:
        """Step → names of the files that stand in its folder."""
        found: dict[int, set[str]] = {}
        for path in list_files(self.folder):
            folder, _, name = path.partition("/")
            if folder.isdigit() and name:
                found.setdefault(int(folder), set()).add(name)
        return found

    def _read(self, step: int, names: set[str]) -> tuple[dict[str, bytes], str]:
        """(name → content, ""), or ({}, what is wrong with it)."""
        if CHECKSUMS not in names:
            return {}, "was cut off while it was written"
        folder = f"{self.folder}/{_name(step)}"
        try:
            sums = json.loads(read_file(f"{folder}/{CHECKSUMS}"))
        except ValueError:
            sums = None
        if not isinstance(sums, dict):
            return {}, f"is damaged: its {CHECKSUMS} is no list of checksums"
        if sums.keys() != names - {CHECKSUMS}:
            return {}, f"is damaged: {', '.join(sorted(sums.keys() ^ (names - {CHECKSUMS})))} missing or too many"
        files = {name: read_file(f"{folder}/{name}") for name in sorted(sums)}
        for name, data in files.items():
            if hashlib.sha256(data).hexdigest() != sums[name]:
                return {}, f"is damaged: {name} is not as it was written"
        return files, ""

    def _delete(self, step: int) -> None:
        delete_folder(f"{self.folder}/{_name(step)}")


def _name(step: int) -> str:
    return f"{step:010d}"
