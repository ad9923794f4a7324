"""`raylabel deduplicate` from a checkout that is not installed. See raylabel/cli/deduplicate.py."""

from raylabel.cli.deduplicate import main

if __name__ == "__main__":
    main()
