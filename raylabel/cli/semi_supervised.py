"""Semi-supervised learning from a large unlabeled corpus (Yalniz et al. 2019, arXiv 1905.00546).

- raylabel semi-supervised                          the embedded example, `digits`
- raylabel semi-supervised cifar10 --data DIR       a built-in recipe
- raylabel semi-supervised my.py:my_recipe          your own: a function that returns a Recipe
- raylabel semi-supervised digits --select.k 50     any field of a recipe can be set
- raylabel semi-supervised digits --help            what each field means
"""

from raylabel.cli.launch import Options, launched
from raylabel.recipes import Recipe


def main() -> None:
    with launched(__doc__ or "", Options[Recipe]) as (root, options):
        # Imported now, because PyTorch takes seconds: --help and a wrong field need not wait for it.
        from raylabel.pipelines.existing import ReadOnlyRoot, find_existing
        from raylabel.pipelines.inputs import prepare
        from raylabel.pipelines.semi_supervised import Run
        from raylabel.report.run import write_report
        from raylabel.report.terminal import print_summary
        from raylabel.tracking.tracker import say_where, tracked

        recipe, start = options.recipe, prepare(root, options.recipe)
        find_existing(Run(ReadOnlyRoot(root.uri, root), recipe, start))
        with tracked(root, recipe, start) as tracker:
            page, summary = write_report(Run(root, recipe, start, tracker.watch))
            tracker.finish(summary.metrics, page)
        root.uses.finish(f"{page.name}-{page.digest}")
        print_summary(summary, page.uri)
        say_where(root)
