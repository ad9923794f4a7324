"""`raylabel transfer` from a checkout that is not installed. See raylabel/cli/transfer.py."""

from raylabel.cli.transfer import main

if __name__ == "__main__":
    main()
