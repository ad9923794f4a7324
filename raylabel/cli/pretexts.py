"""Pre-train one network without labels in several ways, and compare what its layers are worth (Caron et al. 2018).

- raylabel pretexts                                             embedded digits, on a laptop
- raylabel pretexts pretexts-cifar10 --data DIR                 CIFAR-10
- raylabel pretexts pretexts-digits --starts none layer_kmeans  some of them, or others
- raylabel pretexts pretexts-digits --help                      what each field means

A logistic regression on the frozen features of each layer says what they are worth.
"""

from raylabel.cli.launch import Options, launched
from raylabel.recipes.pretexts import Pretexts


def main() -> None:
    with launched(__doc__ or "", Options[Pretexts]) as (root, options):
        # Imported now, because PyTorch takes seconds: --help and a wrong field need not wait for it.
        from raylabel.experiments.pretexts import write_pretexts
        from raylabel.experiments.terminal import print_comparison
        from raylabel.pipelines.pretexts import PretextsRun

        page, comparison = write_pretexts(PretextsRun(root, options.recipe))
        root.uses.finish(f"{page.name}-{page.digest}")
        print_comparison(comparison, page.uri)
