"""The head of a teacher on the features of a frozen network, in numbers and in words."""

from dataclasses import dataclass
from typing import Any

from raylabel.text import listed, percent


@dataclass(frozen=True, kw_only=True)
class TriedStrength:
    """A strength of the L2 penalty that was tried."""

    strength: float
    """C of scikit-learn: the smaller, the stronger the penalty."""
    accuracy: float
    """Top-1 in cross-validation on the labeled set, a fraction."""


@dataclass(frozen=True, kw_only=True)
class FittedHead:
    """A logistic regression on features of unit length."""

    strength: float
    """The one that is used."""
    samples: int
    """Labeled samples that it is fitted to."""
    without: int
    """Labeled samples without a feature, since they could not be read."""
    validation: list[TriedStrength]
    """All strengths; empty if only one was given, which is not validated."""

    @classmethod
    def of(cls, info: dict[str, Any]) -> "FittedHead":
        """`info`: of the teacher's artifact."""
        tried = [TriedStrength(**one) for one in info["validation"]]
        return cls(**{name: info[name] for name in ("strength", "samples", "without")}, validation=tried)

    @property
    def sentence(self) -> str:
        """'strength 10 (82.0% in cross-validation), fitted to 100 labeled samples'."""
        found = {one.strength: one.accuracy for one in self.validation}.get(self.strength)
        how = "" if found is None else f" ({percent(found)} in cross-validation)"
        without = f", {self.without:,} could not be read" if self.without else ""
        return f"strength {self.strength:g}{how}, fitted to {self.samples:,} labeled samples{without}"


@dataclass(frozen=True, kw_only=True)
class ZeroShotHead:
    """The embeddings of the names of the classes by the text tower of a network of open_clip."""

    templates: list[str]
    """Sentences with {} in the place of a name."""
    names: list[str]
    """The name of each class, in the order of the classes."""

    @classmethod
    def of(cls, info: dict[str, Any]) -> "ZeroShotHead":
        """`info`: of the teacher's artifact."""
        return cls(templates=info["templates"], names=info["names"])

    @property
    def sentence(self) -> str:
        """'zero-shot, of the names 'cat', 'dog' and 3 more, in the templates 'a photo of a {}.''"""
        return f"zero-shot, of the names {listed(self.names)}, in the templates {listed(self.templates)}"
