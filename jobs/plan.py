"""`raylabel plan` from a checkout that is not installed. See raylabel/cli/plan.py."""

from raylabel.cli.plan import main

if __name__ == "__main__":
    main()
