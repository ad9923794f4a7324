"""What every command does: parse the command line, connect to Ray, run, and end with a readable message."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Protocol, TypeVar, get_args, get_origin

import tyro

from raylabel.cli.connect import connect
from raylabel.cli.exit import readable, stop_on_sigterm
from raylabel.cli.main import command, command_line, with_commands
from raylabel.cli.output import guard_output, work_begins
from raylabel.compute.autoscaler import ready
from raylabel.compute.ray_internals import submitted_job_has_working_dir
from raylabel.compute.resources import Resources
from raylabel.compute.watchdog import watched
from raylabel.corpus.config import is_text
from raylabel.errors import InputError
from raylabel.recipes import Recipe
from raylabel.recipes import registry as recipes
from raylabel.store.artifact import Root, identity_of
from raylabel.store.files import filesystem
from raylabel.store.root_lock import held
from raylabel.store.uses import RecordedRoot

RUN_BY: dict[type, str] = {Recipe: "semi-supervised"}
"""The command that runs the recipes of a type."""


class AnyRecipe(Protocol):
    """What the launcher needs of a recipe: a frozen dataclass, whose fields tyro turns into options."""

    @property
    def name(self) -> str: ...
    @property
    def resources(self) -> Resources: ...


R = TypeVar("R", bound=AnyRecipe)


@dataclass(frozen=True, kw_only=True)
class Options(Generic[R]):
    """A recipe and where its results go."""

    recipe: Annotated[R, tyro.conf.arg(name="")]
    root: str = "runs"
    """Folder of all results, local or s3://, gs://. What exists there is not done again."""

    @property
    def identity(self) -> tuple[str, dict[str, Any]]:
        """The kind of run that the command continues, and what identifies it: these name its record in the root."""
        return "run", {"recipe": identity_of(self.recipe)}


Kind = TypeVar("Kind", bound=Options[Any])


@contextmanager
def launched(description: str, kind: type[Kind]) -> Iterator[tuple[RecordedRoot, Kind]]:
    """The root and the options of `[RECIPE] [--data DIR] [--root DIR] [--field value ...]`, and Ray connected. What the
    block finds or makes in the root is recorded there as needed by the run: see store/uses.py.

    `kind` names the type of recipe that the command runs: `Options[Recipe]`. If the block fails, is stopped, or makes
    no progress for `resources.patience` seconds, the process ends: see `exit`. If its output is closed, the block
    continues: see `output`.
    """
    guard_output()
    with readable():
        options = _options(description, kind)
        work_begins()
        check_kept(options.root)
        root = Root.open(options.root)
        patience = options.recipe.resources.patience
        with held(root):
            connect()
            stop_on_sigterm()  # again: ray.init has set its own handler
            with watched(patience):
                ready(options.recipe.resources)  # the cluster may have scaled down to its head
                recipe, identity = options.recipe, options.identity
                yield RecordedRoot.of(root, identity[0], recipe.name, identity[1], command_line()), options


def check_kept(root: str) -> None:
    """InputError if the root is in the copy of --working-dir that Ray unpacks on one machine, and deletes later."""
    if (
        submitted_job_has_working_dir()
        and "://" not in root
        and Path(filesystem(root)[1]).resolve().is_relative_to(Path.cwd())
    ):
        raise InputError(
            f"root '{root}' is in the job's copy of --working-dir, which Ray deletes after the job: give --root a "
            "folder that all machines can read, s3://, gs:// or /..."
        )


def _options(description: str, kind: type[Kind]) -> Kind:
    if bad := [argument for argument in sys.argv[1:] if not is_text(argument)]:
        raise InputError(f"argument {bad[0]!r} is not UTF-8: rename the file or folder that it names")
    (expected,) = get_args(kind)
    options: Any = get_origin(kind)
    named = recipes.returning(expected)
    given = sys.argv[1:2] and not sys.argv[1].startswith("-")
    name, *argv = sys.argv[1:] if given else [next(iter(named), ""), *sys.argv[1:]]
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--data", default="")
    known, rest = first.parse_known_args(argv)
    function = recipes.find(name)
    if {"-h", "--help"} & set(rest) and recipes.takes_data(function):
        known.data = known.data or "DIR"  # --help works without --data
    recipe = recipes.make(function, known.data)
    if not isinstance(recipe, expected):
        raise InputError(_of_another_type(name, type(recipe), expected))
    names = "\n".join(f"  {known:24} {_first_line(made)}" for known, made in named.items())
    text = f"{with_commands(description)}\nRecipes:\n{names}\n\nFields of '{name}':"
    whole = options[type(recipe)]  # the recipe may be of a subtype with more fields
    config = (tyro.conf.AvoidSubcommands,)
    return tyro.cli(whole, args=rest, default=options(recipe=recipe), description=text, config=config)


def _of_another_type(name: str, found: type, expected: type) -> str:
    runs = [made for kind, made in RUN_BY.items() if issubclass(found, kind)]
    fix = f"run it by `{command(runs[0])} {name}`" if runs else f"return a {expected.__name__} from it"
    return f"recipe '{name}' is a {found.__name__}, and this command runs a {expected.__name__}: {fix}"


def _first_line(function: Callable[..., Any]) -> str:
    return (function.__doc__ or "").strip().partition("\n")[0]
