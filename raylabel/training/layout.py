"""Which picked sample is stored in which row group, lane and file of MEDIA: a pure function of a few numbers.

Letters: N samples in key order, L lanes.

A row group (here also: group) is what the training stream holds and shuffles together, and reads with one request:
about 640 images (40 videos), fewer if they are large. A lane is a sequence of groups; all lanes have equally many, and
the groups have equally many samples, so that no sample is trained on more often than others. A part is a task, and a
file: up to 8 groups of one lane, or several lanes if these are small.

A corpus may be sorted by class. So a part has samples from 16 places: the sorted keys are cut into 16 bands, and each
part has one stretch of each band. A hash deals these samples into the groups of the part. Neighbouring parts have
neighbouring stretches, and a lane has neighbouring parts. So at any time, the groups that the L lanes are at have
samples from each of 16 * L equal sections of the corpus.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

BANDS = 16  # places in the corpus from which a part has samples
FILE_GROUPS = 8  # at most, of a file
UNIT = 4  # groups of a file that are read together if several workers share their lane


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The groups of N samples. Group t is of lane t // `lane_groups`."""

    samples: int
    """N, at least 1."""
    lanes: int
    """L, at most N."""
    row_group_samples: int
    """Least number of samples in a group, if N is large enough."""

    @property
    def lane_groups(self) -> int:
        return max(1, self.samples // (self.lanes * self.row_group_samples))

    @property
    def groups(self) -> int:
        return self.lanes * self.lane_groups

    def read_once(self, shared: bool) -> bool:
        """Whether a worker keeps what it read of a lane, because one read covers it. `shared`: if workers share it."""
        return self.lane_groups < (2 * UNIT if shared else 2)

    @cached_property
    def starts(self) -> np.ndarray:
        """The first group of each part, and then the number of groups, int64 [parts + 1]."""
        if self.lane_groups >= FILE_GROUPS:
            files = -(-self.lane_groups // FILE_GROUPS)
            inner = np.arange(files) * self.lane_groups // files
            first = (np.arange(self.lanes)[:, None] * self.lane_groups + inner).ravel()
        else:  # whole lanes
            lanes = max(1, FILE_GROUPS * self.row_group_samples * self.lanes // self.samples)
            first = np.arange(0, self.groups, lanes * self.lane_groups)
        return np.append(first, self.groups)

    @property
    def parts(self) -> int:
        return len(self.starts) - 1

    def lanes_of(self, part: int) -> list[int]:
        """The lane of each group of a part."""
        return [group // self.lane_groups for group in range(int(self.starts[part]), int(self.starts[part + 1]))]

    def stretches(self, first: int, last: int) -> list[tuple[int, int]]:
        """The samples of the parts first..last-1, as indices in key order: one range [begin, end) for each band."""
        ends = [int(self.starts[part]) * self.samples // self.groups for part in (first, last)]
        found = []
        for band in range(BANDS):
            low, high = (n * self.samples // BANDS for n in (band, band + 1))
            # Each band is rounded at other places, so that a part has the number of samples that it should have.
            phase = band * self.samples // BANDS
            begin, end = (low + (n * (high - low) + phase) // self.samples for n in ends)
            found.append((begin, end))
        return found


def deal(keys: np.ndarray, groups: int) -> list[np.ndarray]:
    """The indices of the samples in each group of a part, which has these keys: sorted by a hash, and dealt evenly."""
    order = np.argsort(mix(keys), kind="stable")
    return [order[group::groups] for group in range(groups)]


def units(files: list[int]) -> list[list[int]]:
    """The groups of a lane that are read together if workers share it, given the file of each: up to 2 * UNIT - 1
    neighbours in a file."""
    found: list[list[int]] = []
    for file in dict.fromkeys(files):
        some = [group for group, other in enumerate(files) if other == file]
        found += [part.tolist() for part in np.array_split(some, max(1, len(some) // UNIT))]
    return found


def mix(keys: np.ndarray) -> np.ndarray:
    """A bijection of 64-bit integers that scatters neighbours (the finaliser of SplitMix64, Steele et al. 2014)."""
    z = keys.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def checksum(keys: np.ndarray) -> int:
    """A number for keys in this order."""
    return int((mix(keys) * (2 * np.arange(len(keys), dtype=np.uint64) + np.uint64(1))).sum().astype(np.int64))
