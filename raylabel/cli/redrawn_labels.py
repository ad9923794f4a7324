"""How fast random labels are memorized that are drawn again and again (Pondenkandath et al. 2018, Figure 1).

- raylabel redrawn-labels                                       embedded digits, on a laptop
- raylabel redrawn-labels redrawn-cifar10 --data DIR            984 pictures of CIFAR-10
- raylabel redrawn-labels redrawn-digits --controls none norms conv1+bn1    other controls; names of layers with +
- raylabel redrawn-labels redrawn-digits --help                 what each field means

The weights are kept when labels are drawn again. Controls start from something else on the same labels.
"""

from raylabel.cli.launch import Options, launched
from raylabel.recipes.redrawing import Redrawing


def main() -> None:
    with launched(__doc__ or "", Options[Redrawing]) as (root, options):
        # Imported now, because PyTorch takes seconds: --help and a wrong field need not wait for it.
        from raylabel.experiments.redrawing import write_redrawing
        from raylabel.experiments.terminal import print_comparison
        from raylabel.pipelines.redrawing import RedrawingRun

        page, comparison = write_redrawing(RedrawingRun(root, options.recipe))
        root.uses.finish(f"{page.name}-{page.digest}")
        print_comparison(comparison, page.uri)
