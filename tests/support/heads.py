"""Ray heads that are started with `ray start`, as a user would, for tests of processes that connect to them."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

TOKEN = "0123456789abcdef" * 2
RAY = Path(sys.executable).parent / "ray"


@dataclass(frozen=True)
class Head:
    """Addresses of a head, its temporary folder, and the environment variables that its clients need."""

    address: str
    dashboard: str
    metrics: str
    folder: str
    environment: dict[str, str]


@contextmanager
def started_head(
    *arguments: str,
    host: str = "127.0.0.1",
    port: int = 0,
    token: str = TOKEN,
    cpus: int = 2,
    python: str = sys.executable,
    **more: str,
) -> Iterator[Head]:
    """A head at the address `host` that requires the token, unless that is empty. It ends with all its processes.

    Port 0: any free port. The head and its workers are run by `python`; if that is not this process's Python, it does
    not inherit this one's module path. `more`: additional environment variables.
    """
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # short: it holds sockets, whose paths have at most 107 bytes
    free, dashboard, agent, metrics, client = free_ports(5)
    port = port or free
    secrets = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {"RAY_AUTH_MODE": "disabled"}
    try:
        _start(
            python,
            secrets | more,
            *("--head", f"--node-ip-address={host}", f"--num-cpus={cpus}", f"--port={port}"),
            *(f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"),
            *(f"--metrics-export-port={metrics}", f"--ray-client-server-port={client}"),
            *(f"--temp-dir={folder}", *arguments),
        )
        address = f"{host}:{port}"
        found = {"RAY_ADDRESS": address, **secrets}
        yield Head(address, f"http://127.0.0.1:{dashboard}", f"http://127.0.0.1:{metrics}/metrics", folder, found)
    finally:
        end_ray(folder)
        shutil.rmtree(folder, ignore_errors=True)


# The machines that Ray's fake multi-node provider can start.
CLOUD: dict[str, Any] = {
    "cluster_name": "cloud",
    "max_workers": 4,
    "provider": {"type": "fake_multinode", "disable_node_updaters": True, "disable_launch_config_check": True},
    "available_node_types": {
        "head": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "cpu": {"resources": {"CPU": 4}, "node_config": {}, "min_workers": 0, "max_workers": 2},
        "gpu": {"resources": {"CPU": 2, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    },
    "head_node_type": "head",
    "idle_timeout_minutes": 5.0,
    "upscaling_speed": 10.0,
    "file_mounts_sync_continuously": False,
    **{name: {} for name in ("auth", "docker", "file_mounts")},
    **{name: [] for name in ("cluster_synced_files", "initialization_commands", "rsync_exclude", "rsync_filter")},
    **{f"{prefix}setup_commands": [] for prefix in ("", "head_", "worker_")},
    **{f"{role}_start_ray_commands": [] for role in ("head", "worker")},
}


@contextmanager
def started_cloud(folder: Path, **changes: Any) -> Iterator[Head]:
    """The head, without CPUs, of a fake cluster that starts and ends nodes on demand, as configured by CLOUD with the
    changes. Its configuration file is written to the folder."""
    (port,) = free_ports(1)
    settings = {**CLOUD, **changes}
    settings["provider"] = {**settings["provider"], "gcs_address": f"127.0.0.1:{port}"}
    (folder / "cloud.yaml").write_text(yaml.safe_dump(settings))
    fake = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    with started_head(f"--autoscaling-config={folder}/cloud.yaml", port=port, cpus=0, **fake) as head:
        yield head


def raylets(head: Head) -> list[int]:
    """The pids of the raylets of the nodes that have CPUs. The cluster loses a node when its raylet is killed."""
    lines = {pid: (Path("/proc") / str(pid) / "cmdline").read_bytes() for pid in _processes(head.folder)}
    found = {pid: line for pid, line in lines.items() if line.split(b"\0")[0].endswith(b"/raylet/raylet")}
    return [pid for pid, line in found.items() if re.search(rb"\bCPU,[1-9]", line)]


def join(head: Head, cpus: int, python: str = sys.executable) -> str:
    """Starts another node of the head's cluster on this machine, which ends with the head; returns its metrics' URL.

    Like a machine it has a folder of its own: each node unpacks the working directory of a job, and deletes what is
    there before, which in a common folder would be the modules that the job is importing."""
    agent, metrics = free_ports(2)
    ports = f"--dashboard-agent-listen-port={agent}", f"--metrics-export-port={metrics}"
    own = f"--temp-dir={head.folder}/{agent}"
    _start(python, head.environment, f"--address={head.address}", f"--num-cpus={cpus}", own, *ports)
    return f"http://127.0.0.1:{metrics}/metrics"


def _start(python: str, secrets: dict[str, str], *arguments: str) -> None:
    kept = {name: value for name, value in secrets.items() if name != "RAY_ADDRESS"}
    no_monitor = {"RAY_memory_monitor_refresh_ms": "0"}  # it kills workers when other processes fill the memory
    done = subprocess.run(
        [python, str(RAY), "start", "--disable-usage-stats", *arguments],
        env=environment(python, **no_monitor, **kept),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout


def environment(python: str = sys.executable, /, **more: str) -> dict[str, str]:
    """This process's environment without Ray's variables, and with Ray's programs in PATH. For another `python` also
    without PYTHONPATH, and with that `python` first in PATH."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    if python != sys.executable:
        kept.pop("PYTHONPATH", None)
    path = f"{Path(python).parent}:{RAY.parent}:{kept['PATH']}"
    return kept | {"PATH": path, "RAY_USAGE_STATS_ENABLED": "0"} | more


def free_ports(count: int) -> list[int]:
    """Ports on which no process listens at the moment."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("", 0))
        return [one.getsockname()[1] for one in sockets]


def outward_address() -> str:
    """This machine's address in the network; empty if it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError:
            return ""
        found = probe.getsockname()[0]
    return "" if found.startswith("127.") else found


def end_ray(folder: str) -> None:
    """Ends every process of the Ray session with this temporary folder."""
    for signum, seconds in ((signal.SIGTERM, 2), (signal.SIGKILL, 20)):
        for pid in _processes(folder):
            try:
                os.kill(pid, signum)
            except ProcessLookupError:
                pass
        deadline = time.monotonic() + seconds
        while _processes(folder):
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
        else:
            return
    raise AssertionError(f"processes of the Ray session in {folder} still run after SIGKILL")


def _processes(folder: str) -> list[int]:
    """The processes with the folder in their command line: all that a head starts. Workers end with their parents."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if folder.encode() in (entry / "cmdline").read_bytes() and _state(entry) != "Z":
                    found.append(int(entry.name))
            except OSError:
                pass
    return found


def _state(entry: Path) -> str:
    return (entry / "stat").read_text().rpartition(")")[2].split()[0]


def requested_resources() -> list[dict]:
    """The resource bundles that are requested from Ray's autoscaler."""
    from ray._private.ray_constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL
    from ray.experimental.internal_kv import _internal_kv_get

    return json.loads(_internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL) or "[]")


def eventually(happens: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.1)
