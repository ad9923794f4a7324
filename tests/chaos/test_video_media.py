"""Damaged and hostile videos in the real sandbox: each gives frames or a reject, within the limits."""

import hashlib
import io
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import hostile_media
import numpy as np
import pytest
import videos
from canary import canary
from test_mutants import check_children, memory, pids, processor_seconds, reason_of

from raylabel.media.parsers import eval_parser, train_parser
from raylabel.media.sandbox.child import MEMORY
from raylabel.media.sandbox.sandbox import Parser, Sandbox
from raylabel.media.view import Clip, View
from raylabel.schema import MAX_BYTES, REASONS

VIEW = View(size=24, resize=32, clip=Clip(frames=4, count=3))
PARSERS = {
    "evaluation": (Parser.of(eval_parser, cpu_seconds=VIEW.cpu_seconds, view=VIEW), VIEW.eval_shape),
    "training": (Parser.of(train_parser, cpu_seconds=VIEW.cpu_seconds, view=VIEW), VIEW.train_shape),
}
TOGETHER = 250


def verdicts(sandbox: Sandbox, kind: str, media: list[bytes], first: int = 0) -> list[str]:
    """For each sample, its reject or the hash of its pixels. In training, its random numbers depend on its position."""
    found = []
    for at in range(0, len(media), TOGETHER):
        some = media[at : at + TOGETHER]
        out = np.empty((len(some), *PARSERS[kind][1]), np.uint8)
        numbers = [(7, 1, first + at + i) if kind == "training" else () for i in range(len(some))]
        for slot, reject in enumerate(sandbox.fill(out, some, numbers)):
            assert reject is None or reject.reason in REASONS and not out[slot].any()
            found.append(f"{reject}" if reject else hashlib.sha256(out[slot]).hexdigest())
        check_children(sandbox)
    return found


@pytest.mark.long
@pytest.mark.parametrize("count", [150, pytest.param(20_000, marks=pytest.mark.slow)])
def test_mutants_give_frames_or_rejects_deterministically(count: int, capsys: pytest.CaptureFixture[str]):
    names = ("mp4", "mp4, mpeg4", "mkv", "webm, vp8", "webm, vp9", "avi, B-frames", "flv", "ts", "gif", "wmv")
    kinds = videos.kinds()
    sound = {name: kinds[name] for name in names}
    made = list(hostile_media.mutants(count, 0, sound))
    media = [data for _, data in made]
    reasons = {}
    for kind, (parser, _) in PARSERS.items():
        with Sandbox(parser, 2) as sandbox:
            assert {reason_of(verdict) for verdict in verdicts(sandbox, kind, list(sound.values()))} == {"decoded"}
            found = verdicts(sandbox, kind, media)
        some = list(range(0, count, 10))
        with Sandbox(parser) as sandbox:  # one by one, in reverse order, in other children
            again = {i: verdicts(sandbox, kind, [media[i]], i)[0] for i in reversed(some)}
        assert again == {i: found[i] for i in some}
        reasons[kind] = Counter(map(reason_of, found))
    with capsys.disabled():
        print(f"\n{count:,} mutants of {len(sound)} videos parsed twice")
        for kind, counts in reasons.items():
            print(f"  {kind}: " + ", ".join(f"{reason} {n:,}" for reason, n in counts.most_common()))
    assert all(counts["decoded"] > count / 20 and counts["corrupt"] > count / 50 for counts in reasons.values())


