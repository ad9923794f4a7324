"""What every command does: read the command line, connect to Ray, run, and end with a message whatever happens."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TextIO, TypeVar, get_args

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")

import tyro
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

from raylabel.cli.connect import connect
from raylabel.cli.exit import readable, stop_on_sigterm
from raylabel.compute.autoscaler import ready
from raylabel.compute.watchdog import watched
from raylabel.corpus.config import is_text
from raylabel.errors import InputError
from raylabel.recipes import registry as recipes
from raylabel.recipes.recipe import Recipe
from raylabel.store.artifact import Root
from raylabel.store.files import filesystem
from raylabel.store.root_lock import held

RecipeType = TypeVar("RecipeType")


@dataclass(frozen=True, kw_only=True)
class Options(Generic[RecipeType]):
    """A recipe, of the type that a command runs, and where its results go."""

    recipe: Annotated[RecipeType, tyro.conf.arg(name="")]
    root: str = "runs"
    """Folder of all results, local or s3://, gs://: what exists there is not done again."""


Kind = TypeVar("Kind", bound=Options)


@contextmanager
def launched(description: str, kind: type[Kind]) -> Iterator[tuple[Root, Kind]]:
    """The root and the options of `[RECIPE] [--data DIR] [--root DIR] [--field value ...]`, and Ray connected.

    `kind` names the recipe's type, as in `Options[Recipe]`: any frozen dataclass with `resources`. In the description
    COMMAND stands for how the command was called. A block that fails, is stopped, or makes no progress for the recipe's
    patience ends the process: see `exit`.
    """
    sys.stdout = LastingOutput(sys.stdout)
    with readable():
        options = _options(description, kind)
        check_kept(options.root)
        root = Root.open(options.root)
        patience = options.recipe.resources.patience
        with held(root):
            connect()
            stop_on_sigterm()  # again: Ray has put its own handler there
            with watched(patience):
                ready(options.recipe.resources)  # of a cluster that has gone down to its head
                yield root, options


class LastingOutput:
    """A text stream that outlives its reader.

    Where the reader goes away (`| head`, a terminal that is closed), the output is discarded and the run goes on: its
    results are in the root, and a week of work does not end because a log is no longer read.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._discard()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._discard()

    def _discard(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def check_kept(root: str) -> None:
    """InputError if the root lies in what Ray unpacks for a submitted job, which is of one machine, and is deleted."""
    job = json.loads(os.environ.get(RAY_JOB_CONFIG_JSON_ENV_VAR, "{}"))
    unpacked = "working_dir" in job.get("runtime_env", {})
    if unpacked and "://" not in root and Path(filesystem(root)[1]).resolve().is_relative_to(Path.cwd()):
        raise InputError(
            f"root '{root}' lies in the job's copy of --working-dir, which Ray deletes after the job: give --root a "
            "folder that all machines see, s3://, gs:// or /..."
        )


def _options(description: str, kind: type[Kind]) -> Kind:
    if bad := [argument for argument in sys.argv[1:] if not is_text(argument)]:
        raise InputError(f"argument {bad[0]!r} is not UTF-8: rename what it stands for")
    name, *argv = sys.argv[1:] if sys.argv[1:2] and not sys.argv[1].startswith("-") else ["digits", *sys.argv[1:]]
    command = sys.argv[0] if " " in sys.argv[0] else f"python {sys.argv[0]}"
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--data", default="")
    known, rest = first.parse_known_args(argv)
    function = recipes.find(name)
    if {"-h", "--help"} & set(rest) and recipes.takes_data(function):
        known.data = known.data or "DIR"  # whoever asks what there is to say need not say it yet
    recipe = recipes.make(function, known.data)
    (expected,) = get_args(kind)
    if not isinstance(recipe, expected):
        raise InputError(
            f"recipe '{name}' is of the type {type(recipe).__name__}, and this command runs a {expected.__name__}: "
            "choose the command of that type, or another recipe"
        )
    names = "\n".join(f"  {known:24} {_first_line(made)}" for known, made in recipes.NAMED.items())
    text = f"{description.replace('COMMAND', command)}\nRecipes:\n{names}\n\nFields of '{name}':"
    default = kind(recipe=recipe)
    return tyro.cli(
        kind, prog=command, args=rest, default=default, description=text, config=(tyro.conf.AvoidSubcommands,)
    )


def _first_line(function: Callable[..., Recipe]) -> str:
    return (function.__doc__ or "").strip().partition("\n")[0]
