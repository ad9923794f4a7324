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
from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

from raylabel.errors import InputError


def connect() -> None:
    """The cluster that RAY_ADDRESS or `ray job submit` names; else a Ray of its own on this machine.

    InputError if there is none, if it refuses this process, or if it is open to anyone who can reach it.
    """
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = os.environ.get("RAY_ADDRESS", "")
    if "://" in address:
        raise InputError(f"RAY_ADDRESS is {address}: run this on the cluster itself, by `ray job submit`")
    if address:
        try:
            ray.init(**quiet)
        except ray.exceptions.AuthenticationError as error:
            raise InputError(f"the Ray at {address} wants a token: {TOKEN} ({_line(error)})") from error
        except ConnectionError as error:
            raise InputError(f"no Ray answers at RAY_ADDRESS {address}: start one there, or unset it") from error
    else:
        # Of its C++ side only what is fatal: it calls each actor pool an error. What fails comes as an exception too.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        # At least two CPUs in Ray's books: one for a model, one for those who read and decode for it.
        with _without_stderr():  # on which Ray tells that it found that variable; a failure is an exception
            ray.init(address="local", num_cpus=max(2, os.cpu_count() or 1), include_dashboard=False, **quiet)
    for name in ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    demand_token()


TOKEN = (
    "make one by `ray get-auth-token --generate`, and give it to every machine of the cluster and to this command as "
    "RAY_AUTH_TOKEN or in ~/.ray/auth_token, each with RAY_AUTH_MODE=token"
)


def demand_token() -> None:
    """InputError if the Ray that this process is attached to can be reached from outside and asks for no token."""
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    # A head listens on all addresses of its machine, whichever one it was told to go by.
    outside = _outward_address() if _is_loopback(host) else host
    if outside and answers_strangers(f"{outside}:{port}"):
        raise InputError(
            f"the Ray at {outside}:{port} can be reached from other machines and asks for no token: whoever reaches "
            f"it can run code as you. Stop it, {TOKEN}; then start it again"
        )


def answers_strangers(head: str) -> bool:
    """Whether the head at host:port answers a request without a token; what this process holds plays no part."""
    with grpc.insecure_channel(head) as channel:
        stub = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
        try:
            stub.GetClusterId(gcs_service_pb2.GetClusterIdRequest(), timeout=10)
        except grpc.RpcError as error:
            code = error.code()  # pyright: ignore[reportAttributeAccessIssue]
            # Unavailable: behind a firewall, or it wants a certificate (RAY_USE_TLS), which strangers do not have.
            refusals = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAVAILABLE)
            if code in refusals:
                return False
            raise InputError(f"cannot tell whether the Ray at {head} asks for a token: {code}; try again") from error
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


def _line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


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
