"""The command `raylabel semi-supervised`, for `python jobs/semi_supervised.py`: see raylabel/cli/semi_supervised.py."""

from raylabel.cli.semi_supervised import main

if __name__ == "__main__":
    main()
