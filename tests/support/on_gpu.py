"""The device of the tests in tests/gpu, and the marks of each of their modules."""

import os

import pytest

DEVICE = os.environ.get("RAYLABEL_GPU_TESTS", "cuda")
GPU = DEVICE == "cuda"

# Warnings are shown, not errors: which ones CUDA's libraries give cannot be known without a GPU.
MARKS = [pytest.mark.gpu, pytest.mark.usefixtures("gpu"), pytest.mark.filterwarnings("default")]
