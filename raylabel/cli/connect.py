"""Attaching to Ray, and the demand that nobody else can do so unasked."""

import ipaddress
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import ray

from raylabel.compute.ray_internals import ask_cluster_id, token_header
from raylabel.errors import InputError


def connect() -> None:
    """The cluster that RAY_ADDRESS or `ray job submit` names; else a Ray of its own on this machine.

    InputError if there is none, if it refuses this process, or if it is open to anyone who can reach it.
    """
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = os.environ.get("RAY_ADDRESS", "")
    if "://" in address:
        raise InputError(f"RAY_ADDRESS is {address}: run this on the cluster itself, by `ray job submit`")
    if address and address != "local":
        _knock(address)
    # Of its C++ side only what is fatal: it calls each actor pool an error. What fails comes as an exception too.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    with _without_stderr():  # on which Ray tells that it found that variable; a failure is an exception
        if address and address != "local":
            try:
                ray.init(**quiet)
            except ConnectionError as error:
                raise InputError(_nobody(address)) from error
        else:
            # At least two CPUs in Ray's books: one for a model, one for those who read and decode for it.
            ray.init(address="local", num_cpus=max(2, os.cpu_count() or 1), include_dashboard=False, **quiet)
    # These log the whole of an exception before they raise it, or hand it on.
    for name in ("ray.data", "ray.tune"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    demand_token()


def _knock(address: str) -> None:
    """InputError at once where Ray would say the same after half a minute of its own words."""
    host, colon, port = address.rpartition(":")
    if not colon:
        return  # 'auto': Ray knows the place
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=30).close()
    except (OSError, ValueError) as error:
        raise InputError(f"{_nobody(address)} ({error})") from error
    if ask_cluster_id(address, token_header()) in REFUSED:
        raise InputError(f"the Ray at {address} wants a token that this command does not have: give it that one, {HOW}")


def _nobody(address: str) -> str:
    return f"no Ray answers at RAY_ADDRESS {address}: start one there, or unset it"


HOW = "as RAY_AUTH_TOKEN or in ~/.ray/auth_token, with RAY_AUTH_MODE=token"
REFUSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


def demand_token() -> None:
    """InputError if the Ray that this process is attached to can be reached from outside and asks for no token."""
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    # A head listens on all addresses of its machine, whichever one it was told to go by.
    outside = _outward_address() if _is_loopback(host) else host
    if outside and answers_strangers(f"{outside}:{port}"):
        raise InputError(
            f"the Ray at {outside}:{port} can be reached from other machines and asks for no token: whoever reaches "
            "it can run code as you. Stop it, make a token by `ray get-auth-token --generate`, give it to all machines "
            f"of the cluster and to this command, {HOW}, and start it again"
        )


def answers_strangers(head: str) -> bool:
    """Whether the head at host:port answers a request without a token; what this process holds plays no part."""
    code = ask_cluster_id(head, {})
    # Unavailable: behind a firewall, or it wants a certificate (RAY_USE_TLS), which strangers do not have.
    if code in (*REFUSED, grpc.StatusCode.UNAVAILABLE):
        return False
    if code != grpc.StatusCode.OK:
        raise InputError(f"cannot tell whether the Ray at {head} asks for a token: {code}; try again")
    return True


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _outward_address() -> str:
    """This machine's address as others see it; empty if it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address of no machine; nothing is sent
        except OSError:
            return ""
        found = probe.getsockname()[0]
    return "" if _is_loopback(found) else found


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Nothing reaches file descriptor 2 while the block runs, from C++ neither."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
