"""Counter-based random numbers: any position of a stream can be computed directly, in any process."""

import numpy as np

WEYL = 0x9E3779B97F4A7C15

LANE_ORDER, WINDOW_ORDER, AUGMENT = 1, 2, 3  # purposes: streams of different purposes never coincide


def rng(seed: int, purpose: int, *counter: int) -> np.random.Generator:
    """The generator for a seed, a purpose and up to three counters (Philox, Salmon et al. 2011)."""
    padded = (*counter, *([0] * (3 - len(counter))))
    return np.random.Generator(np.random.Philox(key=[seed, purpose], counter=[0, *padded]))


def mixed(numbers: np.ndarray, *seeds: int) -> np.ndarray:
    """A hash of each number and the seeds, uint64 [n], by the function of splitmix64 (Steele et al. 2014)."""
    found = numbers.astype(np.uint64)
    # The numbers are mixed before the first seed is added: consecutive numbers with the next seed would be the same.
    for seed in (0, *seeds):
        found += np.uint64((WEYL + seed) % 2**64)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            found = (found ^ (found >> np.uint64(shift))) * np.uint64(factor)
        found ^= found >> np.uint64(31)
    return found
