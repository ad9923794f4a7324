"""`raylabel filters` from a checkout that is not installed. See raylabel/cli/filters.py."""

from raylabel.cli.filters import main

if __name__ == "__main__":
    main()
