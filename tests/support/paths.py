"""Where the repository keeps what tests start as processes of their own."""

import os
from pathlib import Path

SUPPORT = Path(__file__).resolve().parent
REPOSITORY = SUPPORT.parents[1]
JOBS = REPOSITORY / "jobs"
DEPLOY = REPOSITORY / "deploy"

PYTHONPATH = os.pathsep.join(map(str, (SUPPORT, REPOSITORY)))
"""For a process that imports these modules and the package."""
