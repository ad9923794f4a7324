"""The K best of each class in a stream of candidates: exact, in bounded memory, in numpy.

Letters: C classes, K samples kept per class, n candidates in one call.
"""

import numpy as np

STAGE_ROWS = 512  # rows staged per class: below this the loop over classes costs more than the rows


class TopK:
    """The K best (score, key) of each of C classes in a stream: score descending, then key ascending.

    Exact under any order and any split of the stream, and associative: the results of parts, added, give the whole's.
    Once a class has K rows, the K-th score is a threshold that most newcomers fail at the price of one comparison.
    What passes is staged; when C * max(K / 4, 512) rows are, each class takes its own and cuts itself back to K. So it
    holds at most C * K rows of 12 bytes and the staged ones, some 32 bytes each while they are dealt out.
    """

    def __init__(self, classes: int, k: int) -> None:
        self.k = k
        self._threshold = np.full(classes, -np.inf, np.float32)
        self._score = [np.empty(0, np.float32)] * classes  # of each class at most K, in no order; and their keys
        self._key = [np.empty(0, np.int64)] * classes
        self._staged: tuple[list[np.ndarray], ...] = ([], [], [])  # labels, scores, keys
        self._staged_rows = 0

    def add(self, label: np.ndarray, score: np.ndarray, key: np.ndarray) -> None:
        """label: integers [n] in 0..C-1, unchecked; score: float32 [n], not NaN; key: int64 [n], once per label."""
        # mode="wrap" does without numpy's check of the labels, which costs more than all the rest of this line.
        stay = np.flatnonzero(score >= self._threshold.take(label, mode="wrap"))  # ties with the K-th: keys decide
        labels, scores, keys = self._staged
        labels.append(label[stay].astype(np.min_scalar_type(len(self._threshold))))  # 16 bits are sorted by radix
        scores.append(score[stay] + np.float32(0))  # -0.0 + 0 is 0.0
        keys.append(key[stay])
        self._staged_rows += len(stay)
        if self._staged_rows > len(self._threshold) * max(self.k // 4, STAGE_ROWS):
            self._compact()

    def kept(self, low: int, high: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """label int32, score float32, key int64 of the classes low..high-1, by label and within a label in no order."""
        self._compact()
        label = np.repeat(np.arange(low, high, dtype=np.int32), [len(key) for key in self._key[low:high]])
        return label, np.concatenate(self._score[low:high]), np.concatenate(self._key[low:high])

    def result(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """label int32, rank int32 from 1, score float32, key int64, by (label, rank). -0.0 comes back as 0.0."""
        self._compact()
        for c, (score, key) in enumerate(zip(self._score, self._key, strict=True)):
            order = sort_order(-score, key)
            self._score[c], self._key[c] = score[order], key[order]
        rank = np.concatenate([np.arange(1, len(key) + 1, dtype=np.int32) for key in self._key])
        label, score, key = self.kept(0, len(self._key))
        return label, rank, score, key

    def _compact(self) -> None:
        """Deals the staged rows out to their classes and keeps the K first of each."""
        if not self._staged_rows:
            return
        label, score, key = (_take_all(pieces) for pieces in self._staged)
        self._staged_rows = 0
        order = np.argsort(label, kind="stable")
        counts = np.bincount(label, minlength=len(self._threshold))
        ends = np.cumsum(counts)
        for c in np.flatnonzero(counts).tolist():
            rows = order[ends[c] - counts[c] : ends[c]]
            mine = np.concatenate((self._score[c], score[rows]))
            keys = np.concatenate((self._key[c], key[rows]))
            if len(mine) >= self.k:
                self._threshold[c], first = _first(mine, keys, self.k)
                mine, keys = mine[first], keys[first]
            self._score[c], self._key[c] = mine, keys


def _take_all(pieces: list[np.ndarray]) -> np.ndarray:
    whole = np.concatenate(pieces)
    pieces.clear()  # before the next column is copied
    return whole


def _first(score: np.ndarray, key: np.ndarray, k: int) -> tuple[np.float32, np.ndarray]:
    """The k-th best score, and the indices of the k first rows, in no order."""
    last = np.partition(score, len(score) - k)[len(score) - k]
    first = np.flatnonzero(score >= last)
    if len(first) > k:
        tied = score[first] == last
        above, tied = first[~tied], first[tied]
        room = k - len(above)
        first = np.concatenate((above, tied[np.argpartition(key[tied], room)[:room]]))
    return last, first


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
