"""`raylabel arbitrary-labels` from a checkout that is not installed. See raylabel/cli/arbitrary_labels.py."""

from raylabel.cli.arbitrary_labels import main

if __name__ == "__main__":
    main()
