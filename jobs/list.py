"""`raylabel list` from a checkout that is not installed. See raylabel/cli/list.py."""

from raylabel.cli.list import main

if __name__ == "__main__":
    main()
