"""What a run will cost, before it is started."""

from raylabel.plan.story import plan

__all__ = ["plan"]
