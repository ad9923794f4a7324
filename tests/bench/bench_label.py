"""Images per second of labeling, against the limit of the cores and against peers.

    pip install scikit-image     # the photographs; in the environment of raylabel, which runs the bench
    python -m venv PEERS         # an environment of its own for Daft, which needs an older pyarrow than raylabel
    PEERS/bin/pip install daft torch==VERSION torchvision pillow safetensors numpy     # VERSION: that of raylabel
    python tests/bench/bench_label.py --work FOLDER --peers PEERS/bin/python
    python tests/bench/bench_label.py --quick                     a smoke test; its figures mean little
    python tests/bench/bench_label.py --networks null --arms raylabel,dataloader

The steady state of every arm is measured as the difference of two runs: (large - small) images divided by T(large) -
T(small). Start-up, the filling and draining of the pipeline, and all work that does not depend on the number of images
are in both runs and cancel. (Timing from one committed file to another would count images that were in progress at the
first one, and with few large blocks the result would exceed the hardware's limit.) Each run has its own process, and
its own Ray if it needs one, so that no run profits from an earlier one. Both runs use whole shards, equally many for
every core. The rest of T(small) is printed as start-up.

All arms read the same files from the page cache and have the same weights. CPU-seconds are those of the whole machine,
so nothing else should run on it.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import label_networks
import label_peers
import label_raylabel
import numpy as np
from figures import interleave, print_ratio, print_value
from photographs import ROWS, Photographs, build
from processes import CORES, connect, in_fresh_process, in_other_environment

from raylabel.compute.resources import Cluster, Node

PEERS = {
    "dataloader": "DataLoader loop, channels_last, best settings",
    "daft": "Daft, channels_last, uint8 transforms, best settings",
    "daft_documented": "Daft, as its documentation shows it, fp32",
    "ray_docs": "Ray Data, as its documentation shows it, fp32",
}
ARMS = {"resnet18": ["raylabel", "limit", *PEERS], "null": ["raylabel", "dataloader", "daft"]}
# Shards per core in the small run: a few seconds of work, and more than are in progress at the same time.
SMALL = {"resnet18": 4, "null": 32}
AGREE = 0.99  # least share of images with the same best class; other resizing and bf16 change the scores a little


@dataclass
class Steady:
    """An arm that is run with two sizes; a call returns its images per second in the steady state."""

    name: str
    run: Callable[[int], tuple[float, label_peers.Found, str]]
    photographs: Photographs
    small: int
    seconds: float
    large: int = 0
    startup: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    best: np.ndarray | None = None
    contents: set[str] = field(default_factory=set)

    def __call__(self) -> float:
        """Images per second. The first call determines the size of the large run for `seconds` of steady state."""
        if not self.large:
            rate, _, _ = self._measure(2 * self.small)
            more = rate * self.seconds / ROWS
            self.large = self.small + max(1, round(more / CORES)) * CORES
        rate, startup, cpu = self._measure(self.large)
        self.startup.append(startup)
        self.cpu.append(cpu)
        return rate

    def _measure(self, large: int) -> tuple[float, float, float]:
        (short, used), (long, more) = (self._run(shards) for shards in (self.small, large))
        images = (large - self.small) * ROWS
        if long <= short:
            raise SystemExit(
                f"{self.name}: {large} shards took no longer than {self.small}: run the bench on an idle machine"
            )
        rate = images / (long - short)
        return rate, short - self.small * ROWS / rate, (more - used) / images

    def _run(self, shards: int) -> tuple[float, float]:
        before = _cpu_seconds()
        seconds, (ids, best), content = self.run(shards)
        used = _cpu_seconds() - before
        expected = np.bincount(np.arange(shards * ROWS) % (self.photographs.distinct * ROWS))
        if not np.array_equal(np.bincount(ids), expected):
            raise SystemExit(
                f"{self.name}: {len(ids)} images in the output, not the same {shards * ROWS} as in the input"
            )
        found = np.full(self.photographs.distinct * ROWS, -1)
        found[ids] = best
        if self.best is None or shards > self.small:
            self.best = found
        if content and shards == self.large:
            self.contents.add(content)
            if len(self.contents) > 1:
                raise SystemExit(f"{self.name}: two runs over the same shards gave different SCORES")
        return seconds, used


def _cpu_seconds() -> float:
    """CPU-seconds of all processes of the machine since it started, in user and system mode."""
    user, nice, system, *_ = (int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def _in_process(
    arm: str, network: str, count: int, photographs: Photographs, peers: str, settings: dict[str, Any]
) -> tuple:
    """`_timed` in a new process; that of Daft is of the interpreter `peers`."""
    if arm.startswith("daft"):
        seconds, found = in_other_environment(
            peers, "label_peers", "timed", "daft", network, photographs.shards(count), settings
        )
        return seconds, found, ""
    return in_fresh_process(_timed, arm, network, count, photographs, settings)


def _timed(arm: str, network: str, count: int, photographs: Photographs, settings: dict[str, Any]) -> tuple:
    """(seconds, best classes, hash of the output or "") of one run, without imports and the start of Ray.

    Only raylabel's output has a hash, because only its bytes must be the same in every run.
    """
    paths = photographs.files(count * ROWS) if arm == "ray_docs" else photographs.shards(count)
    if arm in ("raylabel", "ray_docs"):
        connect()
    if arm != "raylabel":
        return *label_peers.timed(arm, network, paths, settings), ""
    start = time.perf_counter()
    found, content = label_raylabel.raylabel(network, paths, photographs, **settings)
    return time.perf_counter() - start, found, content


def _settings(
    arm: str, network: str, photographs: Photographs, small: int, quick: bool, peers: str, precision: str
) -> dict[str, Any]:
    """The settings of raylabel, or the fastest of a peer, which are searched once and stored beside the corpus."""
    kind, bf16 = Path(network).stem, precision == "bf16"
    if arm not in ("dataloader", "daft"):
        return {"raylabel": {"precision": precision}, "daft_documented": label_peers.DAFT_DOCUMENTED}.get(arm, {})
    if quick:
        return (label_peers.dataloader_settings if arm == "dataloader" else label_peers.daft_settings)(kind, bf16)[-1]
    kept = Path(f"{photographs.folder}/{kind}-{precision}-{arm}.json")
    if kept.exists():
        return json.loads(kept.read_text())
    if arm == "dataloader":
        best = in_fresh_process(label_peers.sweep_dataloader, network, photographs.shards(small * 64), 8.0, bf16)
    else:

        def rate(choice: dict[str, Any]) -> float:
            return _daft_rate(network, photographs, small, peers, choice)

        best = max(label_peers.daft_settings(kind, bf16), key=rate)
        best = max(best, best | {"batch": label_peers.SMALL_BATCH}, key=rate)
    print(f"{arm}: best are {best}", file=sys.stderr, flush=True)
    kept.write_text(json.dumps(best))
    return best


def _daft_rate(network: str, photographs: Photographs, small: int, peers: str, choice: dict[str, Any]) -> float:
    seconds = [_in_process("daft", network, n, photographs, peers, choice)[0] for n in (small, 3 * small)]
    rate = 2 * small * ROWS / (seconds[1] - seconds[0])
    print(f"daft {choice}: {rate:,.4g} images/s", file=sys.stderr, flush=True)
    return rate


def bench(
    kind: str,
    arms: Sequence[str],
    photographs: Photographs,
    repeats: int,
    seconds: float,
    quick: bool,
    peers: str,
    precision: str,
) -> None:
    network = f"{photographs.folder}/{kind}.safetensors"
    in_fresh_process(label_networks.make, kind, network, photographs)
    small = SMALL[kind] * CORES // (2 if quick else 1)
    steady: dict[str, Steady] = {}
    for arm in (a for a in arms if a != "limit"):
        settings = _settings(arm, network, photographs, small, quick, peers, precision)

        def run(count: int, arm: str = arm, settings: dict[str, Any] = settings) -> Any:
            return _in_process(arm, network, count, photographs, peers, settings)

        steady[arm] = Steady(arm, run, photographs, small, seconds, large=2 * small if quick else 0)
    limits: dict[str, list[float]] = {}

    def limit() -> float:
        rates = label_raylabel.limit(network, photographs, seconds / 2, precision)
        for name, rate in rates.items():
            limits.setdefault(name, []).append(rate)
        return rates["limit"]

    calls: dict[str, Callable[[], float]] = {arm: limit if arm == "limit" else steady[arm] for arm in arms}
    rates = interleave(calls, repeats)
    _check_agreement(steady)
    _print(kind, precision, rates, steady, limits)


def _check_agreement(steady: dict[str, Steady]) -> None:
    (reference, first), *others = ((name, arm.best) for name, arm in steady.items())
    for name, best in others:
        assert first is not None and best is not None
        both = (first >= 0) & (best >= 0)
        share = (first[both] == best[both]).mean()
        print(f"{name}: {share:.2%} of {both.sum()} images have the best class of {reference}", file=sys.stderr)
        if share < AGREE:
            raise SystemExit(
                f"{name} and {reference} agree only on {share:.2%} of the images, so they do not do the same work"
            )


def _print(
    kind: str,
    precision: str,
    rates: dict[str, list[float]],
    steady: dict[str, Steady],
    limits: dict[str, list[float]],
) -> None:
    teacher = {"resnet18": f"ResNet-18 at 224 in {precision}", "null": "null teacher"}[kind]
    figure = f"{teacher}, shards to SCORES"
    mine = rates.get("raylabel")
    if mine and limits:
        print_ratio("label", figure, "1/(1/decode-only + 1/model-only)", mine, rates["limit"])
    for arm, name in PEERS.items():
        if mine and arm in rates:
            print_ratio("label", figure, name, mine, rates[arm])
    for name, values in limits.items():
        print_value("label", f"{kind}: {name}", values, "images/s")
    for arm, its in steady.items():
        print_value("label", f"{kind}: {arm}", rates[arm], "images/s")
        print_value("label", f"{kind}: {arm}, CPU time", [1e3 * cpu for cpu in its.cpu], "ms/image")
        print_value("label", f"{kind}: {arm}, start-up", its.startup, "s")


def _check_peers(parser: argparse.ArgumentParser, peers: str) -> None:
    """Ends the bench if Daft cannot be imported, or would run on another PyTorch than raylabel."""
    try:
        theirs = in_other_environment(peers, "label_peers", "torch_beside_daft")
    except OSError as error:
        parser.error(f"--peers is {peers}: {error}; give the path of a Python interpreter")
    except RuntimeError:
        parser.error(f"{peers} cannot import daft, see above; the first lines of --help say how to install it")
    if theirs != version("torch"):
        parser.error(f"{peers} has torch {theirs}, this environment {version('torch')}: install the same")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", help="folder for the corpus, kept and reused; default: a temporary folder")
    parser.add_argument("--networks", default=",".join(ARMS), help="some of: %(default)s")
    parser.add_argument("--arms", default=",".join(ARMS["resnet18"]), help="some of: %(default)s")
    parser.add_argument(
        "--peers", default=sys.executable, help="the interpreter of the environment of Daft; default: this one"
    )
    parser.add_argument(
        "--precision",
        choices=("auto", "bf16", "fp32"),
        default="auto",
        help="of all arms that are not as in documentation; default: what raylabel chooses for this CPU",
    )
    parser.add_argument("--images", type=int, default=4096, help="distinct images in the corpus")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=30, help="duration of the steady state, per arm and repeat")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one short round without a search for the best settings; takes some minutes",
    )
    options = parser.parse_args()
    arms, networks = options.arms.split(","), options.networks.split(",")
    if unknown := [*(set(arms) - set(ARMS["resnet18"])), *(set(networks) - set(ARMS))]:
        parser.error(f"unknown arms or networks: {', '.join(unknown)}")
    if not find_spec("skimage"):
        parser.error("not installed: scikit-image; pip install scikit-image")
    if any(arm.startswith("daft") for arm in arms):
        _check_peers(parser, options.peers)
    if options.quick:
        options.repeats, options.seconds = 1, 3.0
    precision = Cluster((Node(CORES, 0),)).precision(options.precision)
    with tempfile.TemporaryDirectory() as temporary:
        photographs = build(options.work or temporary, options.images)
        for kind in networks:
            chosen = [arm for arm in ARMS[kind] if arm in arms]
            bench(kind, chosen, photographs, options.repeats, options.seconds, options.quick, options.peers, precision)


if __name__ == "__main__":
    main()
