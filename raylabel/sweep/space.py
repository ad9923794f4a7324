"""The space of a sweep: fields of a recipe and their values, as a person writes them → the settings of each trial.

- select.k=[184, 368, 736]                          these values
- finetune.schedule.lr=log_uniform(1e-4, 1e-2)      drawn, uniform in its logarithm
- student.arch=choice(resnet8x1, resnet8x2)         drawn from these
"""

import ast
import dataclasses
import itertools
import math
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from raylabel.errors import InputError
from raylabel.recipes.recipe import Recipe

FORMS = "give [a, b, ...], choice(a, b, ...) or log_uniform(low, high)"
SHARED = ("name", "labeled", "unlabeled", "test", "truth")  # of a recipe: what all trials have in common

Settings = dict[str, Any]
"""Field → value of one trial."""


@dataclass(frozen=True)
class Axis:
    """One field, and where its values come from: a list, or the ends of a log-uniform distribution."""

    field: str
    values: tuple[Any, ...] = ()
    low: float = 0
    high: float = 0
    drawn: bool = False
    """Whether the values are to be drawn, not gone through."""


def parse(texts: Sequence[str], recipe: Recipe) -> tuple[Axis, ...]:
    """The axes of `FIELD=VALUES`. InputError naming the field if the recipe has none such, or if a value is no value of
    it."""
    if not texts:
        raise InputError("no --space: give fields and their values, such as 'select.k=[50,100]'")
    axes = tuple(_axis(text, recipe) for text in texts)
    for axis in axes:
        if [other.field for other in axes].count(axis.field) > 1:
            raise InputError(f"--space {axis.field} is given twice: keep one")
    return axes


def grid(axes: Sequence[Axis]) -> list[Settings]:
    """Every combination of the values, the last field's changing fastest. InputError if some are to be drawn."""
    if drawn := next((axis for axis in axes if axis.drawn), None):
        raise InputError(f"--space {drawn.field} is to be drawn: say how many trials with --samples, or give a list")
    names = [axis.field for axis in axes]
    return [dict(zip(names, values, strict=True)) for values in itertools.product(*(axis.values for axis in axes))]


def draw(axes: Sequence[Axis], samples: int, seed: int) -> list[Settings]:
    """That many settings at random, the same ones for a seed; of a list each value is as likely."""
    rng = np.random.default_rng(seed)
    return [{axis.field: _draw(axis, rng) for axis in axes} for _ in range(samples)]


def apply(recipe: Recipe, settings: Settings) -> Recipe:
    """The recipe with those fields changed. InputError naming the field whose value it does not take."""
    for name, value in settings.items():
        recipe = _replaced(recipe, name, name.split("."), value)
    return recipe


def _draw(axis: Axis, rng: np.random.Generator) -> Any:
    if axis.values:
        return axis.values[int(rng.integers(len(axis.values)))]
    # Six digits, so that what the table says is what was run.
    return float(f"{math.exp(rng.uniform(math.log(axis.low), math.log(axis.high))):.6g}")


def _axis(text: str, recipe: Recipe) -> Axis:
    name, equals, form = text.partition("=")
    name = name.strip().removeprefix("--").replace("-", "_")
    if not equals:
        raise InputError(f"--space {text}: no '=' and values after the field: {FORMS}")
    hint = _hint(recipe, name)
    try:
        node = ast.parse(form.strip(), mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise InputError(f"--space {name}: cannot read '{form}': {FORMS}; words of other signs in quotes") from error
    call = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
    parts = node.elts if isinstance(node, ast.List) else node.args if isinstance(node, ast.Call) else []
    if not (isinstance(node, ast.List) or call in ("choice", "log_uniform")) or getattr(node, "keywords", None):
        raise InputError(f"--space {name}: '{form}' is none of the forms: {FORMS}")
    values = tuple(_value(name, hint, part) for part in parts)
    if not values:
        raise InputError(f"--space {name}: '{form}' has no value: {FORMS}")
    if call == "log_uniform":
        if hint[0] is not float or len(values) != 2 or not 0 < values[0] < values[1] < math.inf:
            raise InputError(f"--space {name}: '{form}': log_uniform(low, high) is of a number, 0 < low < high")
        return Axis(name, low=values[0], high=values[1], drawn=True)
    for number, value in enumerate(values):
        if value in values[:number]:
            raise InputError(f"--space {name}: {value!r} is there twice: keep one")
    return Axis(name, values, drawn=call == "choice")


def _hint(recipe: Recipe, name: str) -> tuple[Any, ...]:
    """The types of the field, such as (int,) or (float, None), words of a Literal as they are."""
    config, hint, path = recipe, None, name.split(".")
    for depth, part in enumerate(path):
        where = ".".join(path[:depth])
        if not dataclasses.is_dataclass(config):
            raise InputError(f"--space {name}: '{where}' has no fields here, it is {config!r}")
        known = {field.name: field for field in fields(config)}
        if part not in known:
            of = f"'{where}' has" if where else "a recipe has"
            raise InputError(f"--space {name}: no such field: {of} {', '.join(known)}")
        if not known[part].metadata.get("identity", True):
            raise InputError(f"--space {name}: it changes no result, only how the work is done")
        if depth == 0 and part in SHARED:
            raise InputError(f"--space {name}: '{part}' is the same for all trials of a sweep")
        hint = typing.get_type_hints(type(config))[part]
        config = getattr(config, part)
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    kinds = tuple(one for kind in kinds for one in (typing.get_args(kind) if _is_literal(kind) else (kind,)))
    if dataclasses.is_dataclass(config):
        inner = ", ".join(f"{name}.{field.name}" for field in fields(config))
        raise InputError(f"--space {name}: it has fields of its own, name one: {inner}")
    if not all(kind in (int, float, str, bool, types.NoneType) or isinstance(kind, str) for kind in kinds):
        raise InputError(f"--space {name}: it is no single number or word")
    return kinds


def _is_literal(hint: Any) -> bool:
    return typing.get_origin(hint) is typing.Literal


def _value(name: str, kinds: tuple[Any, ...], node: ast.expr) -> Any:
    """The value as the field has it: 1 of a float is 1.0, so that it is the same setting however it is written."""
    if isinstance(node, ast.Name):
        value: Any = node.id  # a word without quotes
    else:
        try:
            value = ast.literal_eval(node)
        except ValueError as error:
            raise InputError(f"--space {name}: '{ast.unparse(node)}' is no number or word") from error
    if type(value) in kinds or value in [kind for kind in kinds if isinstance(kind, str)]:
        return value
    if value is None and types.NoneType in kinds:
        return None
    if type(value) is int and float in kinds:
        return float(value)
    expected = " or ".join(repr(kind) if isinstance(kind, str) else kind.__name__ for kind in kinds)
    raise InputError(f"--space {name}: {value!r} is of the wrong kind, expected {expected}")


def _replaced(config: Any, name: str, path: list[str], value: Any) -> Any:
    first, *rest = path
    if rest:
        value = _replaced(getattr(config, first), name, rest, value)
        return replace(config, **{first: value})
    try:
        return replace(config, **{first: value})
    except InputError as error:
        raise InputError(f"--space {name}: {error}") from error
