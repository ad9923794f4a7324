"""Semi-supervised learning from a large unlabeled corpus (Yalniz et al. 2019, arXiv 1905.00546).

- python jobs/semi_supervised.py                          the embedded example, `digits`
- python jobs/semi_supervised.py cifar10 --data DIR       a built-in recipe
- python jobs/semi_supervised.py my.py:my_recipe          your own: a function that returns a Recipe
- python jobs/semi_supervised.py digits --select.k 50     any field of a recipe can be set
- python jobs/semi_supervised.py digits --help            what each field means
"""

from raylabel.cli.launch import Options, launched
from raylabel.pipelines.semi_supervised import Run
from raylabel.report.run import write_report
from raylabel.report.terminal import print_summary

if __name__ == "__main__":
    with launched(__doc__ or "", Options) as (root, options):
        page, summary = write_report(Run(root, options.recipe))
        print_summary(summary, page.uri)
