"""The last layer that a frozen network gets, as a config."""

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from raylabel.errors import InputError
from raylabel.store.artifact import ADDED_LATER

Kind = Literal["none", "logistic", "zero-shot"]

TEMPLATES = ("a photo of a {}.",)


@dataclass(frozen=True, kw_only=True)
class Head:
    """A last layer on features of unit length. The default is none."""

    kind: Kind = "none"
    """logistic: a logistic regression with an L2 penalty, fitted to the labeled set. zero-shot: the embeddings of the
    names of the classes by the text tower of a network of open_clip; no label is used."""
    strengths: tuple[float, ...] = (0.01, 0.1, 1.0, 10.0, 100.0, 1_000.0, 10_000.0)
    """Of logistic: the inverse of the penalty, scikit-learn's C: the weight of the summed loss against half of the
    squared weights. Of several, the one with the highest accuracy in cross-validation, and of equal ones the smallest,
    is used."""
    folds: int = 5
    """Of logistic: folds of the cross-validation, at most the samples of the smallest class."""
    templates: tuple[str, ...] = field(default=TEMPLATES, metadata=ADDED_LATER)
    """Of zero-shot: sentences with {} in the place of a name. The embedding of a class is the mean over them."""
    names: str = field(default="", metadata=ADDED_LATER)
    """Of zero-shot: a text file with one name per line, in the order of the classes. Empty: the names of the classes,
    with a space for each '_'."""

    def check(self, name: str) -> None:
        """InputError if a field is invalid. `name` is its name in the recipe, such as 'teacher.head'."""
        if self.kind not in get_args(Kind):
            raise InputError(f"{name}.kind is {self.kind!r}: give {' or '.join(map(repr, get_args(Kind)))}")
        if not self.strengths or not all(0 < one < math.inf for one in self.strengths):
            raise InputError(f"{name}.strengths is {self.strengths}: give one or more positive numbers")
        if self.folds < 2:
            raise InputError(f"{name}.folds is {self.folds}: give at least 2")
        if not self.templates:
            raise InputError(f"{name}.templates is empty: give one or more, such as {TEMPLATES[0]!r}")
        for one in self.templates:
            if one.count("{}") != 1 or set("{}") & set(one.replace("{}", "")):
                raise InputError(f"{name}.templates has {one!r}: give {{}} once in each, and no other brace")
        for field_name in ("templates", "names"):
            if self.kind != "zero-shot" and (value := getattr(self, field_name)) != getattr(Head, field_name):
                raise InputError(f"{name}.{field_name} is {value!r}, which only a zero-shot head has: leave it out")

    @property
    def given(self) -> bool:
        return self.kind != "none"

    @property
    def fitted(self) -> bool:
        """Whether it is fitted to labeled samples."""
        return self.kind == "logistic"

    @property
    def zero_shot(self) -> bool:
        """Whether it is computed from names, and no feature of a labeled sample is needed."""
        return self.kind == "zero-shot"
