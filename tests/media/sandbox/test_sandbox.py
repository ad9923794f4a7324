"""The sandbox returns the same results as parsing in process, and a failure of a child rejects one sample only."""

import contextlib
import csv
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import poison
import pytest
from helpers import png
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raylabel.media.image_views import eval_pixels, train_pixels
from raylabel.media.parsers import eval_parser, train_parser
from raylabel.media.rejects import Reject
from raylabel.media.sandbox import processes
from raylabel.media.sandbox import sandbox as module
from raylabel.media.sandbox.memory import KEPT, PAGE, SIZE, SharedMemory
from raylabel.media.sandbox.sandbox import Parser, Sandbox, SandboxError, shared_sandbox
from raylabel.media.view import View
from raylabel.rng import AUGMENT, rng

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="system calls are filtered on Linux only")


@pytest.fixture(scope="module")
def words() -> Iterator[Sandbox]:
    with Sandbox(Parser.of(poison.words)) as sandbox:
        yield sandbox


def texts(results: list[bytes | Reject]) -> list[str]:
    return [one.decode() if isinstance(one, bytes) else f"{one.reason}: {one.detail}" for one in results]


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(media=st.lists(st.binary(max_size=300).filter(lambda data: not data.startswith(b"!")), max_size=200))
def test_results_equal_those_of_the_parser(words: Sandbox, media: list[bytes]):
    assert words.convert(media) == [data.upper() for data in media]


def test_many_and_large_samples_are_split_into_requests(words: Sandbox):
    media = [bytes([97 + i % 26]) * (i * 40_001 % 1_500_000 + 1) for i in range(150)]
    assert words.convert(media) == [data.upper() for data in media]


@pytest.mark.parametrize(
    ("sample", "result"),
    [
        ("!segfault", "decoder_crash: SIGSEGV"),
        ("!abort", "decoder_crash: SIGABRT"),
        ("!exit", "decoder_crash: exit status 3"),
        ("!eat", "out_of_memory: over 1 GB"),
        ("!eat_outside_python", "decoder_crash: SIGABRT"),
        ("!reject because", "corrupt: because"),
        ("!fail", "decoder_crash: KeyError: 'a bug in the parser'"),
        ("!lie " + "[" * 5000, "decoder_crash: invalid answer"),
        ('!lie "what"', "decoder_crash: invalid answer"),
        ("!lie [5, 5]", "decoder_crash: invalid answer"),
        ("!lie what", "decoder_crash: invalid answer"),
        ('!lie [["no such reason", ""], 1, 1]', "decoder_crash: invalid answer"),
        ("!lie [-1, 1, 1]", "decoder_crash: invalid answer"),
        ("!lie " + 20_000 * "x", "decoder_crash: answer too long"),
    ],
)
def test_a_failure_rejects_one_sample_only(words: Sandbox, sample: str, result: str):
    assert texts(words.convert([b"before", sample.encode(), b"after"])) == ["BEFORE", result, "AFTER"]
    assert texts(words.convert([sample.encode()])) == [result]
    assert words.convert([b"next"]) == [b"NEXT"]


def test_a_sample_that_failed_is_tried_once_more_alone(monkeypatch: pytest.MonkeyPatch):
    asked, ask = [], processes.Child.ask
    monkeypatch.setattr(
        processes.Child, "ask", lambda self, media, *rest: (asked.append(media), ask(self, media, *rest))[1]
    )
    with Sandbox(Parser.of(poison.words)) as sandbox:
        assert texts(sandbox.convert([b"a", b"!not_first", b"b"])) == ["A", "!NOT_FIRST", "B"]
        assert asked.count([b"!not_first"]) == 1
        asked.clear()
        assert texts(sandbox.convert([b"a", b"!segfault", b"b"])) == ["A", "decoder_crash: SIGSEGV", "B"]
    assert asked[0] == [b"a", b"!segfault", b"b"] and sorted(asked[1:]) == [[b"!segfault"], [b"a"], [b"b"]]


