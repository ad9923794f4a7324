"""Folders of the repository with scripts that tests start as processes."""

import os
from pathlib import Path

SUPPORT = Path(__file__).resolve().parent
REPOSITORY = SUPPORT.parents[1]
JOBS = REPOSITORY / "jobs"
DEPLOY = REPOSITORY / "deploy"

PYTHONPATH = os.pathsep.join(map(str, (SUPPORT, REPOSITORY)))
"""PYTHONPATH of a process that imports the support modules and the package."""