def test_addresses_in_files_are_not_opened():
    texts = {
        "m3u8": b"#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:10.0,\nhttp://HERE/a.ts\n#EXT-X-ENDLIST\n",
        "ffconcat": b"ffconcat version 1.0\nfile 'http://HERE/a.mp4'\n",
        "sdp": b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nm=video 5004 RTP/AVP 96\r\n",
        "dash": b"<MPD xmlns='urn:mpeg:dash:schema:mpd:2011'><BaseURL>http://HERE/</BaseURL></MPD>",
        "quicktime reference": b"\0\0\0\x34moov\0\0\0\x2crmra\0\0\0\x24rmda\0\0\0\x1crdrf\0\0\0\0url http://HERE/a.mov",
        "transport stream with an SDP inside": b"G\r\nv=0\r\nc=IN IP4 127.0.0.1\r\n".ljust(188, b"\n") + b"G" * 700,
    }
    with canary() as port:
        media = [data.replace(b"HERE", b"127.0.0.1:%d" % port) for data in texts.values()]
        media.append(referring(f"http://127.0.0.1:{port}/a.mp4".encode()))
        for kind, (parser, _) in PARSERS.items():
            with Sandbox(parser) as sandbox:
                found = verdicts(sandbox, kind, media)
            *rejected, own = map(reason_of, found)
            assert set(rejected) <= {"unrecognized", "format_not_allowed", "corrupt", "truncated"}, found
            assert own == "decoded"  # from the data in the file itself


def referring(address: bytes) -> bytes:
    """An MP4 file whose frames are in another file, by a data reference to an address (ISO 14496-12 §8.7.2)."""
    data = videos.video(videos.scene(3), options=videos.x264())
    url = b"\0\0\0\x0curl \0\0\0\1"
    assert data.count(url) == 1
    entry = b"url \0\0\0\0" + address + b"\0"
    grown = (len(entry) + 4).to_bytes(4, "big") + entry
    more, at = len(grown) - len(url), data.index(url)
    changed = bytearray(data)
    inside = [b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"]
    for name in inside:
        start = data.index(name) - 4
        changed[start : start + 4] = (int.from_bytes(data[start : start + 4], "big") + more).to_bytes(4, "big")
    changed[at : at + len(url)] = grown
    return bytes(changed)


def huge_frames() -> bytes:
    """Frames of 8192 x 8192 pixels, in 20 kB."""
    return videos.video(np.zeros((2, 8192, 8192, 3), np.uint8), options={"preset": "ultrafast", "crf": "40"})


def growing_frames() -> bytes:
    """The header says 64 x 48 pixels, but later frames have 4096 x 4096."""
    small = videos.video(videos.scene(3), "mpegts", options=videos.x264())
    return small + videos.video(np.zeros((2, 4096, 4096, 3), np.uint8), "mpegts", options={"preset": "ultrafast"})


def huge_count() -> bytes:
    """The table of durations says that there are 4 billion frames (stts, ISO 14496-12 §8.6.1.2)."""
    data = bytearray(videos.video(videos.scene(3), options=videos.x264(bframes=0)))
    at = data.index(b"stts") + 12
    data[at : at + 4] = b"\xff\xff\xff\xf0"
    return bytes(data)


def huge_tables() -> bytes:
    """The file says that each of its tables has 10^9 entries."""
    data = bytearray(videos.video(videos.scene(3), options=videos.x264()))
    for name in (b"stts", b"stsz", b"stsc", b"stco", b"ctts"):
        at = data.index(name) + (12 if name == b"stsz" else 8)
        data[at : at + 4] = b"\x3f\xff\xff\xff"
    return bytes(data)


def samples_of_one_size() -> bytes:
    """The file says that it has 50 million frames of one byte each."""
    data = bytearray(videos.video(videos.scene(3), options=videos.x264(bframes=0)))
    at = data.index(b"stsz") + 8
    data[at : at + 8] = struct.pack(">II", 1, 50_000_000)
    at = data.index(b"stsc") + 16
    data[at : at + 4] = struct.pack(">I", 50_000_000)
    at = data.index(b"stts") + 12
    data[at : at + 4] = struct.pack(">I", 50_000_000)
    return bytes(data)


def ten_hours() -> bytes:
    """900,000 frames in one group of pictures; their packets are repeated."""
    return long_video(900_000)


def long_video(frames: int) -> bytes:
    """A frame that is repeated without a change, in H.264; each frame has its number (frame_num)."""
    few = videos.video(np.stack([videos.scene(1)[0]] * 300), "matroska", options=videos.x264(250, bframes=0, ref=1))
    out = io.BytesIO()
    with av.open(io.BytesIO(few), "r") as source, av.open(out, "w", format="mp4") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        packets = [(bytes(p), p.is_keyframe) for p in source.demux(video=0) if p.size]
        keys = [i for i, (_, key) in enumerate(packets) if key]
        cycle = packets[keys[0] + 1 : keys[0] + 241]  # frame_num repeats after 16 x 15 frames
        for number in range(frames):
            packet = av.Packet(packets[0][0] if number == 0 else cycle[(number - 1) % len(cycle)][0])
            packet.stream, packet.time_base = stream, Fraction(1, 25)
            packet.pts = packet.dts = number
            packet.is_keyframe = number == 0
            container.mux(packet)
    return out.getvalue()


HOSTILE: dict[str, tuple[Callable[[], bytes], set[str]]] = {
    "huge frames": (huge_frames, {"too_many_pixels"}),
    "growing frames": (growing_frames, {"corrupt", "decoded"}),
    "huge count": (huge_count, {"corrupt", "decoded", "out_of_memory", "timeout"}),
    "huge tables": (huge_tables, {"corrupt", "decoded", "out_of_memory", "timeout"}),
    "samples of one size": (samples_of_one_size, {"corrupt", "out_of_memory", "timeout"}),
    "ten hours": (ten_hours, {"decoded", "timeout"}),
}


@pytest.fixture(scope="module", params=PARSERS)
def gauge(request: pytest.FixtureRequest) -> Iterator[tuple[str, Sandbox]]:
    with Sandbox(PARSERS[request.param][0]) as sandbox:
        yield request.param, sandbox


@pytest.mark.long
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "ten hours")) for n in HOSTILE])
def test_a_hostile_video_stays_within_the_limits_and_affects_no_other(name: str, gauge: tuple[str, Sandbox]):
    kind, sandbox = gauge
    make, allowed = HOSTILE[name]
    data, sound = make(), videos.video(videos.scene(8))
    (before,) = verdicts(sandbox, kind, [sound])
    (pid,) = pids(sandbox)[1:]
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # resets the peak
    held, spent, began = memory(pid, "VmRSS"), processor_seconds(pid), time.monotonic()
    (verdict,) = verdicts(sandbox, kind, [data])
    if pid in pids(sandbox):
        peak, seconds = memory(pid, "VmHWM") - held, processor_seconds(pid) - spent
        print(f"{len(data):,} bytes: {verdict}, {peak >> 20:,} MB, {seconds:.1f} s")
        assert peak < MEMORY + 2 * len(data) and seconds < VIEW.cpu_seconds
    else:
        print(f"{len(data):,} bytes: {verdict}, {time.monotonic() - began:.1f} s")
    assert reason_of(verdict) in allowed, verdict
    assert verdicts(sandbox, kind, [sound]) == [before]


