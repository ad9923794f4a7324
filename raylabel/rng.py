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


ROUNDS, LEAST = 6, 6
"""Rounds of the network of `permuted`, and the bits of its domain, at least: with few bits, some permutations are more
likely than others."""


def permuted(position: np.ndarray, size: np.ndarray, *seeds: np.ndarray | int) -> np.ndarray:
    """Where a random permutation of 0..size-1 puts each position, int64 [n]; `position` and `size` are int64 [n].

    Equal sizes and seeds, which may be arrays [n], are the same permutation; so a task computes those of its own
    positions alone. A Feistel network over the smallest square of a power of two, whose values outside are permuted
    again until they are inside (Black and Rogaway 2002, cycle walking).
    """
    half = (np.ceil(np.log2(np.maximum(size, 2**LEAST))).astype(np.uint64) + np.uint64(1)) // np.uint64(2)
    mask = (np.uint64(1) << half) - np.uint64(1)
    key = np.zeros(len(position), np.uint64)
    for seed in seeds:
        key = finalize(key + np.uint64(WEYL) + np.asarray(seed).astype(np.uint64))
    found, left = position.astype(np.uint64), np.arange(len(position))
    while len(left):
        x, h, m = found[left], half[left], mask[left]
        for round in range(ROUNDS):
            high, low = x >> h, x & m
            x = (low << h) | (high ^ (finalize(low + key[left] + np.uint64(round * WEYL % 2**64)) & m))
        found[left] = x
        left = left[x >= size[left].astype(np.uint64)]
    return found.astype(np.int64)
