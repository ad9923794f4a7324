"""What the features of trained networks are worth on another labeled set (Yalniz et al. 2019, Table 8).

- raylabel transfer sign-digits --data DIR --networks runs/student-0a1b2c3d4e5f runs/control-0a1b2c3d4e5f
- raylabel transfer my.py:my_transfer --networks timm/resnet50.a1_in1k             a function that returns a Transfer
- raylabel transfer sign-digits --data DIR --networks resnet18=weights.safetensors --protocols logistic knn
- raylabel transfer sign-digits --data DIR --networks NETWORK random=NETWORK --layers layer1:4 layer2:4
- raylabel transfer sign-digits --help                                            what each field means

- raylabel transfer voc07-alexnet --data DIR --networks NETWORK                   several labels in one picture

The first network is compared with each of the others, on the same test samples.
"""

from raylabel.cli.launch import Options, launched
from raylabel.recipes.transfer import Transfer


def main() -> None:
    with launched(__doc__ or "", Options[Transfer]) as (root, options):
        # Imported now, because PyTorch takes seconds: --help and a wrong field need not wait for it.
        from raylabel.experiments.multi_label import write_multi_label
        from raylabel.experiments.terminal import print_comparison
        from raylabel.pipelines.transfer import TransferRun
        from raylabel.transfer.networks import candidates_of
        from raylabel.transfer.result import print_transfer, write_transfer

        recipe = options.recipe
        run = TransferRun(root, recipe, candidates_of(recipe.networks, recipe.view, recipe.seed))
        if recipe.several:
            page, comparison = write_multi_label(run)
            root.uses.finish(f"{page.name}-{page.digest}")
            print_comparison(comparison, page.uri)
            return
        page, summary = write_transfer(run)
        root.uses.finish(f"{page.name}-{page.digest}")
        print_transfer(summary, page.uri)
