"""The space of a search: fields of a config and their values, as a user writes them → the settings of each trial.

- select.k=[184, 368, 736]                          these values
- finetune.schedule.lr=log_uniform(1e-4, 1e-2)      drawn at random, uniform in the logarithm
- student.arch=choice(resnet8x1, resnet8x2)         drawn at random from these values
"""

import ast
import dataclasses
import itertools
import math
import types
import typing
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np

from raylabel.errors import InputError
from raylabel.text import text_of

FORMS = "give [a, b, ...], choice(a, b, ...) or log_uniform(low, high)"

Settings = dict[str, Any]
"""Field → value of one trial."""
C = TypeVar("C")


@dataclass(frozen=True, kw_only=True)
class Search:
    """Which trials there are, and on how many samples the best one is chosen."""

    space: tuple[str, ...] = ()
    """Fields and their values: 'select.k=[184,368]' 'finetune.schedule.lr=log_uniform(1e-4,1e-2)'
    'student.arch=choice(resnet8x1,resnet8x2)'. If all are lists, every combination is a
    trial."""
    samples: int = 0
    """Number of trials; each draws a value for every field at random. 0: every combination of the values."""
    validation: float = 0.2
    """Share of every class of the labeled set that is held out to choose the best trial; no trial is trained on it."""

    def check(self, prefix: str = "") -> None:
        """InputError if a field is invalid. `prefix`: that of the fields' names, for example 'control.sweep.'."""
        if self.samples < 0:
            raise InputError(f"{prefix}samples is {self.samples}: give a number of trials, or 0 for every combination")
        if not 0 < self.validation < 1:
            raise InputError(f"{prefix}validation is {self.validation}: give a share between 0 and 1")

    def trials(self, config: Any, seed: int, shared: Collection[str]) -> list[Settings]:
        """The settings of each trial. `shared`: fields of the config that are the same for all trials."""
        axes = parse(self.space, config, shared)
        return draw(axes, self.samples, seed) if self.samples else grid(axes)


@dataclass(frozen=True)
class Axis:
    """One field, and where its values come from: a list, or the ends of a log-uniform distribution."""

    field: str
    values: tuple[Any, ...] = ()
    low: float = 0
    high: float = 0
    drawn: bool = False
    """Whether values are drawn at random; otherwise every value is used."""


def parse(texts: Sequence[str], config: Any, shared: Collection[str] = ()) -> tuple[Axis, ...]:
    """The axes of `FIELD=VALUES` texts. InputError that names the field if the config does not have it, or it is one of
    `shared`, or a value has the wrong type."""
    if not texts:
        raise InputError("space is empty: give fields and their values, for example 'select.k=[50,100]'")
    axes = tuple(_axis(text, config, shared) for text in texts)
    for axis in axes:
        if [other.field for other in axes].count(axis.field) > 1:
            raise InputError(f"space: {axis.field} is given twice: keep one")
    return axes


def grid(axes: Sequence[Axis]) -> list[Settings]:
    """Every combination of the values; the last field changes fastest. InputError if a field is to be drawn."""
    if drawn := next((axis for axis in axes if axis.drawn), None):
        raise InputError(f"space: {drawn.field} is drawn at random: set samples to a number of trials, or give a list")
    names = [axis.field for axis in axes]
    return [dict(zip(names, values, strict=True)) for values in itertools.product(*(axis.values for axis in axes))]


def draw(axes: Sequence[Axis], samples: int, seed: int) -> list[Settings]:
    """`samples` settings drawn at random, the same ones for the same seed. The values of a list are equally likely."""
    rng = np.random.default_rng(seed)
    return [{axis.field: _draw(axis, rng) for axis in axes} for _ in range(samples)]


def apply(config: C, settings: Settings) -> C:
    """The config with those fields changed. InputError that names the field whose value is invalid."""
    for name, value in settings.items():
        config = _replaced(config, name, name.split("."), value)
    return config


def describe_settings(settings: Settings) -> str:
    """The settings in words: 'train.schedule.lr 0.1, view.augment trivial'."""
    return ", ".join(f"{name} {text_of(value)}" for name, value in settings.items())


def _draw(axis: Axis, rng: np.random.Generator) -> Any:
    if axis.values:
        return axis.values[int(rng.integers(len(axis.values)))]
    # Six digits, so that the table shows the value that was used.
    return float(f"{math.exp(rng.uniform(math.log(axis.low), math.log(axis.high))):.6g}")


