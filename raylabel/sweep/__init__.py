"""A recipe, and values for some of its fields → trials that share what they have in common (Ray Tune)."""

from raylabel.sweep.config import SweepConfig
from raylabel.sweep.run import sweep

__all__ = ["SweepConfig", "sweep"]
