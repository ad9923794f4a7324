"""A Hugging Face hub on loopback, with which the real client talks: repositories are folders."""

import hashlib
import http.server
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class Hub:
    """Folder / owner / name / file. Counts requests by method and file name."""

    def __init__(self, folder: Path, cache: Path):
        self.folder, self.cache = folder, cache
        self.stop: Callable[[], None] = lambda: None
        self.counts: Counter[tuple[str, str]] = Counter()
        self.gated: set[str] = set()
        self.cut: set[str] = set()
        """Names of files of which only the first half is sent."""

    def file(self, repository: str, name: str) -> Path:
        path = self.folder / repository / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


@contextmanager
def hub(folder: Path, cache: Path) -> Iterator[Hub]:
    """A hub of the repositories in `folder`. The client of this process uses it, with a cache of its own."""
    import huggingface_hub.constants as constants

    found = Hub(folder, cache)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def log_message(self, format: str, *args: object) -> None:
            pass

        def _answer(self, body: bool) -> None:
            owner, name, _, revision, *rest = self.path.partition("?")[0].strip("/").split("/")
            repository, file = f"{owner}/{name}", "/".join(rest)
            found.counts[self.command, file] += 1
            path = folder / repository / file
            commit = hashlib.sha1(b"".join(sorted(p.read_bytes() for p in path.parent.glob("*")))).hexdigest()
            if repository in found.gated:
                return self._refuse(403, "GatedRepo")
            if not (folder / repository).is_dir():
                return self._refuse(404, "RepoNotFound")
            if revision not in ("main", "v1", commit):
                return self._refuse(404, "RevisionNotFound")
            if not path.is_file():
                return self._refuse(404, "EntryNotFound")
            data = path.read_bytes()
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", commit)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data[: len(data) // 2] if file in found.cut else data)
                self.close_connection = file in found.cut

        def _refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"

    def stop() -> None:
        server.shutdown()
        server.server_close()

    found.stop = stop
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        try:
            yield found
        finally:
            stop()
