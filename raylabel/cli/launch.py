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
from raylabel.recipes.arbitrary_labels import ArbitraryLabels
from raylabel.recipes.deep_cluster import DeepCluster
from raylabel.recipes.pretexts import Pretexts
from raylabel.recipes.random_labels import RandomPretraining
from raylabel.recipes.redrawing import Redrawing
from raylabel.recipes.transfer import Transfer
from raylabel.store.artifact import Root, identity_of
from raylabel.store.files import filesystem
from raylabel.store.root_lock import held
from raylabel.store.uses import RecordedRoot

RUN_BY: dict[type, str] = {
    Recipe: "semi-supervised",
    Transfer: "transfer",
    RandomPretraining: "random-labels",
    Redrawing: "redrawn-labels",
    ArbitraryLabels: "arbitrary-labels",
    DeepCluster: "deep-cluster",
    Pretexts: "pretexts",
}
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
        with connected(options.root, options.recipe.resources) as root:
            (kind_of_run, identity), name = options.identity, options.recipe.name
            yield RecordedRoot.of(root, kind_of_run, name, identity, command_line()), options


@contextmanager
def connected(uri: str, resources: Resources) -> Iterator[Root]:
    """The root at `uri`, which no other driver uses while the block runs, and Ray connected. For use in `readable`."""
    work_begins()
    check_kept(uri)
    root = Root.open(uri)
    with held(root), working(resources):
        yield root


@contextmanager
def working(resources: Resources) -> Iterator[None]:
    """Ray connected, for a command that writes to no root. For use in `readable`, once the work has begun."""
    connect()
    stop_on_sigterm()  # again: ray.init has set its own handler
    with watched(resources.patience):
        ready(resources)  # the cluster may have scaled down to its head
        yield


def check_kept(uri: str, option: str = "root") -> None:
    """InputError if the folder or file is in the copy of --working-dir that Ray unpacks on one machine, and deletes
    later. `option`: that with which it was given."""
    if (
        submitted_job_has_working_dir()
        and "://" not in uri
        and Path(filesystem(uri)[1]).resolve().is_relative_to(Path.cwd())
    ):
        raise InputError(
            f"{option} '{uri}' is in the job's copy of --working-dir, which Ray deletes after the job: give --{option} "
            "a place that all machines can read, s3://, gs:// or /..."
        )


def check_arguments() -> None:
    """InputError if an argument is not UTF-8."""
    if bad := [argument for argument in sys.argv[1:] if not is_text(argument)]:
        raise InputError(f"argument {bad[0]!r} is not UTF-8: rename the file or folder that it names")


def _options(description: str, kind: type[Kind]) -> Kind:
    check_arguments()
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
