"""One epoch on arbitrary labels, then the head on true ones: the fast.ai post on arbitrary labels, with controls.

- raylabel arbitrary-labels                                     embedded digits, on a laptop
- raylabel arbitrary-labels arbitrary-cifar10 --data DIR        pictures of CIFAR-10
- raylabel arbitrary-labels statefarm --data DIR                the post's own pictures
- raylabel arbitrary-labels arbitrary-digits --arms arbitrary frozen calibrated
- raylabel arbitrary-labels arbitrary-digits --help             what each field means

The first arm is compared with the others on the same test samples.
"""

from raylabel.cli.launch import Options, launched
from raylabel.recipes.arbitrary_labels import ArbitraryLabels


def main() -> None:
    with launched(__doc__ or "", Options[ArbitraryLabels]) as (root, options):
        # Imported now, because PyTorch takes seconds: --help and a wrong field need not wait for it.
        from raylabel.experiments.arbitrary_labels import write_arbitrary_labels
        from raylabel.experiments.terminal import print_comparison
        from raylabel.pipelines.arbitrary_labels import ArbitraryLabelsRun

        page, comparison = write_arbitrary_labels(ArbitraryLabelsRun(root, options.recipe))
        root.uses.finish(f"{page.name}-{page.digest}")
        print_comparison(comparison, page.uri)
