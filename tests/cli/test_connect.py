"""A job connects to a Ray cluster only if nothing can connect without a token. Real heads, with and without tokens."""

import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from heads import TOKEN, Head, environment, free_ports, outward_address, started_head
from paths import PYTHONPATH

ATTACH = """
from raylabel.cli.connect import connect
from raylabel.cli.exit import readable
with readable():
    connect()
    print("attached")
"""


def attach(**more: str) -> subprocess.CompletedProcess:
    """Runs a job that connects to Ray with these environment variables."""
    return subprocess.run(
        [sys.executable, "-c", ATTACH],
        env=environment(**{"PYTHONPATH": PYTHONPATH, **more}),
        capture_output=True,
        text=True,
        timeout=120,
    )


def post_job(head: Head) -> int:
    """The HTTP status of a request, without a token, to run a command."""
    body = json.dumps({"entrypoint": "true"}).encode()
    request = urllib.request.Request(f"{head.dashboard}/api/jobs/", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@pytest.fixture(scope="module")
def outside() -> str:
    if not (found := outward_address()):
        pytest.skip("this machine has no address other than loopback")
    return found


def test_a_temporary_folder_too_long_for_sockets_is_an_error(tmp_path: Path) -> None:
    long = tmp_path / ("long" * 25)
    long.mkdir()
    for name in ("TMPDIR", "RAY_TMPDIR"):
        done = attach(**{name: str(long)})
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: the path of the folder for temporary files is too long for the sockets")
        assert f": {long}; give Ray a shorter one" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_reachable_head_without_a_token_is_refused(outside: str) -> None:
    with started_head(token="") as head:
        assert post_job(head) == 200  # anyone who reaches it can run code
        # Its address is a loopback address, but it listens on all addresses of the machine.
        _, _, port = head.address.partition(":")
        for address in (head.address, f"{outside}:{port}"):
            done = attach(**head.environment | {"RAY_ADDRESS": address})
            assert done.returncode == 2 and "attached" not in done.stdout
            assert done.stderr.startswith(f"error: the Ray at {outside}:{port} can be reached from other machines")
            assert "RAY_AUTH_MODE=token" in done.stderr and done.stderr.count("\n") == 1
        # A token of this process does not help, because the head does not check it.
        with_token = attach(**head.environment | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN})
        assert with_token.returncode == 2 and "requires no token" in with_token.stderr


@pytest.mark.slow
def test_a_head_with_a_token_accepts_only_that_token(outside: str) -> None:
    with started_head(host=outside) as head:
        assert attach(**head.environment).stdout == "attached\n"
        assert post_job(head) in (401, 403)
        for mode, token in (("disabled", ""), ("token", "f" * 32)):
            done = attach(RAY_ADDRESS=head.address, RAY_AUTH_MODE=mode, RAY_AUTH_TOKEN=token)
            assert done.returncode == 2 and "attached" not in done.stdout
            assert done.stderr.startswith(f"error: the Ray at {head.address} requires a token")
            assert TOKEN not in done.stdout + done.stderr


def test_an_address_at_which_no_cluster_answers_is_an_error() -> None:
    (port,) = free_ports(1)
    for address, expected in (
        (f"127.0.0.1:{port}", f"no Ray answers at RAY_ADDRESS 127.0.0.1:{port}"),
        ("ray://somewhere:10001", "with `ray job submit`"),
    ):
        done = attach(RAY_ADDRESS=address)
        assert done.returncode == 2 and expected in done.stderr and done.stderr.count("\n") == 1
