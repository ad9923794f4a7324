"""The exact search for near-duplicates against faiss: rows of a corpus per second and core, and the same pairs.

    python tests/bench/bench_dedup.py
    python tests/bench/bench_dedup.py --quick
    python tests/bench/bench_dedup.py --large     # 2 million rows against 50,000, and 20 million against 1,000

5,000 reference features and 20,000 of a corpus, of 512 numbers, like those behind a ReLU, with 200 planted
near-duplicates whose cosines are about the threshold. The other arm is `faiss.IndexFlatL2` on the references, one
thread as ours: the nearest reference of each row, and then `range_search` of the rows whose nearest is near enough.

`--large`: features of as many numbers as the descriptors of pictures that runs search, which stream past the references
in a process of its own, one thread. Figures: rows per second, the memory that it takes at most, and whether the planted
pairs are found.
"""

import argparse
import resource
import time
from collections.abc import Callable

import faiss
import numpy as np
import torch
from figures import interleave, print_ratio, print_value
from processes import in_fresh_process

from raylabel.compute.resources import Cluster, Node
from raylabel.features.search import References

D, REFERENCES, ROWS, PLANTED, THRESHOLD, BATCH = 512, 5_000, 20_000, 200, 0.95, 256
DESCRIPTOR, BLOCK, LARGE_THRESHOLD = 192, 4096, 0.9
LARGE = ((50_000, 2_000_000), (1_000, 20_000_000))

Found = list[tuple[int, int]]


def features() -> tuple[np.ndarray, np.ndarray]:
    """(references, corpus), float16 [E, D] and [N, D] of unit length."""
    rng = np.random.default_rng(0)
    both = np.maximum(rng.standard_normal((REFERENCES + ROWS, D), np.float32), 0)
    copied = REFERENCES + rng.choice(ROWS, PLANTED, replace=False)
    both[copied] = both[rng.choice(REFERENCES, PLANTED, replace=False)]
    noise = rng.uniform(0, 0.5, (PLANTED, 1)).astype(np.float32)  # a cosine of 0.95 at about 0.23
    both[copied] += noise * rng.standard_normal((PLANTED, D), np.float32)
    both /= np.linalg.norm(both, axis=1, keepdims=True)
    return both[:REFERENCES].astype(np.float16), both[REFERENCES:].astype(np.float16)


def ours(precision: str, references: np.ndarray, corpus: np.ndarray) -> Found:
    known, pairs = References(references, THRESHOLD, precision), []
    for first in range(0, len(corpus), BATCH):
        found = known.pairs(corpus[first : first + BATCH])
        pairs += zip((first + found.at).tolist(), found.reference.tolist(), strict=True)
    return pairs


def with_faiss(references: np.ndarray, corpus: np.ndarray) -> Found:
    index, pairs = faiss.IndexFlatL2(D), []
    index.add(references.astype(np.float32))  # pyright: ignore[reportCallIssue]
    radius = 2 - 2 * THRESHOLD
    for first in range(0, len(corpus), 4096):
        queries = corpus[first : first + 4096].astype(np.float32)
        distance, _ = index.search(queries, 1)  # pyright: ignore[reportCallIssue]
        (near,) = np.nonzero(distance[:, 0] < radius)
        if len(near):
            ends, _, found = index.range_search(queries[near], radius)  # pyright: ignore[reportCallIssue]
            pairs += zip((first + near).repeat(np.diff(ends.astype(np.int64))).tolist(), found.tolist(), strict=True)
    return pairs


def stream(references: int, rows: int, precision: str) -> tuple[float, float, int, int]:
    """(rows per second, bytes of memory at most beside those before the search, planted pairs, those that are found).

    There is no room for so many features. So blocks are the same numbers in another order each time, which is a
    rotation of the space that the references do not follow; only the time of the search is counted."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    both = np.maximum(rng.standard_normal((references + BLOCK, DESCRIPTOR), np.float32), 0)
    both /= np.linalg.norm(both, axis=1, keepdims=True)
    others, block = both[:references].astype(np.float16), both[references:].astype(np.float16)
    before, spent, planted, found = _resident(), 0.0, 0, 0
    known = References(others, LARGE_THRESHOLD, precision)
    for _ in range(rows // BLOCK):
        mine = block[:, rng.permutation(DESCRIPTOR)]
        at, of = rng.choice(BLOCK, 3, replace=False), rng.choice(references, 3, replace=False)
        mine[at] = others[of]
        begin = time.perf_counter()
        pairs = known.pairs(mine)
        spent += time.perf_counter() - begin
        both_of = {*zip(pairs.at.tolist(), pairs.reference.tolist(), strict=True)}
        planted, found = planted + 3, found + len(both_of & {*zip(at.tolist(), of.tolist(), strict=True)})
    return rows // BLOCK * BLOCK / spent, _resident() - before, planted, found


def _resident() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument(
        "--precision",
        choices=("auto", "bf16", "fp32"),
        default="auto",
        help="of the screen; default: what raylabel chooses for this CPU",
    )
    parser.add_argument("--large", action="store_true", help="more rows and references than faiss is compared with")
    arguments = parser.parse_args()
    if arguments.large:
        precision = Cluster((Node(1, 0),)).precision(arguments.precision)
        for references, rows in LARGE:
            rate, memory, planted, found = in_fresh_process(stream, references, rows, precision)
            name = f"{rows:,} rows of {DESCRIPTOR} numbers against {references:,} in {precision}"
            print_value("dedup", name, [rate], "rows/s")
            print_value("dedup", f"{name}: memory of the search", [memory / 1e6], "MB")
            print_value("dedup", f"{name}: planted pairs that are found, of {planted}", [found], "pairs")
        return
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    data, pairs = features(), dict[str, Found]()
    precision = Cluster((Node(1, 0),)).precision(arguments.precision)

    def timed(name: str, search: Callable[..., Found], *settings: str) -> Callable[[], float]:
        def run() -> float:
            begin = time.perf_counter()
            pairs[name] = search(*settings, *data)
            return ROWS / (time.perf_counter() - begin)

        return run

    arms = {"ours": timed("ours", ours, precision), "faiss": timed("faiss", with_faiss)}
    rates = interleave(arms, 1 if arguments.quick else 5)
    if sorted(pairs["ours"]) != sorted(pairs["faiss"]):
        raise SystemExit(f"other pairs than faiss: {set(pairs['ours']) ^ set(pairs['faiss'])}")
    name = f"{ROWS:,} rows against {REFERENCES:,} in {precision}, {len(pairs['ours'])} pairs"
    print_ratio("dedup", name, "IndexFlatL2, one thread", rates["ours"], rates["faiss"])
    for arm, values in rates.items():
        print_value("dedup", f"{name}: {arm}", values, "rows/s")


if __name__ == "__main__":
    main()