@pytest.mark.slow  # 4 GB in three processes
def test_the_memory_limit_grows_with_the_size_of_a_video(gauge: tuple[str, Sandbox]):
    """A video of 1 GB, most of it unused (a `free` box), is larger than the limit of a child for small videos."""
    kind, sandbox = gauge
    sound = videos.video(videos.scene(40), options=videos.x264())
    before, soft = verdicts(sandbox, kind, [sound]), address_space(sandbox)[0]
    free = MAX_BYTES - len(sound)
    padded = b"".join((sound, free.to_bytes(4, "big"), b"free", bytes(free - 8)))
    assert verdicts(sandbox, kind, [padded]) == before
    assert address_space(sandbox)[0] == soft + 2 * MAX_BYTES
    assert verdicts(sandbox, kind, [sound]) == before
    assert address_space(sandbox)[0] == soft  # for the next video the limit is as before


def address_space(sandbox: Sandbox) -> tuple[int, int]:
    """The (soft, hard) limit of the address space of the sandbox's child."""
    (child,) = (child for child in sandbox._idle.queue if child)
    limits = Path(f"/proc/{child._pid}/limits").read_text()
    (line,) = (line for line in limits.splitlines() if line.startswith("Max address space"))
    soft, hard = map(int, line.split()[3:5])
    return soft, hard
