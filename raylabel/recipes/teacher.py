"""The teacher of a recipe: the network that labels the corpus, and where its weights are from."""

from dataclasses import dataclass, field, replace

from raylabel.errors import InputError
from raylabel.media.view import View
from raylabel.models import Model
from raylabel.models.clip_networks import is_clip
from raylabel.models.config import is_torchvision_name
from raylabel.models.timm_networks import is_timm
from raylabel.store.artifact import ADDED_LATER, NOT_IDENTITY
from raylabel.training.config import Train
from raylabel.training.head import Head


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """The model that labels the corpus: given as a checkpoint or by a weight name, or else trained here."""

    model: Model
    """Architecture of the teacher."""
    train: Train | None = None
    """How to train it on the labeled set, if neither checkpoint nor weights are given. To fine-tune a given network,
    name it in `train.init.weights`."""
    checkpoint: str = ""
    """A trained model, used as it is: a .safetensors file, a PyTorch state dict, or a folder with timm's config.json
    and model.safetensors or open_clip's open_clip_config.json and open_clip_model.safetensors."""
    weights: str = ""
    """A trained model, used as it is, by its name: torchvision's ('ResNet50_Weights.IMAGENET1K_V2'), that of timm or
    open_clip with the tag of the weights ('timm/resnet50.a1_in1k', 'clip/ViT-B-32.laion2b_s34b_b79k'), or a repository
    of the Hugging Face hub in the layout of one of them ('hf-hub:OWNER/NAME', perhaps with '@REVISION')."""
    head: Head = field(default=Head(), metadata=ADDED_LATER)
    """A head on the features of a frozen network, which are the given weights without their own last layer: fitted to
    the labeled set, or of a network of open_clip computed from the names of the classes."""
    features: bool = field(default=False, metadata=NOT_IDENTITY)
    """Store the features of the corpus too (FEATURES), if there is such a head, and compute the scores from them:
    another head, or one for other classes, then labels the corpus without reading it again. The scores are the same. A
    feature of D numbers takes 2 D bytes: a billion features of 768 numbers are 1.5 TB. For images."""
    view: View | None = None
    """View of the teacher if it is not the student's, for example with more frames (Yalniz et al. 2019 §5.1). If it is
    not given, and the weights are torchvision's for pictures, or timm's or open_clip's of the hub or of a folder in its
    layout, it is the student's with the size, resize, interpolation, mean and standard deviation that they were trained
    for."""
    unchecked: bool = field(default=False, metadata=NOT_IDENTITY)
    """Continue with a given or zero-shot teacher whose accuracy on the test set is near that of guessing, or would be
    three times as high if its classes were in another order. Otherwise the run ends before the corpus is labeled."""

    def __post_init__(self):
        if self.checkpoint and self.weights:
            raise InputError("teacher.checkpoint and teacher.weights are both given: keep one")
        if not (self.train or self.checkpoint or self.weights):
            raise InputError("teacher.train, teacher.checkpoint and teacher.weights are all missing: give one")
        self.head.check("teacher.head")
        if self.features and not self.head.given:
            raise InputError("teacher.features is set, but there is no head to fit to features: give teacher.head.kind")
        if self.head.zero_shot and not is_clip(self.model.arch):
            raise InputError(
                f"teacher.head.kind is 'zero-shot', but teacher.model.arch is '{self.model.arch}', which has no text "
                "tower: give a network of open_clip, such as clip/ViT-B-32.laion2b_s34b_b79k"
            )
        if self.head.given and not self.given_weights:
            raise InputError(
                f"teacher.head.kind is '{self.head.kind}', but there are no weights of a network to freeze: give "
                "teacher.weights or teacher.checkpoint"
            )

    @property
    def given_weights(self) -> str:
        """The weights that are given; empty if there are none."""
        return self.checkpoint or self.weights

    @property
    def given(self) -> bool:
        """Whether it is used as it is given."""
        return bool(self.given_weights) and not self.head.given

    @property
    def network(self) -> Model:
        """The architecture, with a head on features of unit length if one is fitted."""
        return replace(self.model, features="unit") if self.head.given else self.model

    @property
    def checked(self) -> bool:
        """Whether its classes may be in another order than the labels: those that no label was used for."""
        return self.given or self.head.zero_shot

    def view_in(self, view: View) -> View:
        """Its view, if `view` is the student's. InputError if it is that of weights whose preprocessing raylabel does
        not have."""
        arch, weights = self.model.arch, self.given_weights or (self.train.init.weights if self.train else "")
        if self.view or not (is_timm(arch) or is_clip(arch) or is_torchvision_name(weights)):
            return self.view or view
        from raylabel.models.sources import view_for  # imports PyTorch

        return view_for(self.model, weights, view)
