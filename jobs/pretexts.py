"""`raylabel pretexts` from a checkout that is not installed. See raylabel/cli/pretexts.py."""

from raylabel.cli.pretexts import main

if __name__ == "__main__":
    main()
