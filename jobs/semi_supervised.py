"""`raylabel semi-supervised` from a checkout that is not installed. See raylabel/cli/semi_supervised.py."""

from raylabel.cli.semi_supervised import main

if __name__ == "__main__":
    main()
