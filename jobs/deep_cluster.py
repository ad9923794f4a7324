"""`raylabel deep-cluster` from a checkout that is not installed. See raylabel/cli/deep_cluster.py."""

from raylabel.cli.deep_cluster import main

if __name__ == "__main__":
    main()
