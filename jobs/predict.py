"""`raylabel predict` from a checkout that is not installed. See raylabel/cli/predict.py."""

from raylabel.cli.predict import main

if __name__ == "__main__":
    main()
