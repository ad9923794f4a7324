"""What an actor has in hand, written where its next life finds it: so a sample that kills the teacher is found.

A process that is dead says nothing, and Ray starts an actor anew under its old name. In its next life it reads here
which batch it died of. A batch that was in hand at two deaths is scored in halves, which narrow with each further
death to a single sample; that one is rejected once it was alone in hand at two deaths, and never got through.
Machines that vanish leave no journal, and accuse nobody.
"""

import json
import os
import struct
from collections import Counter
from collections.abc import Iterator

TWICE = 2  # deaths that make a suspect of a batch, and a culprit of a sample
LIVES = 20  # in a row without a single batch that was finished: then it is not the samples

Span = tuple[int, int, int]
"""Key of the first sample of a batch, and which of its slots were scored together: from, to."""

_HAND = struct.Struct("<qqq")
_PLACES = 3  # batches that may be in hand at once; a scorer on a GPU has two


class Journal:
    """Of one actor. Writing what is in hand takes some microseconds a batch."""

    def __init__(self, path: str) -> None:
        """`path`: a file of this actor alone, in all its lives."""
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self._deaths: Counter[Span] = Counter()
        self._lives = 1  # without a finished batch, this one counted
        found = os.pread(self._file, 1 << 20, 0)
        if len(found) > _PLACES * _HAND.size:  # there was a life before
            hands, known = found[: _PLACES * _HAND.size], found[_PLACES * _HAND.size :]
            known = json.loads(known.partition(b"\n")[0])  # a longer one of before may stand behind it
            self._deaths.update({(key, first, last): count for key, first, last, count in known["deaths"]})
            held = [span for span in _HAND.iter_unpack(hands) if span[2]]
            self._deaths.update(held)
            self._lives = known["lives"] + 1 if held else 1
        self._hands: list[Span] = []
        self._keep()

    def accuses(self, key: int, rows: int) -> bool:
        """Whether the batch of so many samples, that begins with `key`, has been in hand at two deaths."""
        return self._deaths[(key, 0, rows)] >= TWICE

    @property
    def hopeless(self) -> bool:
        """Whether actors die of everything."""
        return self._lives > LIVES

    def take(self, span: Span) -> None:
        """A batch goes to the teacher."""
        self._hands.append(span)
        self._write()

    def give(self) -> None:
        """The oldest batch came back."""
        lived = self._hands.pop(0)
        self._write()
        if self._lives > 1 or self._deaths.pop(lived, 0):  # whatever it was in hand at, it is not to blame
            self._lives = 1
            self._keep()

    def parts(self, key: int, rows: int) -> Iterator[tuple[int, int, bool]]:
        """How to score an accused batch: (from, to, whether it is a single sample that is guilty) of all its slots."""
        todo = [(0, rows)]
        while todo:
            first, last = todo.pop()
            died = self._deaths[(key, first, last)]
            if last - first == 1:
                yield first, last, died >= TWICE
            elif died:
                middle = (first + last) // 2
                todo += [(middle, last), (first, middle)]
            else:
                yield first, last, False

    def _write(self) -> None:
        spans = [*self._hands, *([(0, 0, 0)] * (_PLACES - len(self._hands)))]
        os.pwrite(self._file, b"".join(_HAND.pack(*span) for span in spans), 0)

    def _keep(self) -> None:
        """Writes what is known of former lives, whose last words have been read."""
        self._write()
        known = {"lives": self._lives, "deaths": [[*span, count] for span, count in self._deaths.items()]}
        data = json.dumps(known).encode() + b"\n"
        os.pwrite(self._file, data, _PLACES * _HAND.size)
        os.ftruncate(self._file, _PLACES * _HAND.size + len(data))
