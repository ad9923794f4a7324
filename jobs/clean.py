"""`raylabel clean` from a checkout that is not installed. See raylabel/cli/clean.py."""

from raylabel.cli.clean import main

if __name__ == "__main__":
    main()
