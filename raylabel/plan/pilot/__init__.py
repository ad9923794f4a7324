"""What a short pilot measures on the cluster at hand: how fast each kind of work goes, and what it needs.

The code that is timed is that of the run, in as many processes as the run will have, since they slow each other down.
Speed does not depend on weights: for a network that is not trained yet one with random weights stands in.
"""

from raylabel.plan.pilot.labeling import Labeled, measure_labeling, random_network
from raylabel.plan.pilot.storage import Materialized, Selected, Sorted, measure_materializing, measure_selection
from raylabel.plan.pilot.training import Trained, measure_training

__all__ = [
    "Labeled",
    "Materialized",
    "Selected",
    "Sorted",
    "Trained",
    "measure_labeling",
    "measure_materializing",
    "measure_selection",
    "measure_training",
    "random_network",
]
