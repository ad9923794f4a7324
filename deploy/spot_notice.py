"""On a spot machine of AWS: waits for the notice that AWS will take it away, and reports it to Ray.

- python deploy/spot_notice.py HEAD:PORT   started beside Ray on each worker: see ../cluster.yaml

Training then writes a checkpoint and continues without the machine; nothing new is started on it.
"""

import http.client
import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from urllib.parse import urlsplit

# What AWS's own programs call the variable; the address is the same on each of its machines.
PLACE = urlsplit(os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://169.254.169.254")).netloc
EVERY = 5.0  # seconds, as AWS advises


def notice() -> float | None:
    """Seconds that are left to this machine, once its end is announced; None before.

    OSError if the service does not answer as it should.
    """
    lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    token = _ask("PUT", "/latest/api/token", lifetime)
    said = _ask("GET", "/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token})
    if not said:
        return None
    return max(0.0, (datetime.fromisoformat(json.loads(said)["time"]) - datetime.now(UTC)).total_seconds())


def _ask(method: str, path: str, headers: dict[str, str]) -> str:
    """What the machine's metadata service answers, by no proxy; empty if there is no such thing."""
    connection = http.client.HTTPConnection(PLACE, timeout=2)
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
    silent = False
    while True:
        try:
            left, silent = notice(), False
        except OSError as error:  # a short outage of the service does not end the loop
            left = None
            if not silent:
                print(f"no answer about spot notices: {error}", flush=True)
            silent = True
        if left is not None:
            break
        time.sleep(EVERY)
    print(f"{datetime.now(UTC):%F %T}: AWS takes this machine away in {left:.0f} s", flush=True)
    reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "a spot notice"]
    deadline = ["--deadline-remaining-seconds", str(int(left))]
    # Without a node's name it is the one that the command attaches to: this machine's, of that head.
    attach = {**os.environ, "RAY_ADDRESS": head}
    subprocess.run(["ray", "drain-node", "--address", head, *reason, *deadline], check=True, env=attach)


if __name__ == "__main__":
    main(sys.argv[1])
