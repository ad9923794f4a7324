"""On an AWS spot machine: waits for the notice that AWS will terminate it, and reports the notice to Ray.

- python deploy/spot_notice.py HEAD:PORT   started beside Ray on each worker: see ../cluster.yaml

Training then writes a checkpoint and continues without the machine. Ray starts nothing new on it.
"""

import http.client
import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from urllib.parse import urlsplit

# AWS's own tools use this variable. The default address is the same on all AWS machines.
ENDPOINT = urlsplit(os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://169.254.169.254")).netloc
EVERY = 5.0  # seconds, as AWS advises


def notice() -> float | None:
    """Seconds until this machine is terminated; None if there is no notice.

    OSError if the metadata service does not answer, or answers with an error.
    """
    lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    token = _ask("PUT", "/latest/api/token", lifetime)
    answer = _ask("GET", "/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token})
    if not answer:
        return None
    return max(0.0, (datetime.fromisoformat(json.loads(answer)["time"]) - datetime.now(UTC)).total_seconds())


def _ask(method: str, path: str, headers: dict[str, str]) -> str:
    """The answer of the machine's metadata service, without a proxy; empty if the path does not exist."""
    connection = http.client.HTTPConnection(ENDPOINT, timeout=2)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        text = answer.read().decode()
    except http.client.HTTPException as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
    finally:
        connection.close()
    if answer.status not in (200, 404):
        raise OSError(f"{method} {path}: {answer.status} {answer.reason}")
    return text if answer.status == 200 else ""


def main(head: str) -> None:
    failing = False
    while True:
        try:
            left, failing = notice(), False
        except OSError as error:  # an outage of the service does not end the loop; it is printed once
            left = None
            if not failing:
                print(f"the metadata service did not answer about spot notices: {error}", flush=True)
            failing = True
        if left is not None:
            break
        time.sleep(EVERY)
    print(f"{datetime.now(UTC):%F %T}: AWS terminates this machine in {left:.0f} s", flush=True)
    reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "a spot notice"]
    deadline = ["--deadline-remaining-seconds", str(int(left))]
    # Without a node id, the command drains the node to which it connects: the one on this machine, of that head.
    attach = {**os.environ, "RAY_ADDRESS": head}
    subprocess.run(["ray", "drain-node", "--address", head, *reason, *deadline], check=True, env=attach)


if __name__ == "__main__":
    main(sys.argv[1])
