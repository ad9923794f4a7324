"""The command line of a recipe of any type."""

import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from heads import environment
from paths import REPOSITORY
from ray import cloudpickle

from raylabel import recipes
from raylabel.cli.launch import RUN_BY, Options, _options
from raylabel.cli.main import COMMANDS
from raylabel.compute.resources import Resources
from raylabel.errors import InputError
from raylabel.recipes import Recipe, Redrawing, Transfer, registry


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """A recipe of another pipeline."""

    name: str
    """What the run is called."""
    count: int = 10
    """Clusters."""
    resources: Resources = Resources()


OWN = """
from dataclasses import dataclass
from raylabel.recipes import Recipe, digits
from test_launch import Clusters

@dataclass(frozen=True, kw_only=True)
class Longer(Recipe):
    extra: int = 1

def clusters():
    return Clusters(name="mine", count=3)

def longer():
    return Longer(**vars(digits()))

def number():
    return 3
"""


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Parses a command line, in which {own} is replaced by the path of a file with recipes."""
    (tmp_path / "my.py").write_text(OWN)

    def read(kind: Any, *arguments: str, program: str = "raylabel clusters") -> Any:
        own = [argument.replace("{own}", str(tmp_path / "my.py")) for argument in arguments]
        monkeypatch.setattr("sys.argv", [program, *own])
        return _options("", kind)

    return read


def test_a_recipe_of_any_type_has_its_fields_on_the_command_line(options: Callable[..., Any]) -> None:
    read = options(Options[Clusters], "{own}:clusters", "--count", "5", "--resources.patience", "7", "--root", "r")
    assert read == Options(recipe=Clusters(name="mine", count=5, resources=Resources(patience=7)), root="r")
    read = options(Options[Recipe], "{own}:longer", "--extra", "4", "--select.k", "7").recipe
    assert (type(read).__name__, read.extra, read.select.k) == ("Longer", 4, 7)
    assert read.select.p == recipes.digits().select.p
    # A process that does not have the file can unpickle the recipe.
    look = "import pickle, sys; print(pickle.load(sys.stdin.buffer).extra)"
    sent = cloudpickle.dumps(read)  # pyright: ignore[reportPrivateImportUsage]
    assert subprocess.run([sys.executable, "-c", look], input=sent, capture_output=True).stdout == b"4\n"


@pytest.mark.parametrize(
    "kind, program, name, error",
    [
        (Recipe, "raylabel sweep", "{own}:clusters", "is a Clusters, and .* runs a Recipe: return a Recipe from it$"),
        (Recipe, "raylabel sweep", "{own}:number", "number' is a int, and this command runs a Recipe: return a"),
        (
            *(Clusters, "raylabel clusters", "digits"),
            "'digits' is a Recipe, and this .* a Clusters: run it by `raylabel semi-supervised digits`$",
        ),
        (Clusters, "jobs/clusters.py", "digits", "run it by `python jobs/semi_supervised.py digits`$"),
        (Clusters, "jobs/clusters.py", "{own}:longer", "is a Longer, .*by `python jobs/semi_supervised.py .*:longer`$"),
    ],
)
def test_a_recipe_of_another_type_is_refused(
    options: Callable[..., Any], kind: type, program: str, name: str, error: str
) -> None:
    with pytest.raises(InputError, match=error):
        options(Options[kind], name, program=program)


def test_a_command_offers_the_named_recipes_of_its_type(monkeypatch: pytest.MonkeyPatch) -> None:
    def mine() -> Clusters:
        return Clusters(name="mine")

    monkeypatch.setitem(registry.NAMED, "mine", mine)
    assert list(registry.returning(Clusters)) == ["mine"]
    others = ["sign-digits", "cub200-resnet50", "voc07-alexnet", "probe-imagenet-alexnet", "probe-places-alexnet"]
    assert list(registry.returning(Transfer)) == others
    assert list(registry.returning(Redrawing)) == ["redrawn-digits", "redrawn-moving-digits", "redrawn-cifar10"]
    assert [name for name in registry.returning(Recipe) if name in ("mine", "random-digits", *others)] == []
    by_type = [name for kind in RUN_BY for name in registry.returning(kind)]
    assert sorted(["mine", *by_type]) == sorted(registry.NAMED)
    monkeypatch.setattr("sys.argv", ["raylabel clusters"])
    assert _options("", Options[Clusters]).recipe == mine()


def examples() -> list[tuple[type, str]]:
    """(type of recipe, arguments) of each example in the help of a command that names a built-in recipe, or none."""
    found = []
    for kind, command in RUN_BY.items():
        text = importlib.import_module(f"raylabel.cli.{command.replace('-', '_')}").__doc__ or ""
        for line in re.findall(rf"^- raylabel {command}(.*)$", text, re.MULTILINE):
            arguments = "" if line.startswith("  ") else re.split(r" {2,}", line.strip())[0]
            if not re.search(r"my\.py|--help", arguments):
                found.append((kind, arguments))
    return found


@pytest.mark.parametrize("kind, arguments", examples())
def test_the_examples_of_the_help_are_accepted(monkeypatch: pytest.MonkeyPatch, kind: type, arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["raylabel", *shlex.split(arguments)])
    assert isinstance(_options("", Options[kind]).recipe, kind)


def test_every_command_in_run_by_exists() -> None:
    assert set(RUN_BY.values()) <= set(COMMANDS)


def test_a_recipe_needs_one_import_line() -> None:
    names: dict[str, Any] = {}
    exec(f"from raylabel.recipes import {', '.join(recipes.__all__)}", names)
    assert {function.__name__ for function in registry.NAMED.values()} < set(names)
    documented = (
        "Clip Corpus Label Materialize Model Recipe Resources Schedule Select Teacher Train Truth View scaled_lr"
    )
    assert set(documented.split()) < set(names)
    assert sorted(recipes.__all__) == recipes.__all__


def test_the_command_line_is_parsed_without_pytorch() -> None:
    """Importing PyTorch takes seconds, and `--help` and errors about a field do not need it."""
    commands = ", ".join(f"raylabel.cli.{name}" for name in ("semi_supervised", "sweep", "plan", "random_labels"))
    code = f"import sys, {commands}; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(PYTHONPATH=str(REPOSITORY)), capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("False\n", "")
