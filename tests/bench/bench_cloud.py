"""What raylabel costs on object stores and on many machines: requests, bytes, waits and memory.

    python tests/bench/bench_cloud.py            all rows, some of which take many minutes
    python tests/bench/bench_cloud.py 1 4 5      some rows

The stores are those of tests/support/cloud.py: 30 ms a request, 80 MB/s a stream. Rows are those of "Object stores" in
docs/performance.md.
"""

import argparse
import importlib
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

MODULES = ("cloud_corpus", "cloud_examples", "cloud_scoring", "cloud_tables", "cloud_training")


def rows() -> dict[int, list[Callable[[], None]]]:
    """Number → the functions that measure and print that row."""
    found = dict[int, list[Callable[[], None]]]()
    for module in map(importlib.import_module, MODULES):
        for name, function in vars(module).items():
            if name.startswith("row_"):
                found.setdefault(int(name.removeprefix("row_")), []).append(function)
    return dict(sorted(found.items()))


def main() -> None:
    known = rows()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", type=int, help=f"of {', '.join(map(str, known))}; default: all")
    wanted = parser.parse_args().rows or list(known)
    if unknown := sorted({*wanted} - {*known}):
        parser.error(f"no row {unknown[0]}: give some of {', '.join(map(str, known))}")
    for number in wanted:
        for measure in known[number]:
            measure()


if __name__ == "__main__":
    main()
