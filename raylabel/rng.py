"""Counter-based random numbers: any position of a stream can be computed directly, in any process."""

import numpy as np

WEYL = 0x9E3779B97F4A7C15

LANE_ORDER, WINDOW_ORDER, AUGMENT, CENTROIDS = 1, 2, 3, 4  # purposes: streams of different purposes never coincide


def rng(seed: int, purpose: int, *counter: int) -> np.random.Generator:
    """The generator for a seed, a purpose and up to three counters (Philox, Salmon et al. 2011)."""
    padded = (*counter, *([0] * (3 - len(counter))))
    return np.random.Generator(np.random.Philox(key=[seed, purpose], counter=[0, *padded]))


def mixed(numbers: np.ndarray, *seeds: int) -> np.ndarray:
    """A hash of each number and the seeds, uint64 [n], by the function of splitmix64 (Steele et al. 2014)."""
    found = numbers.astype(np.uint64)
    # The numbers are mixed before the first seed is added: consecutive numbers with the next seed would be the same.
    for seed in (0, *seeds):
        found = finalize(found + np.uint64((WEYL + seed) % 2**64))
    return found


def finalize(states: np.ndarray) -> np.ndarray:
    """The output of splitmix64 for each state, uint64 [n]."""
    states = (states ^ (states >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    states = (states ^ (states >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return states ^ (states >> np.uint64(31))


def uniform(hashes: np.ndarray) -> np.ndarray:
    """Hashes as numbers in [0, 1), float64 [n]: the upper 53 bits are a double without rounding."""
    return (hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53
