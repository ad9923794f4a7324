"""Checkpoints of a training: one folder each, complete once its checksums exist, and never overwritten in place.

The files are written first and `checksums.json`, the sha256 of each, last. A checkpoint is used only if all its bytes
match the checksums. A newer one that is incomplete or damaged is skipped, and the user is warned.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from raylabel.errors import InputError
from raylabel.store.files import delete_folder, list_files, read_file, write_file

CHECKSUMS = "checksums.json"
STATE = "state.json"  # what is not a tensor; `saved` is the time of the checkpoint, in seconds of `time.time`

Files = Mapping[str, bytes]
"""Name → content."""


@dataclass(frozen=True)
class Checkpoint:
    """The state from which a training resumes."""

    step: int
    """Steps done; 0: the start of the training."""
    files: Files
    """Empty at step 0."""
    passed_over: tuple[str, ...]
    """For each newer checkpoint that was skipped, what is wrong with it; the newest first."""

    @property
    def saved(self) -> float:
        """When the state was that of the checkpoint, in seconds of `time.time`; 0 if it is not known."""
        return json.loads(self.files.get(STATE, b"{}")).get("saved", 0.0)


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

    def save(self, step: int, files: Files, confirm: Callable[[], object] = lambda: None) -> None:
        """Writes the checkpoint of that step, then deletes all others except the last one known to be intact.

        InputError if it cannot be written; the earlier checkpoints are kept then. `confirm` is called before the first
        file and before the checkpoint is complete, and raises if this process may not write any more.
        """
        confirm()
        existing = self._list()
        if step in existing:  # incomplete, or skipped as damaged
            self._delete(step)
        for name, data in files.items():
            write_file(f"{self.folder}/{_name(step)}/{name}", data)
        sums = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        confirm()
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


class Writer:
    """Writes checkpoints in a thread while training goes on, one at a time."""

    def __init__(self, checkpoints: Checkpoints, minutes: float, confirm: Callable[[], object]):
        """`minutes` between two checkpoints. `confirm`: see `Checkpoints.save`."""
        self._checkpoints, self._every, self._confirm = checkpoints, 60 * minutes, confirm
        self._begun = self._kept = time.monotonic()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    @property
    def note(self) -> str:
        """What a crash would cost now, once that is a minute: the training of this start that is in no checkpoint."""
        minutes = int((time.monotonic() - self._kept) / 60)
        return f"a crash now costs {minutes} min" if minutes else ""

    def due(self) -> bool:
        """Whether it is time for another checkpoint, and the last one is complete."""
        return self._writing is None and time.monotonic() >= self._begun + self._every

    def write(self, step: int, make: Callable[[], Files]) -> None:
        """Begins to write the checkpoint of that step, once the one before is complete. `make` makes its files, in the
        thread, and must not depend on what training changes meanwhile."""
        self.wait()
        begun = self._begun = time.monotonic()

        def write() -> None:
            self._checkpoints.save(step, make(), self._confirm)
            self._kept = begun

        self._writing = self._thread.submit(write)

    def check(self) -> None:
        """Raises the error of a checkpoint that could not be written."""
        if self._writing and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Waits until the checkpoint is complete. Raises its error."""
        writing, self._writing = self._writing, None
        if writing:
            writing.result()


def _name(step: int) -> str:
    return f"{step:010d}"
