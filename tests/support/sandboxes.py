"""Sandboxes that are used again: one takes 1 s of CPU time to start, and 6 s if its parser needs PyTorch."""

from types import ModuleType

import pytest

from raylabel.media.sandbox.sandbox import Parser, Sandbox

KEPT = 4


class _Kept(Sandbox):
    """Once closed, it waits for another use."""

    idle: list["_Kept"] = []

    def __init__(self, parser: Parser, children: int) -> None:
        super().__init__(parser, children)
        self.children = children

    def close(self) -> None:
        self.idle.append(self)
        if len(self.idle) > KEPT:
            Sandbox.close(self.idle.pop(0))


def _sandbox(parser: Parser, children: int = 1) -> Sandbox:
    for kept in _Kept.idle:
        if (kept.parser, kept.children) == (parser, children):
            _Kept.idle.remove(kept)
            return kept
    return _Kept(parser, children)


def use_again(patch: pytest.MonkeyPatch, *modules: ModuleType) -> None:
    """The modules use sandboxes that others have closed."""
    for module in modules:
        patch.setattr(module, "Sandbox", _sandbox)
