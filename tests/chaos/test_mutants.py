"""Damaged and hostile media in the real sandbox: each gives pixels or a reject, and has no other effect."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import bombs
import hostile_media
import numpy as np
import pytest
from canary import canary

from raylabel.media.image import MAX_PIXELS
from raylabel.media.parsers import eval_parser, train_parser
from raylabel.media.sandbox.child import CPU_SECONDS, MEMORY
from raylabel.media.sandbox.sandbox import Parser, Sandbox
from raylabel.media.view import View
from raylabel.schema import REASONS

SECRET = "s3cret-of-the-parent"
PARSERS = {
    "evaluation": Parser.of(eval_parser, view=View(size=48, resize=56)),
    "training": Parser.of(train_parser, view=View(size=48, resize=56)),
}
CHILDREN = 2
TOGETHER = 250


def verdicts(sandbox: Sandbox, media: list[bytes], first: int = 0) -> list[str]:
    """For each sample, its reject or the hash of its pixels. Its random numbers depend on its position."""
    side, found = View(size=48, resize=56).size, []
    for at in range(0, len(media), TOGETHER):
        some = media[at : at + TOGETHER]
        out = np.empty((len(some), side, side, 3), np.uint8)
        numbers = [(7, 1, first + at + i) for i in range(len(some))]
        for slot, reject in enumerate(sandbox.fill(out, some, numbers)):
            assert reject is None or reject.reason in REASONS and not out[slot].any()
            found.append(f"{reject}" if reject else hashlib.sha256(out[slot]).hexdigest())
        check_children(sandbox)
    return found


def reason_of(verdict: str) -> str:
    reason = verdict.partition(":")[0]
    return reason if reason in REASONS else "decoded"


def pids(sandbox: Sandbox) -> list[int]:
    """The zygote and its children."""
    zygote = sandbox._zygote._process.pid
    return [zygote, *map(int, Path(f"/proc/{zygote}/task/{zygote}/children").read_text().split())]


def check_children(sandbox: Sandbox) -> None:
    for pid in pids(sandbox):
        assert SECRET.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
    assert len(pids(sandbox)) <= 1 + CHILDREN
    for pid in pids(sandbox)[1:]:
        assert len(os.listdir(f"/proc/{pid}/fd")) <= 5


@pytest.mark.parametrize("count", [100, pytest.param(100_000, marks=pytest.mark.slow)])
def test_mutants_give_pixels_or_rejects_deterministically(
    count: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    sound = hostile_media.seeds()
    if (folder := Path(__file__).resolve().parents[3] / "shared" / "data" / "videos").is_dir():
        sound |= hostile_media.clips(folder)
    whole = list(sound.values())
    before = len(os.listdir("/proc/self/fd"))
    with canary() as port:
        sound = {name: data.replace(b"127.0.0.1", b"127.0.0.1:%d" % port) for name, data in sound.items()}
        made = list(hostile_media.mutants(count, 0, sound))
        media = [data for _, data in made]
        some = list(range(0, count, 10))
        found: dict[str, list[str]] = {}
        for name, parser in PARSERS.items():
            with Sandbox(parser, CHILDREN) as sandbox:
                unchanged = [reason_of(verdict) for verdict in verdicts(sandbox, whole)]
                found[name] = verdicts(sandbox, media)
                shared = sum(512 * os.fstat(child._memory.file).st_blocks for child in sandbox._idle.queue if child)
                assert shared < CHILDREN * 64 << 20
            with Sandbox(parser) as sandbox:  # one by one, in reverse order, in other children
                again = {i: verdicts(sandbox, [media[i]], i)[0] for i in reversed(some)}
            assert again == {i: found[name][i] for i in some}
            pictures = {kind for kind, data in sound.items() if not kind.startswith(("mp4", "webm", "mkv", "mov"))}
            for kind, reason in zip(sound, unchanged, strict=True):  # only images are decoded
                assert (reason == "decoded") == (kind in pictures), f"{kind}: {reason}"
    for (_, data), one, other in zip(made, found["evaluation"], found["training"], strict=True):
        assert (reason_of(one) == "decoded") == (reason_of(other) == "decoded"), data[:40]
    assert len(os.listdir("/proc/self/fd")) <= before

    reasons = {name: Counter(map(reason_of, verdicts)) for name, verdicts in found.items()}
    lost = sum(
        counts[reason] for counts in reasons.values() for reason in ("decoder_crash", "timeout", "out_of_memory")
    )
    with capsys.disabled():
        print(f"\n{count:,} mutants of {len(sound)} files, each parsed twice; {lost} killed a child")
        for name, counts in reasons.items():
            print(f"  {name}: " + ", ".join(f"{reason} {n:,}" for reason, n in counts.most_common()))
    assert reasons["evaluation"]["decoded"] > count / 20 and reasons["evaluation"]["corrupt"] > count / 20


@pytest.mark.long
@pytest.mark.parametrize("count", [30, pytest.param(2_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("format", ["AVIF", "HEIF"])
def test_mutants_of_avif_and_heic_give_pixels_or_rejects_deterministically(format: str, count: int):
    if format == "HEIF":
        pytest.importorskip("pillow_heif", reason="pillow-heif is not installed: raylabel[heic]")
    sound = hostile_media.modern_seeds(format)
    media = [data for _, data in hostile_media.mutants(count, 0, sound)]
    with Sandbox(PARSERS["evaluation"], CHILDREN) as sandbox:
        assert [reason_of(verdict) for verdict in verdicts(sandbox, list(sound.values()))] == ["decoded"] * len(sound)
        children = pids(sandbox)
        found = verdicts(sandbox, media)
        assert pids(sandbox) == children  # none was lost
    some = range(0, count, 3)
    with Sandbox(PARSERS["training"]) as sandbox:  # one by one, in reverse order
        again = {i: verdicts(sandbox, [media[i]], i)[0] for i in reversed(some)}
    for i in some:
        assert reason_of(again[i]) == reason_of(found[i]) and (reason_of(found[i]) == "decoded" or again[i] == found[i])
    reasons = Counter(map(reason_of, found))
    print(f"{count:,} mutants: " + ", ".join(f"{reason} {n:,}" for reason, n in reasons.most_common()))
    assert reasons.keys() <= {
        "decoded",
        "corrupt",
        "truncated",
        "unrecognized",
        "format_not_allowed",
        "too_many_pixels",
    }
    assert min(reasons["decoded"], reasons["corrupt"]) > count / 20


def measured(sandbox: Sandbox, data: bytes) -> tuple[str, int, float]:
    """(verdict, peak memory of its child in bytes, CPU seconds); 0 and 0 if the child was killed."""
    verdicts(sandbox, [SOUND])  # starts a child
    (pid,) = pids(sandbox)[1:]
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # resets the peak
    held, before = memory(pid, "VmRSS"), processor_seconds(pid)
    (verdict,) = verdicts(sandbox, [data])
    if pid not in pids(sandbox):
        return reason_of(verdict), 0, 0.0
    return reason_of(verdict), memory(pid, "VmHWM") - held, processor_seconds(pid) - before


def memory(pid: int, field: str) -> int:
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) << 10


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


SOUND = hostile_media.encode(hostile_media.photographs()[0], "PNG")


@pytest.fixture(scope="module", params=PARSERS)
def gauge(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with Sandbox(PARSERS[request.param]) as sandbox:
        yield sandbox


ALL = {**bombs.BOMBS, **{f"largest {name}": bomb for name, bomb in bombs.LARGEST.items()}}


@pytest.mark.long
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * name.startswith("largest")) for name in ALL]
)
def test_a_decompression_bomb_stays_within_the_limits_and_affects_no_other(name: str, gauge: Sandbox):
    make, allowed = ALL[name]
    verdict, peak, seconds = measured(gauge, make())
    print(f"{verdict}, {peak >> 20:,} MB, {seconds:.1f} s")
    assert verdict in allowed
    assert peak < MEMORY and seconds < CPU_SECONDS
    assert reason_of(verdicts(gauge, [SOUND])[0]) == "decoded"


@pytest.mark.slow
@pytest.mark.parametrize("name", bombs.ENDLESS)
def test_media_that_take_too_long_are_rejected(name: str, gauge: Sandbox):
    media = [SOUND, bombs.ENDLESS[name](), SOUND]
    assert [reason_of(verdict) for verdict in verdicts(gauge, media)] == ["decoded", "timeout", "decoded"]


def test_the_largest_bombs_have_the_maximum_number_of_pixels():
    assert bombs.SIDE**2 <= MAX_PIXELS < (bombs.SIDE + 1) ** 2


@pytest.mark.slow
def test_the_largest_bombs_give_the_same_result_in_any_order(gauge: Sandbox):
    """A child whose memory other samples have filled gives the same result as a new child."""
    media = [make() for make, _ in bombs.LARGEST.values()]
    first = verdicts(gauge, media)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(media)).tolist()
        again = dict(zip(order, verdicts(gauge, [media[i] for i in order]), strict=True))
        assert [reason_of(again[i]) for i in range(len(media))] == [reason_of(verdict) for verdict in first]
