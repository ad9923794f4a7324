"""Event files of TensorBoard: one for each training of a run, and one with its settings and METRICS.

An event file is only ever extended, because TensorBoard reads on where it stopped. On a local disk the new events are
appended; in an object store the file is written again, which is a few dozen kB. If its beginning is not what it should
be, since the process was killed while it appended, or a training that resumed with another number of workers gave
other values, a new file replaces it. So a reader finds each point once.
"""

import json
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.record_writer import masked_crc32c
from tensorboardX.summary import text

from raylabel.store.files import filesystem, is_local, list_files, read_file, write_file, writing
from raylabel.tracking.snapshot import Snapshot

FILE = "events.out.tfevents."  # its number follows: TensorBoard would not notice another file of the same name


class TensorBoard:
    """The event files of a run."""

    def __init__(self, folder: str):
        self._folder, self._files = folder, dict[str, _EventFile]()

    def send(self, snapshot: Snapshot) -> None:
        for training, rows in snapshot.rows.items():
            self._write(training, [_event(row.images, row.values) for row in rows])
        # TensorBoard shows text in Markdown, in which four blanks begin code.
        settings = json.dumps(snapshot.settings, indent=2, ensure_ascii=False).replace("\n", "\n    ")
        events = [Event(summary=text("settings", f"    {settings}"))]
        if snapshot.metrics:
            events.append(_event(0, snapshot.scalars))
        self._write("run", events)

    def _write(self, name: str, events: list[Any]) -> None:
        if name not in self._files:
            self._files[name] = _EventFile(f"{self._folder}/{name}")
        self._files[name].extend(events)


class _EventFile:
    """An event file in a folder of its own."""

    def __init__(self, folder: str):
        """Reads what an earlier process wrote."""
        self._folder = folder
        self._names = [name for name in list_files(folder) if name.startswith(FILE)]
        self._data = read_file(f"{folder}/{self._names[-1]}") if self._names else b""
        self._events = list(_decode(self._data))

    def extend(self, wanted: Sequence[Any]) -> None:
        """Adds the events that the file lacks. Their times are those at which they were first written."""
        version = Event(file_version="brain.Event:2")
        wanted = [version, *wanted]
        common = min(len(wanted), len(self._events))
        kept = next((i for i in range(common) if not _equal(self._events[i], wanted[i])), common)
        whole = self._data == b"".join(map(_encode, self._events))
        if self._names and whole and kept == common:
            if len(wanted) > common:
                self._append(wanted[common:])
        else:
            self._replace(self._events[:kept], wanted[kept:])

    def _append(self, events: Sequence[Any]) -> None:
        added = [_now(event) for event in events]
        data, uri = b"".join(map(_encode, added)), f"{self._folder}/{self._names[-1]}"
        if is_local(uri):
            with writing(uri), open(filesystem(uri)[1], "ab", buffering=0) as file:
                file.write(data)
        else:
            write_file(uri, self._data + data)
        self._data, self._events = self._data + data, [*self._events, *added]

    def _replace(self, kept: Sequence[Any], events: Sequence[Any]) -> None:
        number = int(self._names[-1].removeprefix(FILE)) + 1 if self._names else 0
        name, old = f"{FILE}{number:010d}", self._names
        self._events = [*kept, *(_now(event) for event in events)]
        self._data = b"".join(map(_encode, self._events))
        write_file(f"{self._folder}/{name}", self._data)
        self._names = [name]
        fs, path = filesystem(self._folder)
        for one in old:
            with writing(f"{self._folder}/{one}"):
                fs.delete_file(f"{path}/{one}")


def _event(step: int, values: Mapping[str, float]) -> Any:
    """An event with scalars."""
    event = Event(step=step)
    for name, value in values.items():
        event.summary.value.add(tag=name, simple_value=value)
    return event


def _now(event: Any) -> Any:
    made = Event()
    made.CopyFrom(event)
    made.wall_time = time.time()
    return made


def _equal(written: Any, wanted: Any) -> bool:
    """Whether they differ in their time alone."""
    made = Event()
    made.CopyFrom(wanted)
    made.wall_time = written.wall_time
    return made == written


def _encode(event: Any) -> bytes:
    """A record of the file: length, checksum of the length, event, checksum of the event."""
    data = event.SerializeToString(deterministic=True)
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc32c(length)) + data + struct.pack("<I", masked_crc32c(data))


def _decode(data: bytes) -> Iterator[Any]:
    """The events of a file, until the end or the first record that is not whole."""
    at = 0
    while at + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        end = at + 16 + length
        if end > len(data):
            return
        yield Event.FromString(data[at + 12 : end - 4])
        at = end
