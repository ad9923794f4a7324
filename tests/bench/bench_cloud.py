"""What raylabel costs on object stores and on many machines: requests, bytes, waits and memory.

    python tests/bench/bench_cloud.py            all rows, some of which take many minutes
    python tests/bench/bench_cloud.py 1 4 5      some rows

The stores are those of tests/support/cloud.py: 30 ms a request, 80 MB/s a stream. Rows are those of "Object stores" in
docs/performance.md.
"""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

MODULES = ("cloud_corpus", "cloud_examples", "cloud_scoring", "cloud_tables", "cloud_training")


def rows() -> dict[int, Callable[[], None]]:
    """Number → the function that measures and prints that row."""
    found = {}
    for module in map(importlib.import_module, MODULES):
        found |= {int(name.removeprefix("row_")): f for name, f in vars(module).items() if name.startswith("row_")}
    return dict(sorted(found.items()))


if __name__ == "__main__":
    known = rows()
    for number in map(int, sys.argv[1:]) if len(sys.argv) > 1 else known:
        known[number]()
