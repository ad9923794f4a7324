"""Pre-training on random labels of one set, and fine-tuning on the true labels of another (Pondenkandath et al. 2018).

- raylabel random-labels                                        five digits, and the five others: on a laptop
- raylabel random-labels random-moving-digits --reverse         both ways, on video
- raylabel random-labels my.py:my_sets --labels none random shuffled true    a function that returns RandomPretraining
- raylabel random-labels random-digits --help                   what each field means

Labels of pre-training are none, random, shuffled or true; each is compared with none on the same test samples.
"""

from raylabel.cli.launch import Options, launched
from raylabel.recipes.random_labels import RandomPretraining


def main() -> None:
    with launched(__doc__ or "", Options[RandomPretraining]) as (root, options):
        # Imported now, because PyTorch takes seconds: --help and a wrong field need not wait for it.
        from raylabel.experiments.random_labels import write_random_labels
        from raylabel.experiments.terminal import print_comparison
        from raylabel.pipelines.random_labels import RandomLabelsRun

        page, comparison = write_random_labels(RandomLabelsRun(root, options.recipe))
        root.uses.finish(f"{page.name}-{page.digest}")
        print_comparison(comparison, page.uri)
