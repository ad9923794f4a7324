"""How fast random labels are memorized that are drawn again (Pondenkandath et al. 2018, Figure 1): 984 pictures of
CIFAR-10 and 500 clips of `moving-digits`, three paired seeds, with controls at redraws 1 and 4.

    python tests/bench/bench_redrawing.py --data DIR    # DIR: the folder with cifar10
    python tests/bench/bench_redrawing.py --quick       # one seed and two redraws

The length of a training was chosen by trainings on other random labels, of seed 0 of torch's generator, so that the
first labels are memorized. A training that did not reach an accuracy counts as its whole length, and is counted.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace

from figures import print_paired, print_value
from processes import accuracy_arguments, connect

from raylabel.compute.resources import Resources
from raylabel.experiments.redrawing import epochs_to, write_redrawing
from raylabel.pipelines.redrawing import Drawing, RedrawingRun
from raylabel.recipes.memorized import redrawn_cifar10, redrawn_moving_digits
from raylabel.recipes.redrawing import FRESH, KEPT, Redrawing
from raylabel.store.artifact import Root

SETS = ("cifar10", "moving-digits")
Key = tuple[int, str]
"""Redraw and start of a training."""


def main() -> None:
    arguments = accuracy_arguments(__doc__, sets=SETS)
    with tempfile.TemporaryDirectory(prefix="bench-redrawing-") as folder:
        connect()
        root = Root.open(arguments.root or f"{folder}/root")
        for name in arguments.sets:
            recipe = redrawn_cifar10(f"{arguments.data}/cifar10") if name == "cifar10" else redrawn_moving_digits()
            recipe = replace(recipe, resources=Resources(workers=arguments.workers))
            measure(root, name, recipe, arguments.quick)


def measure(root: Root, name: str, recipe: Redrawing, quick: bool) -> None:
    found: dict[Key, list[Drawing]] = {}
    length = 0.0
    for seed in (0,) if quick else (0, 1, 2):
        short = {"redraws": min(2, recipe.redraws), "controlled": (1,)} if quick else {}
        run = RedrawingRun(root, replace(recipe, seed=seed, **short))
        write_redrawing(run)
        for one in run.drawings:
            found.setdefault((one.redraw, one.start), []).append(one)
        length = recipe.train.processed / run.drawings[0].curve.samples
    epochs: dict[float, dict[Key, list[float]]] = {}
    for target in recipe.train.validate.targets:
        to = epochs[target] = {}
        for key, drawings in found.items():
            reached = [epochs_to(one, target) for one in drawings]
            to[key] = [length if one is None else one for one in reached]
            missed = f", {reached.count(None)} not reached" if None in reached else ""
            print_value(name, f"{describe(key)}: epochs to {100 * target:g}%{missed}", to[key], "epochs")
    area = {key: [100 * one.curve.area for one in drawings] for key, drawings in found.items()}
    for key, drawings in found.items():
        print_value(name, f"{describe(key)}: mean accuracy", area[key], "%")
        print_value(name, f"{describe(key)}: loss of the first epoch", [one.first_loss for one in drawings], "nats")
    if not quick:
        for target, to in epochs.items():
            compare(name, f"epochs to {100 * target:g}%", to, "epochs")
        compare(name, "mean accuracy", area, "points")


def compare(name: str, figure: str, values: Mapping[Key, Sequence[float]], unit: str) -> None:
    """Each redraw against the first labels, and at each redraw with controls all starts against a new network."""
    for redraw, start in values:
        if start == KEPT:
            first = values[0, FRESH]
            print_paired(
                name,
                f"{describe((redraw, start))} minus the first labels, {figure}",
                values[redraw, start],
                first,
                unit,
            )
        if redraw and start != FRESH and (redraw, FRESH) in values:
            fresh = values[redraw, FRESH]
            print_paired(
                name, f"{describe((redraw, start))} minus a new network, {figure}", values[redraw, start], fresh, unit
            )


def describe(key: Key) -> str:
    return f"redraw {key[0]} from {key[1]}" if key[0] else "first labels"


if __name__ == "__main__":
    main()
