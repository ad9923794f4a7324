"""`raylabel sweep` from a checkout that is not installed. See raylabel/cli/sweep.py."""

from raylabel.cli.sweep import main

if __name__ == "__main__":
    main()
