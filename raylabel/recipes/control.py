"""How the control of a run is trained, where that differs from the student, and which controls are tried."""

from dataclasses import dataclass

from raylabel.errors import InputError
from raylabel.media.view import View
from raylabel.recipes.space import Search
from raylabel.training.config import Train


@dataclass(frozen=True, kw_only=True)
class Control:
    """How the control is trained on the labeled set alone. It has the student's architecture and is tested in the
    student's view. What is not set is as in the student's pre-training."""

    train: Train | None = None
    """Its own length, schedule and settings. None: those of `pretrain`, for as many images as pre-training and
    fine-tuning together."""
    view: View | None = None
    """Its own training view, for example with another augmentation; evaluation must be that of `view`. None: `view`."""
    sweep: Search = Search()
    """Controls to try, by fields of this config: 'train.schedule.lr=[0.05,0.1]' 'view.augment=[none,trivial]'. Each is
    trained on the labeled set without a validation split. The best one on the split is the control that is trained on
    the whole labeled set. Empty: none are tried."""

    def check(self, name: str, view: View) -> None:
        """InputError if a field is invalid. `name` is that of this config in the recipe, `view` the student's."""
        if self.train:
            self.train.check(f"{name}.train")
        self.sweep.check(f"{name}.sweep.")
        if not self.view:
            return
        self.view.check(f"{name}.view")
        own, tested = self.view.evaluation_identity, view.evaluation_identity
        if own["size"] != tested["size"]:
            raise InputError(
                f"{name}.view is for evaluation at {own['size']} pixels, but the control is tested as the student, at "
                f"{tested['size']}: set {name}.view.eval_size to {tested['size']}"
            )
        if changed := [key for key in {**own, **tested} if own.get(key) != tested.get(key)]:
            raise InputError(
                f"{name}.view.{changed[0]} is not that of view, but the control is tested as the student: change only "
                "fields of training, such as augment, erase, crop or flip"
            )
