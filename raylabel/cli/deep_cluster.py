"""Pre-train without labels: a network learns the clusters of its own features (Caron et al. 2018).

- raylabel deep-cluster                                         embedded digits, on a laptop
- raylabel deep-cluster cluster-moving-digits                   embedded videos
- raylabel deep-cluster cluster-digits --kmeans.k 30            another number of clusters
- raylabel deep-cluster cluster-digits --help                   what each field means

Each round computes the features of all samples, clusters them, and trains on the clusters. The network of the last
round is a start for others: `--pretrain.init.weights`, or `raylabel transfer --networks`.
"""

from raylabel.cli.launch import Options, launched
from raylabel.recipes.deep_cluster import DeepCluster


def main() -> None:
    with launched(__doc__ or "", Options[DeepCluster]) as (root, options):
        # Imported now, because PyTorch takes seconds: --help and a wrong field need not wait for it.
        from raylabel.experiments.deep_cluster import write_deep_cluster
        from raylabel.experiments.terminal import print_comparison
        from raylabel.pipelines.deep_cluster import DeepClusterRun

        page, comparison = write_deep_cluster(DeepClusterRun(root, options.recipe))
        root.uses.finish(f"{page.name}-{page.digest}")
        print_comparison(comparison, page.uri)
