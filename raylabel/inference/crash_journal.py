"""A file that records what an actor is scoring. Its restarts use it to find the sample that crashes the teacher.

A crashed process reports nothing, but Ray restarts an actor with the same id. The restarted actor reads from the
journal which batches were in flight at the crash. A batch that was in flight at two crashes is a suspect: it is scored
in halves, and each further crash halves the span again, down to a single sample. A sample that was in flight alone at
two crashes and never finished is rejected. If a node is lost, its journal is lost too, so no batch becomes a suspect.
"""

import json
import os
import struct
from collections import Counter
from collections.abc import Iterator

SUSPECT_AFTER = 2  # crashes after which a batch is a suspect, and a single sample is rejected
MAX_CRASHES = 20  # in a row without a finished batch: after so many, the samples are not the cause

Span = tuple[int, int, int]
"""(key of the first sample of a batch, first slot, slot after the last) of slots that are scored together."""

_SPAN = struct.Struct("<qqq")
_MAX_IN_FLIGHT = 3  # batches in flight at most; a scorer on a GPU has two
_HEADER = _MAX_IN_FLIGHT * _SPAN.size  # bytes: the spans in flight; the crashes follow as a line of JSON


class CrashJournal:
    """The journal of one actor. Writing what is in flight takes a few microseconds per batch."""

    def __init__(self, path: str) -> None:
        """`path`: a file that only this actor uses, the same after each restart."""
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self._crashes: Counter[Span] = Counter()
        self._starts = 1  # of the actor since the last finished batch, including this one
        self._why = ""
        found = os.pread(self._file, 1 << 20, 0)
        if len(found) > _HEADER:  # a restart
            known = json.loads(found[_HEADER:].partition(b"\n")[0])  # the rest of an older, longer line may follow
            self._crashes.update({(key, first, last): count for key, first, last, count in known["crashes"]})
            in_flight = [span for span in _SPAN.iter_unpack(found[:_HEADER]) if span[2]]
            self._crashes.update(in_flight)
            self._starts = known["starts"] + 1 if in_flight else 1
            self._why = known.get("why", "")
        self._in_flight: list[Span] = []
        self._save()

    def is_suspect(self, key: int, rows: int) -> bool:
        """Whether the batch of `rows` samples that begins with `key` was in flight at SUSPECT_AFTER or more crashes."""
        return self._crashes[(key, 0, rows)] >= SUSPECT_AFTER

    @property
    def exhausted(self) -> bool:
        """Whether the actor crashed MAX_CRASHES times in a row without finishing a batch."""
        return self._starts > MAX_CRASHES

    @property
    def why(self) -> str:
        """Why the actor ended itself before its last start; empty if it was killed, or if that is not known."""
        return self._why

    def end(self, why: str) -> None:
        """Records why the actor ends itself with what is in flight."""
        self._why = why
        self._save()

    def start(self, span: Span) -> None:
        """Records that a span is sent to the teacher."""
        self._in_flight.append(span)
        self._write_in_flight()

    def finish(self) -> None:
        """Records that the oldest span in flight is scored."""
        finished = self._in_flight.pop(0)
        self._write_in_flight()
        if self._starts > 1 or self._crashes.pop(finished, 0):  # it did not cause the crashes that it was in flight at
            self._starts = 1
            self._save()

    def spans(self, key: int, rows: int) -> Iterator[tuple[int, int, bool]]:
        """How to score a suspect batch: (from, to, whether to reject it as a single sample), all its slots in order."""
        todo = [(0, rows)]
        while todo:
            first, last = todo.pop()
            crashes = self._crashes[(key, first, last)]
            if last - first == 1:
                yield first, last, crashes >= SUSPECT_AFTER
            elif crashes:
                middle = (first + last) // 2
                todo += [(middle, last), (first, middle)]
            else:
                yield first, last, False

    def _write_in_flight(self) -> None:
        spans = [*self._in_flight, *([(0, 0, 0)] * (_MAX_IN_FLIGHT - len(self._in_flight)))]
        os.pwrite(self._file, b"".join(_SPAN.pack(*span) for span in spans), 0)

    def _save(self) -> None:
        """Writes what is in flight and the crashes so far."""
        self._write_in_flight()
        crashes = [[*span, count] for span, count in self._crashes.items()]
        known = {"starts": self._starts, "crashes": crashes, "why": self._why}
        data = json.dumps(known).encode() + b"\n"
        os.pwrite(self._file, data, _HEADER)
        os.ftruncate(self._file, _HEADER + len(data))
