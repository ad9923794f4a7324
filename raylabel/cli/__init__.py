"""The command line: what `raylabel COMMAND` and `python jobs/COMMAND.py` do."""

import os

# Ray reads these when it is imported, which is after this module.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
