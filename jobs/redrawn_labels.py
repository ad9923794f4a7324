"""`raylabel redrawn-labels` from a checkout that is not installed. See raylabel/cli/redrawn_labels.py."""

from raylabel.cli.redrawn_labels import main

if __name__ == "__main__":
    main()
