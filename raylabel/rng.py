"""Counter-based random numbers: any of a stream without those before it, in any process."""

import numpy as np

LANE_ORDER, WINDOW_ORDER, AUGMENT = 1, 2, 3  # what for: streams of different purpose never coincide


def rng(seed: int, purpose: int, *counter: int) -> np.random.Generator:
    """The numbers of a seed, a purpose and up to three counters (Philox, Salmon et al. 2011)."""
    padded = (*counter, *([0] * (3 - len(counter))))
    return np.random.Generator(np.random.Philox(key=[seed, purpose], counter=[0, *padded]))
