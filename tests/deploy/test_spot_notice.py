"""AWS's spot notice is reported to Ray, and so to raylabel. The tests use a fake metadata service."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from heads import environment, started_head
from paths import DEPLOY, REPOSITORY

TOKEN = "a token of the metadata service"
# A node on which nothing runs ends as soon as it is drained. The head knows the reason.
STATE = (
    "import sys; from ray._raylet import GcsClient; from ray.core.generated.common_pb2 import NodeDeathInfo as Death\n"
    "(node,) = GcsClient(sys.argv[1]).get_all_node_info().values()\n"
    "print(node.state, Death.Reason.Name(node.death_info.reason))"
)


class Metadata(ThreadingHTTPServer):
    """The metadata service of a spot machine (IMDSv2): https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.end: datetime | None = None
        self.refuses = False
        self.asked = threading.Event()
        self.address = f"http://127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    def do_PUT(self) -> None:
        assert isinstance(self.server, Metadata)
        if self.server.refuses:
            return self.answer(503, "")
        right = self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        self.answer(200 if right else 400, TOKEN)

    def do_GET(self) -> None:
        if self.headers["X-aws-ec2-metadata-token"] != TOKEN:
            return self.answer(401, "")
        assert isinstance(self.server, Metadata)
        end = self.server.end
        known = self.path == "/latest/meta-data/spot/instance-action" and end
        self.answer(
            200 if known else 404, json.dumps({"action": "terminate", "time": f"{end:%FT%TZ}"}) if known else ""
        )
        self.server.asked.set()

    def answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def metadata() -> Iterator[Metadata]:
    with Metadata() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_the_spot_notice_is_read(metadata: Metadata) -> None:
    code = "import spot_notice; print(spot_notice.notice())"

    def output() -> str:
        more = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata.address, "PYTHONPATH": str(DEPLOY)}
        done = subprocess.run([sys.executable, "-c", code], env=environment(**more), capture_output=True)
        return (done.stdout + done.stderr).decode().strip()

    assert output() == "None"
    metadata.end = datetime.now(UTC) + timedelta(minutes=2)
    assert 60 < float(output()) <= 120
    metadata.end = datetime.now(UTC) - timedelta(minutes=2)
    assert float(output()) == 0
    metadata.refuses = True
    assert "OSError: PUT /latest/api/token: 503" in output()


@pytest.mark.slow
def test_the_spot_notice_drains_the_node(metadata: Metadata) -> None:
    with started_head(cpus=2) as head:
        more = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata.address, "PYTHONPATH": str(REPOSITORY)}
        env = environment(**head.environment, **more)

        def state() -> str:
            command = [sys.executable, "-c", STATE, head.address]
            return subprocess.run(command, env=env, capture_output=True, check=True, text=True).stdout

        script = [sys.executable, str(DEPLOY / "spot_notice.py"), head.address]
        process = subprocess.Popen(script, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            assert metadata.asked.wait(60)
            assert state().startswith("0") and process.poll() is None  # alive
            metadata.end = datetime.now(UTC) + timedelta(minutes=2)
            out, _ = process.communicate(timeout=60)
        finally:
            process.kill()
        assert process.returncode == 0 and "AWS terminates this machine in 1" in out, out
        deadline = time.monotonic() + 60
        while (found := state()) != "1 AUTOSCALER_DRAIN_PREEMPTED\n":
            assert time.monotonic() < deadline, found
            time.sleep(0.2)
