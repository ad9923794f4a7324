"""W&B in offline mode: the files of its run, read back, have each point, and under one number."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tracked import points, snapshot

pytest.importorskip("wandb", reason="the extra wandb is not installed")

SEND = """
import os, signal, sys
from raylabel.tracking.to_wandb import Wandb
from tracked import points, snapshot
folder, *counts, seed, end = sys.argv[1:]
backend = Wandb(folder)
for count in counts:
    backend.send(snapshot(teacher=points(int(count), 2, int(seed)), student=points(int(count) // 2)))
if end == "stop":
    from dataclasses import replace
    backend.send(replace(snapshot(teacher=points(int(count), 2, int(seed))), state="stopped"))
if end == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
"""


def records(file: Path) -> Iterator[bytes]:
    """The records of a W&B file: after a header of 7 bytes, LevelDB's log format, in blocks of 32 kB."""
    data, at, whole = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 0x8000 - at % 0x8000 < 7:
            at += 0x8000 - at % 0x8000
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            yield whole
            whole = b""


def rows(folder: Path) -> tuple[list[dict], list[str]]:
    """All rows of all offline folders, in order, and the id of the run in each folder."""
    from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore[reportMissingImports]

    found, ids = [], []
    for one in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for data in records(one):
            record = Record.FromString(data)
            if record.WhichOneof("record_type") == "run":
                ids.append(record.run.run_id)
                project = record.run.project
                assert project == "digits"
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                found.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    return found, list(dict.fromkeys(ids))


@pytest.mark.slow
def test_a_stopped_or_killed_run_continues(tmp_path: Path) -> None:
    environment = {**os.environ, "WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path)}
    for arguments in (["1", "4", "0", "stop"], ["2", "6", "0", "kill"], ["8", "0", "stop"]):
        command = [sys.executable, "-c", SEND, str(tmp_path / "run"), *arguments]
        done = subprocess.run(command, env=environment, timeout=120, capture_output=True, text=True)
        assert done.returncode == (-9 if "kill" in arguments else 0), done.stderr
    found, ids = rows(tmp_path)
    assert len(ids) == 1
    once = {row["_step"]: {k: v for k, v in row.items() if not k.startswith("_")} for row in found}
    for row in found:  # those of the process that was killed may be there twice
        assert once[row["_step"]].items() <= row.items()
    assert list(once) == sorted(once) == list(range(len(once)))
    wanted = snapshot(teacher=points(8, 2), student=points(4)).rows
    for training, some in wanted.items():
        mine = [row for row in once.values() if any(name.startswith(f"{training}/") for name in row)]
        expected = [{"images": row.images, **{f"{training}/{n}": v for n, v in row.values.items()}} for row in some]
        assert mine == expected
    # Other values than before: another run.
    command = [sys.executable, "-c", SEND, str(tmp_path / "run"), "8", "30", "stop"]
    subprocess.run(command, env=environment, timeout=120, check=True)
    found, ids = rows(tmp_path)
    assert len(ids) == 2
