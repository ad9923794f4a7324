"""Named transfers."""

from raylabel.corpus import Corpus
from raylabel.media.view import View
from raylabel.recipes.transfer import Transfer
from raylabel.training.config import Train
from raylabel.training.schedule import Schedule, scaled_lr


def sign_digits(data: str) -> Transfer:
    """Ten hand signs, of which 160 labels are trained on and 40 are for temperatures; not yet run.

    `raylabel transfer sign-digits --data DIR --networks NETWORK ...`; `data` contains labeled-200.parquet, test.parquet
    and classes.txt.
    """
    classes, lr = f"{data}/classes.txt", scaled_lr(64, base=0.2)
    steps = Schedule(lr=lr, warmup=0.05, drops=3, factor=0.1)
    train = Train(images=30_000, batch=64, schedule=steps, weight_decay=5e-4)
    return Transfer(
        name="sign-digits",
        labeled=Corpus(uri=(f"{data}/labeled-200.parquet",), classes=classes),
        test=Corpus(uri=(f"{data}/test.parquet",), classes=classes),
        view=View(size=48, resize=48, min_scale=0.5),
        finetune=train,
        probe=Train(images=30_000, batch=64, schedule=steps, weight_decay=0.0),
    )
