"""An S3 server that injects failures and delays: a proxy with real sockets and real resets in front of an S3 server."""

import os
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

ERROR = b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>planned</Message></Error>'
SLOW = 1.0  # seconds that a slow answer takes
FAULTS = ("unavailable", "reset", "cut", "slow")


@dataclass
class Plan:
    """Which requests fail. A test sets it, and finds the injected faults in `done`."""

    share: float = 0.0
    """Fraction of all requests that get one of FAULTS."""
    broken: Callable[[str, str], str] = lambda method, path: ""
    """The status line with which a request always fails; empty for requests that do not."""
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    done: Counter[str] = field(default_factory=Counter)
    requests: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def draw(self) -> str:
        """The fault of the next request; empty for none."""
        with self._lock:
            self.requests += 1
            fault = self.rng.choice(FAULTS) if self.rng.random() < self.share else ""
            if fault:
                self.done[fault] += 1
            return fault


class _Handler(MotoRequestHandler):
    def connection_dropped(self, error: BaseException, environ: dict[str, Any] | None = None) -> None:
        self.close_connection = True


class FaultyStore:
    """The server. Setting `plan` takes effect for the next request."""

    def __init__(self) -> None:
        self.plan = Plan()
        self._backend = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, True, request_handler=_Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def start(self) -> str:
        """Starts the server; returns its address."""
        self._thread.start()
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path.startswith("/moto-api"):
            return self._backend(environ, start_response)
        if status := self.plan.broken(environ["REQUEST_METHOD"], path):
            return refuse(environ, start_response, status)
        fault = self.plan.draw()
        if fault == "unavailable":
            return refuse(environ, start_response, "503 Slow Down")
        if fault == "reset":
            return _reset(environ)
        if fault == "slow":
            time.sleep(SLOW)
        answer = self._backend(environ, start_response)
        return _cut(environ, answer) if fault == "cut" else answer


def refuse(environ: dict[str, Any], start_response: Callable[..., Any], status: str) -> list[bytes]:
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    body = ERROR % status.partition(" ")[2].replace(" ", "").encode()
    start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body if environ["REQUEST_METHOD"] != "HEAD" else b""]


def _reset(environ: dict[str, Any]) -> list[bytes]:
    """A TCP reset instead of an answer."""
    connection: socket.socket = environ["werkzeug.socket"]
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(connection.detach())  # its `close` would wait for the file objects that the server has made of it
    raise ConnectionError("planned")


def _cut(environ: dict[str, Any], answer: Iterable[bytes]) -> Iterable[bytes]:
    """Half of the answer, then a TCP reset."""
    body = b"".join(answer)
    yield body[: len(body) // 2]
    _reset(environ)