def test_a_child_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(processes, "WALL_SECONDS", 0.3)
    with Sandbox(Parser.of(poison.words)) as sandbox:
        results = texts(sandbox.convert([b"a", b"!hang", b"b"]))
        assert results == ["A", "timeout: no progress in 0.3 s", "B"]


@pytest.mark.slow
def test_an_endless_loop_ends_at_the_limit_of_cpu_time(words: Sandbox):
    assert texts(words.convert([b"a", b"!spin", b"b"])) == ["A", "timeout: over 10 s of CPU time", "B"]


@pytest.mark.slow
def test_a_parser_may_have_its_own_limit_of_cpu_time():
    with Sandbox(Parser.of(poison.words, cpu_seconds=1)) as sandbox:
        assert texts(sandbox.convert([b"a", b"!spin", b"b"])) == ["A", "timeout: over 1 s of CPU time", "B"]


def test_the_numbers_of_a_sample_reach_the_parser(words: Sandbox):
    numbers = [(i, 7.0) if i % 2 else () for i in range(150)]
    assert texts(words.convert([b"x"] * 150, numbers)) == ["X" + "".join(f"{n:.0f}" for n in some) for some in numbers]


def test_several_samples_of_a_request_may_crash(words: Sandbox):
    media = [b"!segfault" if i % 5 == 2 else b"x%d" % i for i in range(40)]
    results = texts(words.convert(media))
    assert results == ["decoder_crash: SIGSEGV" if i % 5 == 2 else f"X{i}" for i in range(40)]


def test_a_child_that_cannot_be_restricted_parses_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        processes,
        "_BOOT",
        processes._BOOT.replace(
            "main(", "import raylabel.media.sandbox.child as c; c.filter_calls = lambda pid: 1 / 0; main("
        ),
    )
    with Sandbox(Parser.of(poison.words)) as sandbox, pytest.raises(SandboxError, match="restricted: ZeroDivisionE"):
        sandbox.convert([b"a"])


def test_the_error_names_a_parser_that_cannot_be_loaded():
    with Sandbox(Parser.of(poison.broken)) as sandbox, pytest.raises(SandboxError, match="cannot load poison:broken"):
        sandbox.convert([b"a"])


def test_a_sample_is_not_rejected_if_another_program_kills_the_child(words: Sandbox):
    with pytest.raises(SandboxError, match="killed 20 times by another program.*out of memory"):
        words.convert([b"a", b"!killed"])
    media = [b"x" * 400_000] * 400
    stop = threading.Event()
    killed = []

    def kill() -> None:
        while len(killed) < 15 and not stop.wait(0.02):  # 20 before any progress would be an error
            for pid in children_of(words._zygote._process.pid):
                with contextlib.suppress(ProcessLookupError):  # it has ended by itself
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        assert words.convert(media) == [b"X" * 400_000] * 400
    finally:
        stop.set()
        killer.join()
    assert killed


def test_a_killed_zygote_is_started_again():
    with Sandbox(Parser.of(poison.words)) as sandbox:
        assert sandbox.convert([b"a"]) == [b"A"]
        os.kill(sandbox._zygote._process.pid, signal.SIGKILL)
        assert texts(sandbox.convert([b"b", b"!reject now", b"c"])) == ["B", "corrupt: now", "C"]
        results = texts(sandbox.convert([b"d", b"!segfault", b"e"]))  # the first child's exit status is lost
        assert results == ["D", "decoder_crash: SIGSEGV", "E"]


def test_a_zygote_killed_several_times_is_started_again(monkeypatch: pytest.MonkeyPatch):
    started, start = [], processes.Zygote._start

    def start_and_kill(self: processes.Zygote) -> None:
        start(self)
        started.append(self._process.pid)
        if len(started) <= 6:
            os.kill(self._process.pid, signal.SIGKILL)

    monkeypatch.setattr(processes.Zygote, "_start", start_and_kill)
    with Sandbox(Parser.of(poison.words)) as sandbox:
        assert sandbox.convert([b"a"]) == [b"A"]
    assert len(started) == 7


