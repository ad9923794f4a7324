"""The command `raylabel plan`, for `python jobs/plan.py`: see raylabel/cli/plan.py."""

from raylabel.cli.plan import main

if __name__ == "__main__":
    main()
