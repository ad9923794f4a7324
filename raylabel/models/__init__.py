"""Builds networks by name, and reads and writes their weights.

Only the config is imported here. The other modules import PyTorch, which takes seconds.
"""

from raylabel.models.config import Model, check, check_input, takes_clips

__all__ = ["Model", "check", "check_input", "takes_clips"]