def children_of(pid: int) -> list[int]:
    """The child processes of all threads of a process."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


@LINUX
@pytest.mark.parametrize("what", ["open", "write", "fork", "run", "kill", "list"])
def test_a_child_cannot_use_files_or_processes(words: Sandbox, what: str, tmp_path: Path):
    (text,) = texts(words.convert([f"!try {what}:{tmp_path}/canary".encode()]))
    assert text.startswith(("PermissionError", "OSError")), text
    assert not (tmp_path / "canary").exists()


@LINUX
def test_a_child_cannot_connect(words: Sandbox):
    with socket.create_server(("127.0.0.1", 0)) as canary:
        canary.settimeout(0.2)
        (text,) = texts(words.convert([f"!try connect:{canary.getsockname()[1]}".encode()]))
        assert text.startswith(("PermissionError", "OSError")), text
        with pytest.raises(TimeoutError):
            canary.accept()


@LINUX
def test_the_kernel_limits_a_child(words: Sandbox):
    words.convert([b"a"])
    child = words._idle.queue[-1]
    assert child
    limits = Path(f"/proc/{child._pid}/limits").read_text()
    found = {line[:26].strip(): line[26:].split()[:2] for line in limits.splitlines()}
    assert found["Max open files"] == ["4", "4"] and found["Max core file size"] == ["0", "0"]
    assert found["Max file size"] == ["0", "0"] and all(int(value) < 16 << 30 for value in found["Max address space"])
    assert int(found["Max cpu time"][0]) <= 12
    status = Path(f"/proc/{child._pid}/status").read_text()
    assert "Seccomp:\t2" in status and "NoNewPrivs:\t1" in status


@LINUX
def test_a_child_has_no_secrets_in_its_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret-value")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "s3cret-value")
    with Sandbox(Parser.of(poison.words)) as sandbox, open("/etc/hostname", "rb"):
        environment, files = texts(sandbox.convert([b"!try environ", b"!try files"]))
        assert "s3cret" not in environment
        assert files == "did: [0, 1, 2, 3]"
        zygote = sandbox._zygote._process.pid
        for pid in [zygote, *children_of(zygote)]:
            assert b"s3cret" not in Path(f"/proc/{pid}/environ").read_bytes()


def test_no_process_is_left_when_a_sandbox_or_its_parent_ends():
    program = (
        "import os, sys, time\nimport poison\nfrom raylabel.media.sandbox.sandbox import Parser, Sandbox\n"
        "s = Sandbox(Parser.of(poison.words), 2)\ns.convert([b'a'])\n"
        "print(s._zygote._process.pid, flush=True)\ntime.sleep(1000)\n"
    )
    path = os.pathsep.join(entry for entry in sys.path if entry)
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
    ) as process:
        assert process.stdout
        zygote = int(process.stdout.readline())
        pids = [zygote, *children_of(zygote)]
        process.kill()
    assert len(pids) == 2
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, "a child still runs after its parent ended"
        time.sleep(0.05)

    before = set(children_of(os.getpid())), len(os.listdir("/proc/self/fd"))
    with Sandbox(Parser.of(poison.words), 3) as sandbox:
        for _ in range(30):
            sandbox.convert([b"a", b"!segfault"])
    assert (set(children_of(os.getpid())), len(os.listdir("/proc/self/fd"))) == before


def test_threads_share_children():
    with Sandbox(Parser.of(poison.lengths, width=5), 3) as sandbox:
        found: dict[int, np.ndarray] = {}

        def work(number: int) -> None:
            out = np.empty((50, 5), np.uint8)
            sandbox.fill(out, [b"x" * (number + i) for i in range(50)])
            found[number] = out

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(children_of(sandbox._zygote._process.pid)) <= 3
    for number, out in found.items():
        assert (out == (number + np.arange(50))[:, None] % 256).all()


def test_the_slots_of_rejected_samples_are_zeros():
    out = np.full((4, 5), 7, np.uint8)
    with Sandbox(Parser.of(poison.lengths, width=5)) as sandbox:
        rejects = sandbox.fill(out, [b"xx", b"!reject no", b"!segfault", b"xxx"])
    assert out.tolist() == [[2] * 5, [0] * 5, [0] * 5, [3] * 5]
    assert [reject and reject.reason for reject in rejects] == [None, "corrupt", "decoder_crash", None]


def test_shared_memory_is_freed_after_a_large_request(words: Sandbox):
    words.convert([b"x" * (100 << 20)])
    child = words._idle.queue[-1]
    assert child and held(child) <= KEPT


def held(child: processes.Child) -> int:
    """Bytes of shared memory that have pages."""
    return 512 * os.fstat(child._memory.file).st_blocks


def test_shared_memory_stays_in_use_between_requests_and_is_bounded():
    """The pages are written again and not allocated again; a large result of another sample is freed."""
    out = np.empty((8, 1 << 20), np.uint8)
    with Sandbox(Parser.of(poison.lengths, width=1 << 20)) as sandbox:
        sandbox.fill(out, [b"xx"] * 8)
        child, expected = sandbox._idle.queue[-1], len(out) * out[0].nbytes
        assert child and expected < held(child) < expected + (64 << 10)
        sandbox.fill(out, [b"xx"] * 8)
        before = faults(child._pid), faults(os.getpid())
        for _ in range(5):
            sandbox.fill(out, [b"xx"] * 8)
        assert sandbox._idle.queue[-1] is child
        more = faults(child._pid) - before[0], faults(os.getpid()) - before[1]
        assert max(more) < 500  # 2,048 pages are written each time
        assert expected < held(child) < expected + (64 << 10)
    with Sandbox(Parser.of(poison.lengths, width=200 << 20)) as sandbox:
        sandbox.fill(np.empty((1, 200 << 20), np.uint8), [b"xx"])
        child = sandbox._idle.queue[-1]
        assert child and held(child) <= KEPT


def faults(pid: int) -> int:
    """Page faults of a process that did not read a disk."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7])


