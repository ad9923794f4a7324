"""`raylabel random-labels` from a checkout that is not installed. See raylabel/cli/random_labels.py."""

from raylabel.cli.random_labels import main

if __name__ == "__main__":
    main()
