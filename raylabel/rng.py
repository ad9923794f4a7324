"""Counter-based random numbers: any position of a stream can be computed directly, in any process."""

import numpy as np

LANE_ORDER, WINDOW_ORDER, AUGMENT = 1, 2, 3  # purposes: streams of different purposes never coincide


def rng(seed: int, purpose: int, *counter: int) -> np.random.Generator:
    """The generator for a seed, a purpose and up to three counters (Philox, Salmon et al. 2011)."""
    padded = (*counter, *([0] * (3 - len(counter))))
    return np.random.Generator(np.random.Philox(key=[seed, purpose], counter=[0, *padded]))
