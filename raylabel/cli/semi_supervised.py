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
        from raylabel.pipelines.rounds import next_round
        from raylabel.pipelines.semi_supervised import Run
        from raylabel.report.rounds import print_rounds, round_of, write_rounds
        from raylabel.report.run import write_report
        from raylabel.report.terminal import print_summary
        from raylabel.tracking.tracker import say_where, tracked

        recipe, run, rounds = options.recipe, None, []
        while recipe:
            before, start = run, prepare(root, recipe)
            find_existing(Run(ReadOnlyRoot(root.uri, root), recipe, start))
            with tracked(root, recipe, start) as tracker:
                run = Run(root, recipe, start, tracker.watch)
                page, summary = write_report(run)
                tracker.finish(summary.metrics, page)
            print_summary(summary, page.uri)
            if options.recipe.rounds:
                rounds.append(round_of(run, summary, page, before))
            recipe = next_round(run)
            if not recipe:
                root.uses.finish(f"{page.name}-{page.digest}")
        if rounds:
            print_rounds(rounds, write_rounds(root, options.recipe.name, rounds).uri)
        say_where(root)
