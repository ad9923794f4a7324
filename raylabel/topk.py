"""The K best of each class in a stream of candidates: exact, in bounded memory, in numpy.

Letters: C classes, K samples kept per class, n candidates in one call.
"""

import numpy as np

STAGE_ROWS = 1 << 18  # TopK sorts no fewer newcomers than this at a time


class TopK:
    """The K best (score, key) of each of C classes in a stream: score descending, then key ascending.

    Exact under any order and any split of the stream, and associative: the results of parts, added, give the whole's.
    Holds at most 2 * C * K rows (16 bytes each, and as much again while it sorts), or what it was given if less.
    Once a class has K rows, the K-th score is a threshold that most newcomers fail at the price of one comparison.
    """

    def __init__(self, classes: int, k: int) -> None:
        self.k = k
        self._threshold = np.full(classes, -np.inf, np.float32)
        # A row is (code, key); codes in ascending order are classes in order and, within a class, scores descending.
        self._code, self._key = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
        self._staged = 0

    def add(self, label: np.ndarray, score: np.ndarray, key: np.ndarray) -> None:
        """label: int32 [n] in 0..C-1; score: float32 [n], not NaN; key: int64 [n], once per label."""
        stay = np.flatnonzero(score >= self._threshold[label])  # ties with the K-th stay: their keys decide
        self._code.append(_encode(label[stay], score[stay]))
        self._key.append(key[stay])
        self._staged += len(stay)
        if self._staged > max(self.k * len(self._threshold), STAGE_ROWS):
            self._compact()

    def result(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """label int32, rank int32 from 1, score float32, key int64, by (label, rank). -0.0 comes back as 0.0."""
        rank = self._compact()
        label, score = _decode(self._code[0])
        return label, rank.astype(np.int32), score, self._key[0]

    def _compact(self) -> np.ndarray:
        """Sorts everything and keeps the K first of each class; returns their ranks, from 1."""
        code, self._code = np.concatenate(self._code), []  # the pieces go before the sort takes its copies
        key, self._key = np.concatenate(self._key), []
        order = sort_order(code, key)
        code, key = code[order], key[order]
        starts = np.searchsorted(code, np.arange(len(self._threshold) + 1, dtype=np.uint64) << np.uint64(32))
        counts = np.diff(starts)
        rank = np.arange(1, len(code) + 1) - np.repeat(starts[:-1], counts)
        full = np.flatnonzero(counts >= self.k)
        self._threshold[full] = _decode(code[starts[full] + self.k - 1])[1]
        keep = rank <= self.k
        self._code, self._key, self._staged = [code[keep]], [key[keep]], 0
        return rank[keep]


def sort_order(first: np.ndarray, *rest: np.ndarray) -> np.ndarray:
    """np.lexsort((*reversed(rest), first)): the order by `first`, ties by `rest`.

    One unstable argsort, and a lexsort of the tied rows alone: 5 times as fast as a lexsort where ties are few.
    """
    order = np.argsort(first)
    ordered = first[order]
    same = ordered[1:] == ordered[:-1]
    if same.any():
        tied = np.flatnonzero(np.append(same, False) | np.append(False, same))  # these places keep their runs of ties
        rows = order[tied]
        order[tied] = rows[np.lexsort((*(column[rows] for column in reversed(rest)), first[rows]))]
    return order


def _encode(label: np.ndarray, score: np.ndarray) -> np.ndarray:
    bits = (score + np.float32(0)).view(np.uint32)  # -0.0 + 0 is 0.0: equal scores get equal bits
    return label.astype(np.uint64) << np.uint64(32) | _flip(bits)


def _decode(code: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (code >> np.uint64(32)).astype(np.int32), _flip(code.astype(np.uint32)).view(np.float32)


def _flip(bits: np.ndarray) -> np.ndarray:
    """float32 bits as integers in descending order of the floats, and back."""
    return np.where(bits >> 31, bits, bits ^ np.uint32(0x7FFFFFFF))
