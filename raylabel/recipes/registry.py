"""Named recipes. Each docstring gives the command, the hardware, the time and the result, or "not yet run"."""

import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any, get_type_hints

from ray import cloudpickle

from raylabel.errors import InputError
from raylabel.recipes.images import cifar10, digits, imagenet_yfcc_resnet50
from raylabel.recipes.videos import actions, kinetics_r2plus1d18, kinetics_r2plus1d34, moving_digits

NAMED: dict[str, Callable[..., Any]] = {
    "digits": digits,
    "cifar10": cifar10,
    "imagenet-yfcc-resnet50": imagenet_yfcc_resnet50,
    "moving-digits": moving_digits,
    "actions": actions,
    "kinetics-r2plus1d18": kinetics_r2plus1d18,
    "kinetics-r2plus1d34": kinetics_r2plus1d34,
}


def returning(kind: type) -> dict[str, Callable[..., Any]]:
    """The named recipes that return a `kind`."""
    return {name: made for name, made in NAMED.items() if issubclass(get_type_hints(made)["return"], kind)}


def find(name: str) -> Callable[..., Any]:
    """A built-in recipe by its name, or a user's own as `path/to/file.py:function`. InputError if there is none."""
    if name in NAMED:
        return NAMED[name]
    path, colon, function = name.rpartition(":")
    if not colon:
        known = ", ".join(NAMED)
        raise InputError(f"no recipe '{name}': give one of {known}, or your own as path/to/file.py:function")
    if not os.path.isfile(path):
        raise InputError(f"no file '{path}' for recipe '{name}': give the path of a Python file")
    # The prefix keeps the module from hiding another one.
    stem = os.path.splitext(os.path.basename(path))[0]
    spec = importlib.util.spec_from_file_location(f"raylabel_recipe_{stem}", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # tyro reads the fields' docstrings there
    spec.loader.exec_module(module)
    cloudpickle.register_pickle_by_value(module)  # other nodes do not have the file
    if not inspect.isfunction(found := getattr(module, function, None)):
        raise InputError(f"no function '{function}' in '{path}': give the name of one")
    return found


def takes_data(function: Callable[..., Any]) -> bool:
    """Whether the recipe takes the folder of its data as `data`."""
    return "data" in inspect.signature(function).parameters


def make(function: Callable[..., Any], data: str) -> Any:
    """The recipe, given the folder of its data if it takes one. InputError if the folder is missing, or not taken."""
    takes = takes_data(function)
    if takes and not data:
        raise InputError(f"recipe '{function.__name__}' needs the folder of its data: give --data DIR")
    if data and not takes:
        raise InputError(f"recipe '{function.__name__}' takes no --data: its data is named in the recipe")
    return function(data) if takes else function()
