"""Checkpoints of a training: one folder each, complete once its checksums exist, and never overwritten in place.

The files are written first and `checksums.json`, the sha256 of each, last. A checkpoint is used only if all its bytes
match the checksums. A newer one that is incomplete or damaged is skipped, and the user is warned.
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
    """The state from which a training resumes."""

    step: int
    """Steps done; 0: the start of the training."""
    files: Mapping[str, bytes]
    """Name → content; empty at step 0."""
    passed_over: tuple[str, ...]
    """For each newer checkpoint that was skipped, what is wrong with it; the newest first."""


class Checkpoints:
    """The checkpoints of one training, in a folder of their own. The newest two are kept. Only one process writes."""

    def __init__(self, folder: str):
        """`folder`: a local path or an `s3://` or `gs://` URI; it need not exist."""
        self.folder = folder
        self._intact: int | None = None

    def newest(self) -> Checkpoint:
        """The newest intact checkpoint, or the one of step 0 if none was completed.

        InputError if checkpoints were completed but all of them are damaged, or if they cannot be read.
        """
        found = self._list()
        passed_over: list[str] = []
        for step in sorted(found, reverse=True):
            files, wrong = self._read(step, found[step])
            if not wrong:
                self._intact = step
                return Checkpoint(step, files, tuple(passed_over))
            passed_over.append(f"checkpoint {_name(step)} {wrong}")
        if any(CHECKSUMS in names for names in found.values()):
            raise InputError(
                f"{self.folder}: no checkpoint is intact ({'; '.join(passed_over)}): restore a copy, or delete that "
                "folder to train from the start"
            )
        return Checkpoint(0, {}, tuple(passed_over))

    def save(self, step: int, files: Mapping[str, bytes]) -> None:
        """Writes the checkpoint of that step, then deletes all others except the last one known to be intact.

        InputError if it cannot be written; the earlier checkpoints are kept then.
        """
        existing = self._list()
        if step in existing:  # incomplete, or skipped as damaged
            self._delete(step)
        for name, data in files.items():
            write_file(f"{self.folder}/{_name(step)}/{name}", data)
        sums = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        write_file(f"{self.folder}/{_name(step)}/{CHECKSUMS}", json.dumps(sums, indent=2).encode())
        if self._intact is not None:
            for other in existing.keys() - {step, self._intact}:
                self._delete(other)
        self._intact = step

    def _list(self) -> dict[int, set[str]]:
        """Step → names of the files in its folder."""
        found: dict[int, set[str]] = {}
        for path in list_files(self.folder):
            folder, _, name = path.partition("/")
            if folder.isdigit() and name:
                found.setdefault(int(folder), set()).add(name)
        return found

    def _read(self, step: int, names: set[str]) -> tuple[dict[str, bytes], str]:
        """(name → content, ""), or ({}, what is wrong with the checkpoint)."""
        if CHECKSUMS not in names:
            return {}, "is incomplete: writing it was interrupted"
        folder = f"{self.folder}/{_name(step)}"
        try:
            sums = json.loads(read_file(f"{folder}/{CHECKSUMS}"))
        except ValueError:
            sums = None
        if not isinstance(sums, dict):
            return {}, f"is damaged: its {CHECKSUMS} is not a list of checksums"
        if sums.keys() != names - {CHECKSUMS}:
            return {}, f"is damaged: {', '.join(sorted(sums.keys() ^ (names - {CHECKSUMS})))} missing or unexpected"
        files = {name: read_file(f"{folder}/{name}") for name in sorted(sums)}
        for name, data in files.items():
            if hashlib.sha256(data).hexdigest() != sums[name]:
                return {}, f"is damaged: {name} does not match its checksum"
        return files, ""

    def _delete(self, step: int) -> None:
        delete_folder(f"{self.folder}/{_name(step)}")


def _name(step: int) -> str:
    return f"{step:010d}"
