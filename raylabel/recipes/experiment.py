"""What the recipes of experiments that compare trainings have in common."""

from dataclasses import dataclass, field

from raylabel.compute.resources import Resources
from raylabel.media.view import View
from raylabel.models import Model
from raylabel.store.artifact import NOT_IDENTITY
from raylabel.training.media import Materialize


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Trainings of one network that are compared."""

    name: str
    """Name of the experiment in the report."""
    model: Model
    """The network."""
    view: View
    """How a sample becomes its input. Memorizing is without augmentation: `crop` 'center', no `flip`."""
    materialize: Materialize = Materialize()
    """How the training examples are stored."""
    seed: int = 0
    """Seed of every random choice: labels, weights, order, which samples are held out."""
    retry_rejects: bool = field(default=False, metadata=NOT_IDENTITY)
    """Read the samples again that an earlier run rejected."""
    resources: Resources = field(default=Resources(), metadata=NOT_IDENTITY)
    """Resources that the run may use; they do not change the identity of a result."""
