"""On a spot machine of AWS: waits for the notice that it is about to be taken away, and tells Ray of it.

- python jobs/spot_notice.py HEAD:PORT     started beside Ray on each worker, see ../cluster.yaml

Training then writes a checkpoint and goes on without the machine; nothing new is started on it.
"""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime

# What AWS's own programs call the variable; the address is the same on each of its machines.
ENDPOINT = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://169.254.169.254").rstrip("/")
EVERY = 5.0  # seconds, as AWS advises
NOTICE = f"{ENDPOINT}/latest/meta-data/spot/instance-action"


def notice() -> float | None:
    """Seconds that are left to this machine, once its end is announced; None before.

    OSError if the service does not answer.
    """
    lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    request = urllib.request.Request(f"{ENDPOINT}/latest/api/token", method="PUT", headers=lifetime)
    with urllib.request.urlopen(request, timeout=2) as answer:
        token = answer.read().decode()
    request = urllib.request.Request(NOTICE, headers={"X-aws-ec2-metadata-token": token})
    try:
        with urllib.request.urlopen(request, timeout=2) as answer:
            end = datetime.fromisoformat(json.load(answer)["time"])
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 404:
                return None
            raise
    return max(0.0, (end - datetime.now(UTC)).total_seconds())


def main(head: str) -> None:
    silent = False
    while True:
        try:
            left, silent = notice(), False
        except OSError as error:  # a moment without the service is no end of the watch
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