@LINUX
def test_a_child_cannot_change_accepted_pixels_nor_the_size_of_its_memory():
    """Its thread overwrites all pixels without end, and it tries to make the memory smaller and larger."""
    out = np.empty((40, 50_000), np.uint8)
    with Sandbox(Parser.of(poison.scribbling, width=50_000)) as sandbox:
        assert not any(sandbox.fill(out, [b"x" * 5] * 40))
        first, child = out.copy(), sandbox._idle.queue[-1]
        assert child
        deadline, memory = time.monotonic() + 20, child._memory
        while len(seen := {memory.bytes[5 * PAGE] for _ in range(1000)}) == 1:
            assert time.monotonic() < deadline, f"the child does not write, the memory has {seen}"
        assert (out == first).all()
        assert texts(sandbox.convert([b"!resize"])) == ["29 of 29 failed"]
        assert sandbox._idle.queue[-1] is child and os.fstat(memory.file).st_size == SIZE
    with contextlib.closing(SharedMemory()) as memory:
        for size in (0, SIZE - PAGE, SIZE + PAGE):
            with pytest.raises(PermissionError):
                os.ftruncate(memory.file, size)
        with pytest.raises(PermissionError):
            fcntl.fcntl(memory.file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)


def test_no_pixel_of_another_sample_is_left_by_a_child_that_is_killed_in_the_middle():
    """Each slot has the pixels of its own sample, or zeros, although children are killed while they write."""
    media = [b"x" * (i % 251 + 1) for i in range(150)]
    expected = np.array([len(data) for data in media], np.uint8)[:, None]
    out, killed = np.full((len(media), 300_000), 255, np.uint8), 0
    stop = threading.Event()

    with Sandbox(Parser.of(poison.lengths, width=out.shape[1])) as sandbox:
        sandbox.convert([b"x"])
        zygote = sandbox._zygote._process.pid

        def kill() -> None:
            nonlocal killed
            while not stop.wait(0.15):
                for pid in children_of(zygote):
                    os.kill(pid, signal.SIGKILL)
                    killed += 1

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            while killed < 8:
                out[:] = 255
                assert not any(sandbox.fill(out, media))
                assert (out == expected).all()
        finally:
            stop.set()
            killer.join()
        rejects = sandbox.fill(out[:3], [b"xx", b"!segfault", b"xxx"])
        assert [out[0, 0], out[2, -1], out[1].any(), rejects[1] and rejects[1].reason] == [2, 3, False, "decoder_crash"]
        assert sandbox.fill(out[:2], [b"!not_first", b"x"]) == [None, None]
        assert (out[:2, ::1000].T == [len(b"!not_first"), 1]).all()


