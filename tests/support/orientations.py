"""The EXIF orientations (EXIF 2.32 §4.6.4)."""

from collections.abc import Callable

import numpy as np

UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}
"""The value of the tag → the operation that makes the stored pixels [H, W, ...] upright."""
