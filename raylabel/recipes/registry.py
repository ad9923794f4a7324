"""Named recipes. Each docstring gives the command, the hardware, the time and the result, or "not yet run"."""

import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, get_type_hints

from ray import cloudpickle

from raylabel.errors import InputError
from raylabel.recipes.arbitrary import arbitrary_cifar10, arbitrary_digits, statefarm, statefarm_by_driver
from raylabel.recipes.clustered import (
    cluster_cifar10,
    cluster_digits,
    cluster_imagenet_alexnet,
    cluster_imagenet_vgg16,
    cluster_moving_digits,
    cluster_yfcc_alexnet,
    pretexts_cifar10,
    pretexts_digits,
)
from raylabel.recipes.images import (
    cifar10,
    digits,
    flowers,
    imagenet_ig_resnet50,
    imagenet_ig_weak_resnet50,
    imagenet_yfcc_resnet50,
)
from raylabel.recipes.memorized import (
    random_actions,
    random_cifar10,
    random_digits,
    random_moving_digits,
    random_sports1m_kinetics,
    random_ucf101_hmdb51,
    redrawn_cifar10,
    redrawn_digits,
    redrawn_moving_digits,
)
from raylabel.recipes.transfers import (
    cub200_resnet50,
    probe_imagenet_alexnet,
    probe_places_alexnet,
    sign_digits,
    voc07_alexnet,
)
from raylabel.recipes.videos import (
    actions,
    kinetics_ig_weak_r2plus1d18,
    kinetics_r2plus1d18,
    kinetics_r2plus1d34,
    moving_digits,
)
from raylabel.text import one_line

NAMED: dict[str, Callable[..., Any]] = {
    "digits": digits,
    "cifar10": cifar10,
    "flowers": flowers,
    "imagenet-yfcc-resnet50": imagenet_yfcc_resnet50,
    "imagenet-ig-resnet50": imagenet_ig_resnet50,
    "imagenet-ig-weak-resnet50": imagenet_ig_weak_resnet50,
    "moving-digits": moving_digits,
    "actions": actions,
    "kinetics-r2plus1d18": kinetics_r2plus1d18,
    "kinetics-r2plus1d34": kinetics_r2plus1d34,
    "kinetics-ig-weak-r2plus1d18": kinetics_ig_weak_r2plus1d18,
    "sign-digits": sign_digits,
    "cub200-resnet50": cub200_resnet50,
    "voc07-alexnet": voc07_alexnet,
    "probe-imagenet-alexnet": probe_imagenet_alexnet,
    "probe-places-alexnet": probe_places_alexnet,
    "random-digits": random_digits,
    "random-moving-digits": random_moving_digits,
    "random-cifar10": random_cifar10,
    "random-actions": random_actions,
    "random-ucf101-hmdb51": random_ucf101_hmdb51,
    "random-sports1m-kinetics": random_sports1m_kinetics,
    "redrawn-digits": redrawn_digits,
    "redrawn-moving-digits": redrawn_moving_digits,
    "redrawn-cifar10": redrawn_cifar10,
    "arbitrary-digits": arbitrary_digits,
    "arbitrary-cifar10": arbitrary_cifar10,
    "cluster-digits": cluster_digits,
    "cluster-moving-digits": cluster_moving_digits,
    "cluster-cifar10": cluster_cifar10,
    "cluster-imagenet-alexnet": cluster_imagenet_alexnet,
    "cluster-imagenet-vgg16": cluster_imagenet_vgg16,
    "cluster-yfcc-alexnet": cluster_yfcc_alexnet,
    "pretexts-digits": pretexts_digits,
    "pretexts-cifar10": pretexts_cifar10,
    "statefarm": statefarm,
    "statefarm-by-driver": statefarm_by_driver,
}

RENAMED = {"checkpoint_every": "now `checkpoint_minutes`, in minutes instead of steps"}
"""Fields of configs in version 0.1 that have another name."""


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
    with _errors_named(name, path):
        module = _load(path)
    if not inspect.isfunction(found := getattr(module, function, None)):
        raise InputError(f"no function '{function}' in '{path}': give the name of one")
    return found


def _load(path: str) -> ModuleType:
    """The module of a user's file, which may import its neighbors as a script may."""
    # The prefix keeps the module from hiding another one.
    stem = os.path.splitext(os.path.basename(path))[0]
    spec = importlib.util.spec_from_file_location(f"raylabel_recipe_{stem}", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # tyro reads the fields' docstrings there
    if _folder(path) not in sys.path:
        sys.path.insert(0, _folder(path))  # it stays there: a function of the file may import when it is called
    spec.loader.exec_module(module)
    return module


def _pickle_by_value(folder: str) -> None:
    """Other nodes do not have the files of this folder: what is pickled contains what it needs of their modules."""
    for name, module in list(sys.modules.items()):
        first = name.partition(".")[0]
        if first != "raylabel" and _is_in(folder, sys.modules.get(first)):
            cloudpickle.register_pickle_by_value(module)


def _is_in(folder: str, module: ModuleType | None) -> bool:
    """Whether the file of a module, or the folder of a package, is directly in the folder."""
    file = getattr(module, "__file__", None)
    return bool(file) and folder == (_folder(_folder(file)) if hasattr(module, "__path__") else _folder(file))


def _folder(path: str) -> str:
    return os.path.dirname(os.path.abspath(path))


@contextmanager
def _errors_named(name: str, path: str) -> Iterator[None]:
    """Raises what the user's code of a recipe raises as an InputError that names the file and the line."""
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, SyntaxError) and error.filename:
            file, line = error.filename, error.lineno
        else:
            frames = traceback.extract_tb(error.__traceback__)
            own = [frame for frame in frames if _folder(frame.filename) == _folder(path)]
            file, line = (own[-1].filename, own[-1].lineno) if own else (path, None)
        where = f"{file}, line {line}" if line else file
        what = error.msg if isinstance(error, SyntaxError) else one_line(error)
        for old, new in RENAMED.items():
            if f"unexpected keyword argument '{old}'" in what:
                what += f" ({new})"
        raise InputError(f"recipe '{name}' failed in {where}: {type(error).__name__}: {what}; fix the file") from error


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
    arguments = [data] if takes else []
    if function in NAMED.values():
        return function(*arguments)
    path = inspect.getfile(function)
    with _errors_named(function.__name__, path):
        recipe = function(*arguments)
    _pickle_by_value(_folder(path))  # its own module, and what it has imported by now
    return recipe
