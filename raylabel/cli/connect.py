"""Connecting to Ray, and the check that nothing else can connect without a token."""

import ipaddress
import logging
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import ray

from raylabel.compute.ray_internals import ask_cluster_id, token_header, usable_cpus
from raylabel.errors import InputError


def connect() -> None:
    """Connects to the cluster that RAY_ADDRESS or `ray job submit` names; if there is none, starts Ray on this machine.

    InputError if no Ray answers there, if it refuses this process, or if it accepts connections without a token.
    """
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = os.environ.get("RAY_ADDRESS", "")
    if "://" in address:
        raise InputError(f"RAY_ADDRESS is {address}: run the command on the cluster, with `ray job submit`")
    if address and address != "local":
        _check_address(address)
    # Log only fatal errors of its C++ code, which logs an error for each actor pool. Failures are exceptions anyway.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    with _without_stderr():  # where Ray logs that it read that variable
        if address and address != "local":
            try:
                ray.init(**quiet)
            except ConnectionError as error:
                raise InputError(_no_answer(address)) from error
        else:
            # At least two logical CPUs: one for a model, one for the tasks that read and decode for it.
            try:
                ray.init(address="local", num_cpus=max(2, usable_cpus()), include_dashboard=False, **quiet)
            except OSError as error:
                if "AF_UNIX path length" not in str(error):
                    raise
                folder = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
                raise InputError(
                    f"the path of the folder for temporary files is too long for the sockets of Ray: {folder}; give "
                    "Ray a shorter one on a local disk, as RAY_TMPDIR (for example RAY_TMPDIR=/tmp)"
                ) from error
    # These log a whole exception before they raise it.
    for name in ("ray.data", "ray.tune"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    require_token()


def _check_address(address: str) -> None:
    """InputError immediately, where ray.init would fail after half a minute of log lines."""
    host, colon, port = address.rpartition(":")
    if not colon:
        return  # 'auto': Ray knows the address
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=30).close()
    except (OSError, ValueError) as error:
        raise InputError(f"{_no_answer(address)} ({error})") from error
    if ask_cluster_id(address, token_header()) in REFUSED:
        raise InputError(f"the Ray at {address} requires a token that this command does not have: give it, {HOW}")


def _no_answer(address: str) -> str:
    return f"no Ray answers at RAY_ADDRESS {address}: start one there, or unset it"


HOW = "as RAY_AUTH_TOKEN or in ~/.ray/auth_token, with RAY_AUTH_MODE=token"
REFUSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


def require_token() -> None:
    """InputError if other machines can connect to the Ray of this process without a token."""
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    # A head listens on all addresses of its machine, not only on the one that it was given.
    outside = _outward_address() if _is_loopback(host) else host
    if outside and answers_without_token(f"{outside}:{port}"):
        raise InputError(
            f"the Ray at {outside}:{port} can be reached from other machines and requires no token: anyone who reaches "
            "it can run code as you. Stop it, create a token with `ray get-auth-token --generate`, give it to all "
            f"machines of the cluster and to this command, {HOW}, and start it again"
        )


def answers_without_token(head: str) -> bool:
    """Whether the head at host:port answers a request without a token, whether or not this process has one."""
    code = ask_cluster_id(head, {})
    # Unavailable: behind a firewall, or it requires a certificate (RAY_USE_TLS).
    if code in (*REFUSED, grpc.StatusCode.UNAVAILABLE):
        return False
    if code != grpc.StatusCode.OK:
        raise InputError(f"cannot tell whether the Ray at {head} requires a token: {code}; try again")
    return True


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _outward_address() -> str:
    """This machine's address on the network; empty if it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # a reserved address (RFC 5737); nothing is sent
        except OSError:
            return ""
        found = probe.getsockname()[0]
    return "" if _is_loopback(found) else found


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Discards what is written to file descriptor 2 while the block runs, by C++ too."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
