"""Which layers memorize random labels: 200 digits, three paired seeds.

    python tests/bench/bench_depth.py
    python tests/bench/bench_depth.py --quick       # one seed

The labels are drawn again once. Networks start from the first layers of the one that memorized the first labels, up to
a depth, and from all but one block of it. The settings are those of `redrawn-digits`, and were not chosen by a result.
"""

import tempfile
from dataclasses import replace

from bench_redrawing import measure
from processes import accuracy_arguments, connect

from raylabel.compute.resources import Resources
from raylabel.recipes.memorized import redrawn_digits
from raylabel.store.artifact import Root

BLOCKS = ("conv1+bn1", "layer1", "layer2", "layer3", "fc")
"""Of resnet8x1, in order."""
UP_TO = tuple("+".join(BLOCKS[: i + 1]) for i in range(len(BLOCKS) - 1))
ALL_BUT = tuple("+".join(block for block in BLOCKS if block != one) for one in BLOCKS[:-1])
"""The last one, all but fc, is the deepest of `UP_TO`."""


def main() -> None:
    arguments = accuracy_arguments(__doc__)
    with tempfile.TemporaryDirectory(prefix="bench-depth-") as folder:
        connect()
        recipe = replace(
            redrawn_digits(),
            name="depth",
            redraws=1,
            controls=("none", "norms", "convolutions", *UP_TO, *ALL_BUT),
            controlled=(1,),
            resources=Resources(workers=arguments.workers),
        )
        measure(Root.open(arguments.root or f"{folder}/root"), "depth", recipe, arguments.quick)


if __name__ == "__main__":
    main()