def _axis(text: str, config: Any, shared: Collection[str]) -> Axis:
    name, equals, form = text.partition("=")
    name = name.strip().removeprefix("--").replace("-", "_")
    if not equals:
        raise InputError(f"space: '{text}' has no '=' and values after the field: {FORMS}")
    hint = _hint(config, name, shared)
    try:
        node = ast.parse(form.strip(), mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise InputError(f"space: {name}: cannot parse '{form}': {FORMS}; quote words with symbols") from error
    call = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
    parts = node.elts if isinstance(node, ast.List) else node.args if isinstance(node, ast.Call) else []
    if not (isinstance(node, ast.List) or call in ("choice", "log_uniform")) or getattr(node, "keywords", None):
        raise InputError(f"space: {name}: '{form}' is not a list, choice or log_uniform: {FORMS}")
    values = tuple(_value(name, hint, part) for part in parts)
    if not values:
        raise InputError(f"space: {name}: '{form}' has no values: {FORMS}")
    if call == "log_uniform":
        if hint[0] is not float or len(values) != 2 or not 0 < values[0] < values[1] < math.inf:
            raise InputError(
                f"space: {name}: '{form}' is invalid: log_uniform(low, high) needs a float field and 0 < low < high"
            )
        return Axis(name, low=values[0], high=values[1], drawn=True)
    for number, value in enumerate(values):
        if value in values[:number]:
            raise InputError(f"space: {name}: {value!r} is given twice: keep one")
    return Axis(name, values, drawn=call == "choice")


def _hint(config: Any, name: str, shared: Collection[str]) -> tuple[Any, ...]:
    """The types of the field, for example (int,) or (float, None). Of a Literal, its words."""
    hint, path = None, name.split(".")
    for depth, part in enumerate(path):
        where = ".".join(path[:depth])
        if not dataclasses.is_dataclass(config):
            raise InputError(f"space: {name}: '{where}' is {config!r} and has no fields: sweep another field")
        known = {field.name: field for field in fields(config)}
        if part not in known:
            having = f"'{where}' has" if where else "there are"
            raise InputError(f"space: {name} is not a field: {having} {', '.join(known)}")
        if not known[part].metadata.get("identity", True):
            raise InputError(f"space: {name} does not change results, only how the work is done: sweep another field")
        if depth == 0 and part in shared:
            raise InputError(f"space: {name}: '{part}' is the same for all trials of a sweep: sweep another field")
        hint = typing.get_type_hints(type(config))[part]
        config = getattr(config, part)
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    kinds = tuple(one for kind in kinds for one in (typing.get_args(kind) if _is_literal(kind) else (kind,)))
    if dataclasses.is_dataclass(config):
        inner = ", ".join(f"{name}.{field.name}" for field in fields(config))
        raise InputError(f"space: {name} has fields of its own: give one of {inner}")
    if not all(kind in (int, float, str, bool, types.NoneType) or isinstance(kind, str) for kind in kinds):
        raise InputError(f"space: {name} is not a single number or word: sweep another field")
    return kinds


def _is_literal(hint: Any) -> bool:
    return typing.get_origin(hint) is typing.Literal


def _value(name: str, kinds: tuple[Any, ...], node: ast.expr) -> Any:
    """The value in the type of the field: for a float, 1 becomes 1.0, so that both spellings are the same setting."""
    if isinstance(node, ast.Name):
        value: Any = node.id  # a word without quotes
    else:
        try:
            value = ast.literal_eval(node)
        except ValueError as error:
            raise InputError(
                f"space: {name}: '{ast.unparse(node)}' is not a number or word: give numbers, or words in quotes"
            ) from error
    if type(value) in kinds or value in [kind for kind in kinds if isinstance(kind, str)]:
        return value
    if value is None and types.NoneType in kinds:
        return None
    if type(value) is int and float in kinds:
        return float(value)
    expected = " or ".join(repr(kind) if isinstance(kind, str) else kind.__name__ for kind in kinds)
    raise InputError(f"space: {name}: {value!r} has the wrong type: expected {expected}")


def _replaced(config: Any, name: str, path: list[str], value: Any) -> Any:
    first, *rest = path
    if rest:
        value = _replaced(getattr(config, first), name, rest, value)
        return replace(config, **{first: value})
    try:
        return replace(config, **{first: value})
    except InputError as error:
        raise InputError(f"space: {name}: {error}") from error
