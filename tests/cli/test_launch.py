"""The launcher reads a command line into a recipe of whatever type a command runs."""

import io
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from raylabel.cli.launch import LastingOutput, Options, _options
from raylabel.compute.resources import Resources
from raylabel.errors import InputError
from raylabel.recipes import Recipe

OWN = """
from dataclasses import dataclass
from test_launch import Rounds

def mine(): return Rounds()
"""


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """Another pipeline's recipe."""

    clusters: int = 100
    """How many."""
    resources: Resources = field(default_factory=Resources)


def test_a_recipe_of_any_type_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    (tmp_path / "own.py").write_text(OWN)
    own = f"{tmp_path}/own.py:mine"
    monkeypatch.setattr(sys, "argv", ["job", own, "--clusters", "7", "--root", "there", "--resources.workers", "2"])
    rounds = sys.modules["test_launch"].Rounds
    found = _options("", Options[rounds])
    assert found.root == "there" and found.recipe.clusters == 7 and found.recipe.resources.workers == 2
    with pytest.raises(InputError, match=r"own.py:mine' is of the type Rounds, and this command runs a Recipe"):
        _options("", Options[Recipe])


def test_output_outlives_its_reader():
    read, write = os.pipe()
    with open(write, "w", encoding="utf-8") as stream:
        output = LastingOutput(stream)
        output.write("seen\n")
        output.flush()
        os.close(read)
        for _ in range(3):
            assert output.write("x" * (1 << 20)) == 1 << 20
            output.flush()
        assert output.encoding == "utf-8"
    assert LastingOutput(io.StringIO()).write("abc") == 3
