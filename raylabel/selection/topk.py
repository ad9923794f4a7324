"""The K best of each class in a stream of candidates: exact, in bounded memory, in numpy.

Letters: C classes, K samples kept per class, n candidates in one call.
"""

import numpy as np

STAGE_ROWS = 512  # rows staged per class: with fewer, the loop over classes costs more than the rows
STAGED = 1 << 22  # rows staged for all classes at most: 0.2 GB while they are sorted


class TopK:
    """The K best (score, key) of each of C classes in a stream: score descending, then key ascending.

    With `groups`, only the best row of each group in a class counts. Rows of group 0 all count.

    Exact for any order and any split of the stream, and associative: adding the results of the splits gives the result
    of the whole stream. (For a dropped row there is a better row of its group, or K better rows of different groups,
    and later rows do not change this.)
    Once a class has K rows, the K-th score is a threshold that drops most later rows by one comparison. Other rows are
    staged; when C * max(K / 4, 512) rows are staged, or 4 million, they are sorted by class and each class is cut back
    to K. So the memory is at most C * K rows of 12 bytes, and the staged rows of about 32 bytes each while they are
    sorted; with groups, 8 and 16 bytes more. A caller that has less memory calls `take` in between.
    """

    def __init__(self, classes: int, k: int | np.ndarray, groups: bool = False) -> None:
        """`k`: K, or that of each class, integers [C]; 0 keeps none."""
        self._k = np.broadcast_to(np.asarray(k), classes).tolist()
        self._room = min(STAGED, sum(max(one // 4, STAGE_ROWS) for one in self._k))
        self._threshold = np.full(classes, -np.inf, np.float32)
        # Columns: score, key, and group if there are groups. At most K rows of each class, unordered.
        none = tuple(np.empty(0, dtype) for dtype in (np.float32, np.int64, np.int64)[: 2 + groups])
        self._none = none
        self._rows: list[tuple[np.ndarray, ...]] = [none] * classes
        self.rows = 0
        """Rows that are held, without those that are staged."""
        self._labels: list[np.ndarray] = []  # of the staged rows; their columns follow
        self._staged: list[list[np.ndarray]] = [[] for _ in none]
        self._staged_rows = 0

    def add(self, label: np.ndarray, score: np.ndarray, key: np.ndarray, group: np.ndarray | None = None) -> None:
        """label: integers [n] in 0..C-1, unchecked; score: float32 [n], not NaN; key: int64 [n], once per label; group:
        int64 [n], 0 for a row without a group; only with `groups`."""
        # mode="wrap" skips numpy's check of the labels, which costs more than all the rest of this line. Rows that tie
        # with the K-th stay: their keys decide.
        stay = np.flatnonzero(score >= self._threshold.take(label, mode="wrap"))
        self._labels.append(label[stay].astype(np.min_scalar_type(len(self._threshold))))  # 16 bits: sorted by radix
        columns = (score, key) if group is None else (score, key, group)
        for pieces, column in zip(self._staged, columns, strict=True):
            pieces.append(column[stay])
        self._staged[0][-1] += np.float32(0)  # -0.0 + 0 is 0.0
        self._staged_rows += len(stay)
        if self._staged_rows > self._room:
            self._compact()

    def kept(self, low: int, high: int) -> tuple[np.ndarray, ...]:
        """label int32, score float32, key int64, with groups group int64, of the classes low..high-1, sorted by
        label, unordered within a label. They are valid arguments of `add`."""
        self._compact()
        rows = self._rows[low:high]
        label = np.repeat(np.arange(low, high, dtype=np.int32), [len(score) for score, *_ in rows])
        return label, *(np.concatenate(column) for column in zip(*rows, strict=True))

    def take(self, low: int, high: int) -> tuple[np.ndarray, ...]:
        """`kept`, and no longer holds these rows. Rows that are added later are compared with their K-th score still,
        so the result is that of all rows that were taken together."""
        found = self.kept(low, high)
        self._rows[low:high] = [self._none] * (high - low)
        self.rows -= len(found[0])
        return found

    def result(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """label int32, rank int32 from 1, score float32, key int64, by (label, rank). -0.0 comes back as 0.0."""
        self._compact()
        for c, columns in enumerate(self._rows):
            order = sort_order(-columns[0], columns[1])
            self._rows[c] = tuple(column[order] for column in columns)
        rank = np.concatenate([np.arange(1, len(score) + 1, dtype=np.int32) for score, *_ in self._rows])
        label, score, key, *_ = self.kept(0, len(self._rows))
        return label, rank, score, key

    def _compact(self) -> None:
        """Adds the staged rows to their classes and keeps the K first of each."""
        if not self._staged_rows:
            return
        label, *staged = (_take_all(pieces) for pieces in (self._labels, *self._staged))
        self._staged_rows = 0
        order = np.argsort(label, kind="stable")
        counts = np.bincount(label, minlength=len(self._threshold))
        ends = np.cumsum(counts)
        for c in np.flatnonzero(counts).tolist():
            rows = order[ends[c] - counts[c] : ends[c]]
            mine = tuple(np.concatenate((old, new[rows])) for old, new in zip(self._rows[c], staged, strict=True))
            if len(mine) == 3:
                first = _best_of_groups(*mine)
                mine = tuple(column[first] for column in mine)
            k = self._k[c]
            if not k:
                self._threshold[c], mine = np.inf, self._none
            elif len(mine[0]) >= k:
                self._threshold[c], first = _first(mine[0], mine[1], k)
                mine = tuple(column[first] for column in mine)
            self.rows += len(mine[0]) - len(self._rows[c][0])
            self._rows[c] = mine


def _take_all(pieces: list[np.ndarray]) -> np.ndarray:
    whole = np.concatenate(pieces)
    pieces.clear()  # before the next column is copied
    return whole


def _first(score: np.ndarray, key: np.ndarray, k: int) -> tuple[np.float32, np.ndarray]:
    """The k-th best score, and the indices of the first k rows, unordered."""
    last = np.partition(score, len(score) - k)[len(score) - k]
    first = np.flatnonzero(score >= last)
    if len(first) > k:
        tied = score[first] == last
        above, tied = first[~tied], first[tied]
        room = k - len(above)
        first = np.concatenate((above, tied[np.argpartition(key[tied], room)[:room]]))
    return last, first


def _best_of_groups(score: np.ndarray, key: np.ndarray, group: np.ndarray) -> np.ndarray:
    """The indices of the rows that count, unordered: of each group the row with the best score, ties by the smallest
    key; of group 0 every row."""
    alone, shared = np.flatnonzero(group == 0), np.flatnonzero(group)
    order = shared[sort_order(group[shared], -score[shared], key[shared])]
    new = np.ones(len(order), bool)
    new[1:] = group[order][1:] != group[order][:-1]
    return np.concatenate((alone, order[new]))


def sort_order(first: np.ndarray, *rest: np.ndarray) -> np.ndarray:
    """np.lexsort((*reversed(rest), first)): the order by `first`, ties by `rest`.

    One unstable argsort, and a lexsort of the tied rows alone: 5 times as fast as one lexsort if ties are few.
    """
    order = np.argsort(first)
    ordered = first[order]
    same = ordered[1:] == ordered[:-1]
    if same.any():
        tied = np.flatnonzero(
            np.append(same, False) | np.append(False, same)
        )  # the sort below keeps each run of ties where it is
        rows = order[tied]
        order[tied] = rows[np.lexsort((*(column[rows] for column in reversed(rest)), first[rows]))]
    return order
