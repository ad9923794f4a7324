"""What a training is."""

from dataclasses import dataclass
from typing import Any

from raylabel.media.view import View
from raylabel.models import Model
from raylabel.store.artifact import Artifact
from raylabel.training.config import Train
from raylabel.training.mixed_stream import MixedStream, Mixture
from raylabel.training.stream import Stream


@dataclass(frozen=True, kw_only=True)
class TrainingTask:
    """One training: everything that a worker needs for it, as plain data that can be sent to another process."""

    model: Model
    classes: int
    examples: Artifact
    config: Train
    view: View
    seed: int
    init: Artifact | None = None
    """Weights to start from: a trained network, or others that the user gives; None: random weights."""
    continued: bool = False
    """Whether trainings continue each other: the momentum of SGD goes on from `init` for the layers that are taken, and
    is kept with the trained network."""
    validation: Artifact | None = None
    """EXAMPLES to validate on, if `config.validate` is given."""
    mixture: Mixture | None = None
    """Other EXAMPLES that are mixed into `examples`."""
    precision: str = ""
    """'bf16' or 'fp32'; empty until it is chosen for the hardware."""
    board: Any = None
    """The actor to which rank 0 reports progress; None until it is started."""

    @property
    def stream(self) -> Stream:
        """The items that it trains on."""
        if self.mixture:
            return MixedStream(self.examples, self.mixture, self.seed)
        return Stream(self.examples, self.seed, several=self.config.loss == "bce")
