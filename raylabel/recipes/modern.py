"""A recipe with the training of today: the one of torchvision's second ImageNet weights."""

from dataclasses import replace

from raylabel.media.view import View
from raylabel.recipes.recipe import Recipe
from raylabel.training.config import Train
from raylabel.training.schedule import Schedule, scaled_lr

_EPOCHS, _BATCH, _STEPS = 600, 1024, 600 * 1_281_167 / 1024
# torchvision averages every 32 steps, with a decay that is scaled by batch and epochs: over 1/25.6 of the training.
_AVERAGES = _STEPS * (1 - 0.99998) * _BATCH / _EPOCHS


def modern(recipe: Recipe) -> Recipe:
    """The recipe with the values of torchvision's `ResNet50_Weights.IMAGENET1K_V2` in each training, and so in the
    control: batch-scaled rates of 0.5 at 1,024 with a cosine, weight decay without norms and biases, label smoothing,
    mixup, CutMix, TrivialAugment, random erasing, an average of the weights, and for pictures of 224 pixels a smaller
    training crop. Fine-tuning keeps its own peak rate, and has no warm-up.

    The values are those of the training recipe in torchvision's references for classification ("How to train
    state-of-the-art models using torchvision's latest primitives", 2021), for 600 epochs of ImageNet; warm-up and
    average take the same fraction of any length. Left out are its repeated augmentation and the decay of biases.
    Nothing was tuned on a test set of raylabel's recipes.
    """
    teacher = recipe.teacher
    if teacher.given_weights:
        teacher = replace(teacher, view=recipe.teacher_view)  # the one that it was trained for
    elif teacher.train:
        view = teacher.view and _view(teacher.view)
        teacher = replace(teacher, train=_train(teacher.train), view=view)
    rate, control = recipe.finetune.schedule.lr, recipe.control
    return replace(
        recipe,
        name=f"{recipe.name}-modern",
        view=_view(recipe.view),
        teacher=teacher,
        pretrain=_train(recipe.pretrain),
        finetune=_train(recipe.finetune, Schedule(lr=rate, warmup=0.0, decay="cosine")),
        control=replace(
            control, train=control.train and _train(control.train), view=control.view and _view(control.view)
        ),
    )


def _train(config: Train, schedule: Schedule | None = None) -> Train:
    lr = scaled_lr(config.batch, base=0.5 / _BATCH * 256)
    return replace(
        config,
        schedule=schedule or Schedule(lr=lr, warmup=5 / _EPOCHS, warmup_lr=lr / 100, decay="cosine"),
        optimizer="sgd",
        momentum=0.9,
        weight_decay=2e-5,
        decay_norms=False,
        label_smoothing=0.1,
        mixup=0.2,
        cutmix=1.0,
        ema=max(0.0, 1 - _AVERAGES / config.steps),
    )


def _view(view: View) -> View:
    changed = replace(view, augment="trivial", erase=0.1)
    if view.size == 224 and not view.clip and not view.eval_size:
        changed = replace(changed, size=176, eval_size=224, resize=232)
    return changed