def test_a_child_that_claims_another_number_of_bytes_is_not_believed():
    out = np.full((2, 5), 7, np.uint8)
    with Sandbox(Parser.of(poison.lengths, width=5)) as sandbox:
        rejects = sandbox.fill(out, [b"xx", b"!lie [5, 4]"])
    assert out.tolist() == [[2] * 5, [0] * 5]
    assert [str(reject) for reject in rejects if reject] == ["decoder_crash: invalid answer"]


def test_samples_with_too_many_bytes_are_not_sent_to_a_child(words: Sandbox, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MAX_BYTES", 1000)
    assert texts(words.convert([b"a", b"x" * 1001, b"b"])) == ["A", "too_many_bytes: 1001, limit 1000", "B"]


def test_the_shared_sandbox_is_reused():
    parser = Parser.of(poison.words)
    first = shared_sandbox(parser)
    assert shared_sandbox(Parser.of(poison.words)) is first
    for width in range(3):
        shared_sandbox(Parser.of(poison.lengths, width=width + 1))
    assert shared_sandbox(parser) is not first  # it was closed, since only three are kept
    assert first._zygote._process.returncode is not None
    for sandbox in module._shared.values():
        sandbox.close()
    module._shared.clear()


@pytest.mark.long
@pytest.mark.parametrize("view", [View(size=64, resize=72), View(size=32, resize=32, crop="padded", dct_scale=True)])
def test_pixels_equal_those_of_parsing_in_process(shared: Path, view: View):
    """A child has loaded all that decoding of unusual pictures needs, and the results are the same."""
    folder = shared / "odd-images"
    with (folder / "manifest.csv").open() as manifest:
        names = [row["file"] for row in csv.DictReader(manifest)]
    media = [(folder / name).read_bytes() for name in names]
    expected, reasons = zip(*(in_process(eval_pixels, data, view) for data in media), strict=True)
    out = np.empty((len(media), view.size, view.size, 3), np.uint8)
    with Sandbox(Parser.of(eval_parser, view=view)) as sandbox:
        rejects = sandbox.fill(out, media)
    assert [reject and (reject.reason, reject.detail) for reject in rejects] == list(reasons)
    assert (out == np.stack(expected)).all()
    assert sum(reject is None for reject in rejects) > 50


def in_process(function, data: bytes, *arguments) -> tuple[np.ndarray, tuple[str, str] | None]:
    view = arguments[0]
    try:
        return np.array(function(data, *arguments)), None
    except Reject as reject:
        return np.zeros((view.size, view.size, 3), np.uint8), (reject.reason, reject.detail)


@pytest.mark.long
@pytest.mark.parametrize("crop", ["padded", "random_resized", "center"])
def test_training_views_are_determined_by_their_numbers(crop):
    view = View(size=24, resize=24, crop=crop)
    media = [png(np.random.default_rng(i).integers(0, 256, (30, 40, 3), np.uint8)) for i in range(20)]
    out = np.empty((20, 24, 24, 3), np.uint8)
    with Sandbox(Parser.of(train_parser, view=view)) as sandbox:
        sandbox.fill(out, media, [(7, AUGMENT, 2**40 + i) for i in range(20)])
    expected = [train_pixels(data, view, rng(7, AUGMENT, 2**40 + i)) for i, data in enumerate(media)]
    assert (out == np.stack(expected)).all()


def test_a_parser_is_plain_data():
    parser = Parser.of(eval_parser, view=View(size=32))
    assert parser.function == "raylabel.media.parsers:eval_parser"
    assert json.loads(parser.settings)["view"]["size"] == 32
