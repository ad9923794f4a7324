"""The command `raylabel sweep`, for `python jobs/sweep.py`: see raylabel/cli/sweep.py."""

from raylabel.cli.sweep import main

if __name__ == "__main__":
    main()
