"""What every job does: read the command line, connect to Ray, run, and put errors in one line."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")

import ray
import tyro

from raylabel import recipes
from raylabel.artifact import Root
from raylabel.corpus.config import is_text
from raylabel.errors import InputError
from raylabel.lease import held
from raylabel.pipeline import Recipe
from raylabel.report.summary import printable


@dataclass(frozen=True, kw_only=True)
class Options:
    """A recipe and where its results go."""

    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    root: str = "runs"
    """Folder of all results, local or s3://, gs://: what stands there already is not done again."""


Kind = TypeVar("Kind", bound=Options)


@contextmanager
def launched(description: str, kind: type[Kind]) -> Iterator[tuple[Root, Kind]]:
    """The root and the options of `[RECIPE] [--data DIR] [--root DIR] [--field value ...]`, and Ray connected.

    An InputError in the block is printed on one line and ends the process with status 2.
    """
    try:
        options = _options(description, kind)
        root = Root.open(options.root)
        with held(root):
            _connect()
            yield root, options
    except InputError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        sys.exit(2)


def _options(description: str, kind: type[Kind]) -> Kind:
    if bad := [argument for argument in sys.argv[1:] if not is_text(argument)]:
        raise InputError(f"argument {bad[0]!r} is not UTF-8: rename what it stands for")
    name, *argv = sys.argv[1:] if sys.argv[1:2] and not sys.argv[1].startswith("-") else ["digits", *sys.argv[1:]]
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--data", default="")
    known, rest = first.parse_known_args(argv)
    function = recipes.find(name)
    if {"-h", "--help"} & set(rest) and recipes.takes_data(function):
        known.data = known.data or "DIR"  # whoever asks what there is to say need not say it yet
    recipe = recipes.make(function, known.data)
    names = "\n".join(f"  {known:24} {_first_line(made)}" for known, made in recipes.NAMED.items())
    text = f"{description}\nRecipes:\n{names}\n\nFields of '{name}':"
    default = kind(recipe=recipe)
    return tyro.cli(kind, args=rest, default=default, description=text, config=(tyro.conf.AvoidSubcommands,))


def _first_line(function: Callable[..., Recipe]) -> str:
    return (function.__doc__ or "").strip().partition("\n")[0]


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Nothing reaches file descriptor 2 while the block runs, from C++ neither."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def _connect() -> None:
    """The cluster that RAY_ADDRESS or `ray job submit` names; else a Ray of its own on this machine."""
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
    else:
        # Of its C++ side only what is fatal: it calls each actor pool an error. What fails comes as an exception too.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        # At least two CPUs in Ray's books: one for a model, one for those who read and decode for it.
        with _without_stderr():  # on which Ray tells that it found that variable; a failure is an exception
            ray.init(address="local", num_cpus=max(2, os.cpu_count() or 1), include_dashboard=False, **quiet)
    for name in ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
