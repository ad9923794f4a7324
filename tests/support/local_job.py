"""The main job, except that networks are trained and score in its own process: for that, others take two minutes to
start.

Used as a script, with the arguments of the job.
"""

import sys
import tempfile
from pathlib import Path

from paths import JOBS
from scoring import scored_in_this_process
from trainings import in_this_process

from raylabel.cli.semi_supervised import main

if __name__ == "__main__":
    sys.argv[0] = str(JOBS / "semi_supervised.py")
    with tempfile.TemporaryDirectory() as folder, in_this_process(Path(folder)), scored_in_this_process(Path(folder)):
        main()
