"""A short pilot on the cluster measures the speed and the memory of each kind of work.

It times the code of the run, in as many processes as the run will have, since they slow each other down. Speed does not
depend on the weights, so a network that is not trained yet is replaced by one with random weights.
"""

from raylabel.plan.pilot.comparing import Compared, Inside, measure_comparing, stored_thumbnails
from raylabel.plan.pilot.labeling import Labeled, MeasuredHead, measure_head, measure_labeling, random_network
from raylabel.plan.pilot.storage import Materialized, Selected, Sorted, measure_materializing, measure_selection
from raylabel.plan.pilot.training import Trained, measure_training

__all__ = [
    "Compared",
    "Inside",
    "Labeled",
    "Materialized",
    "MeasuredHead",
    "Selected",
    "Sorted",
    "Trained",
    "measure_comparing",
    "measure_head",
    "measure_labeling",
    "measure_materializing",
    "measure_selection",
    "measure_training",
    "random_network",
    "stored_thumbnails",
]
