"""The terminal shows the summary and the progress, and names cannot control it."""

import dataclasses
import io
import re
import threading
from typing import Any

import pytest
from rich.console import Console

from raylabel.compute.progress import PATIENCE, PatientProgress, Progress
from raylabel.evaluate.results import Metric
from raylabel.report.control import ControlUsed
from raylabel.report.head import FittedHead, TriedStrength, ZeroShotHead
from raylabel.report.summary import Counts, PassedOver, Picks, Reject, Stage, Summary, verdict
from raylabel.report.terminal import print_summary
from raylabel.selection.leaks import Leaks, SharedSet
from raylabel.text import printable

HOSTILE = "\x1b[31mred\x1b]0;title\x07\r\n[bold]x[/bold] \u202egpj.exe \x9b2J \udcff 猫"


TESTED = {"seed": 0, "dataset": "test", "split": "test"}
TOP1 = Metric(**TESTED, model="teacher", metric="top1", value=0.5, low=0.4, high=0.6, n=96)
GAIN = Metric(**TESTED, model="student", metric="gain_top1", value=0.034, low=0.026, high=0.042, n=96)
PRECISION = Metric(seed=0, dataset="u", split="unlabeled", model="teacher", metric="pick_precision", value=0.9, n=30)


def small(name: str = "cat") -> Summary:
    return Summary(
        run=name,
        classes=[name, "dog"],
        counts=Counts(samples=1200, scored=1150, rejected=30, duplicates=20, labeled=50, labeled_rejected=2),
        rejects=[Reject(reason="truncated", count=28), Reject(reason=name, count=2)],
        metrics=[TOP1, GAIN, PRECISION],
        test_per_class=[50, 46],
        control=ControlUsed(description=f"trained as {name}", images=4000),
        picks=Picks(total=30, samples=29, k=20, p=2, rank="log_odds", per_class=[10, 20], min=10, median=15.0, max=20),
        stages=[Stage(name="label", seconds=2.0, images=1200, images_per_second=600.0), Stage(name=name, seconds=1.0)],
        hardware=name,
        settings={},
        artifacts={},
    )


def console(terminal: bool = False, encoding: str = "utf-8", width: int = 200) -> tuple[Console, io.TextIOWrapper]:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    return Console(file=stream, force_terminal=terminal, width=width), stream


def text_of(stream: io.TextIOWrapper) -> str:
    stream.flush()
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue().decode(stream.encoding)


@pytest.mark.parametrize(
    ("value", "low", "high", "expected"),
    [
        (0.034, 0.026, 0.042, "+3.4 points (95% interval +2.6 to +4.2)"),
        (0.003, -0.005, 0.011, "no measurable gain (+0.3 points, 95% interval -0.5 to +1.1)"),
        (0.005, 0.0, 0.01, "no measurable gain (+0.5 points, 95% interval +0.0 to +1.0)"),
        (-0.003, -0.011, 0.005, "no measurable gain (-0.3 points, 95% interval -1.1 to +0.5)"),
        (-0.021, -0.03, -0.012, "measurable loss: -2.1 points (95% interval -3.0 to -1.2)"),
    ],
)
def test_verdict_claims_a_gain_only_if_the_interval_excludes_zero(
    value: float, low: float, high: float, expected: str
) -> None:
    gain = dataclasses.replace(GAIN, value=value, low=low, high=high, n=10)
    assert verdict(gain) == expected
    written = dataclasses.replace(small(), metrics=[TOP1, gain]).to_dict()["gain"]
    assert written == {"value": value, "low": low, "high": high, "n": 10, "verdict": expected}


def test_contradictory_numbers_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"10 in, but 5 scored \+ 3 rejected \+ 1 duplicates \+ 0 near-duplicates = 9"):
        Counts(samples=10, scored=5, rejected=3, duplicates=1, labeled=5, labeled_rejected=0)
    summary = small()
    with pytest.raises(ValueError, match="sum to 2, but 30 samples were rejected"):
        dataclasses.replace(summary, rejects=summary.rejects[1:])
    with pytest.raises(ValueError, match="picks of 2 classes, but there are 3"):
        dataclasses.replace(summary, classes=["a", "b", "c"])
    with pytest.raises(ValueError, match="test samples of 3 classes, but there are 2"):
        dataclasses.replace(summary, test_per_class=[1, 0, 1])
    with pytest.raises(ValueError, match="sum to 30, but there are 31 picks"):
        dataclasses.replace(summary, picks=dataclasses.replace(summary.picks, total=31))
    with pytest.raises(ValueError, match=r"two metrics have the key \('teacher', 0, 'test', 'test', 'top1'\)"):
        dataclasses.replace(summary, metrics=[TOP1, GAIN, dataclasses.replace(TOP1, value=0.55)])
    with pytest.raises(ValueError, match="no metric has .*gain_top1"):
        dataclasses.replace(summary, metrics=[TOP1])


def test_printable_keeps_every_script_and_drops_control_characters() -> None:
    assert printable("naïve 猫 قط חתול 👩‍🔬") == "naïve 猫 قط חתול 👩‍🔬"  # also the zero-width joiner of the emoji
    assert printable(HOSTILE) == "[31mred]0;title  [bold]x[/bold] gpj.exe 2J  猫"


def test_table_is_plain_text_of_at_most_100_columns_with_all_numbers() -> None:
    where, stream = console()
    reasons = [Reject(reason=f"a reason that is number {i}", count=3) for i in range(10)]
    passed = [PassedOver(corpus="unlabeled", extension=".heic", count=1234, examples=["d/a.heic", "d/b.heic"])]
    tried = [TriedStrength(strength=strength, accuracy=0.82) for strength in (1.0, 10.0)]
    head = FittedHead(strength=10.0, samples=1234, without=1, validation=tried)
    named = ZeroShotHead(templates=["a photo of a {}."], names=["cat", "dog"])
    found = dataclasses.replace(
        small(), rejects=reasons, passed_over=passed, warnings=("look at it",), head=head, zero_shot=named
    )
    print_summary(found, "/runs/run-0123", where)
    text = text_of(stream)
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 100
    for expected in (
        "teacher 50.0% 40.0 to 60.0 96",
        "head of the teacher: strength 10 (82.0% in cross-validation), fitted to 1,234",
        "head of the teacher: zero-shot, of the names 'cat', 'dog', in the templates 'a photo of a {}.'",
        "+3.4 points (95% interval +2.6 to +4.2)",
        "1,200 in = 1,150 scored + 30 rejected + 20 duplicates",
        "a reason that is number 9 3",
        "passed over (not samples): 1,234 .heic of unlabeled (d/a.heic)",
        "min 10 (cat), median 15, max 20 (dog)",
        "true label: 90.0% of 30",
        "warning: look at it",
        "label 2.0 1,200 600.0",
        "/runs/run-0123/report.html",
        "/runs/run-0123/summary.json",
    ):
        assert expected in re.sub(" +", " ", text)


def test_table_of_videos_fits_80_columns_with_all_numbers() -> None:
    numbers = {"top1": (1.0, 0.912, 1.0), "top5": (1.0, 0.97, 1.0), "clip_top1": (0.813, 0.75, 0.876)}
    where, stream = console(width=80)
    rows = [
        Metric(**TESTED, model=model, metric=metric, value=value, low=low, high=high, n=20_000)
        for model in ("teacher", "student")
        for metric, (value, low, high) in numbers.items()
    ]
    print_summary(dataclasses.replace(small(), metrics=[*rows, GAIN]), "/runs/run-0123", where)
    text = re.sub(" +", " ", text_of(stream))
    assert max(map(len, text_of(stream).splitlines())) <= 80
    assert text.count("100.0% 91.2 to 100.0 100.0% 97.0 to 100.0 20,000") == 2
    assert text.count("per clip 81.3% 75.0 to 87.6 20,000") == 2
    assert "teacher 100.0% 91.2" in text and "student 100.0% 91.2" in text and "(fine-tuned)" in text


NO_LEAK = Leaks(known=0, videos=0, labeled=0, unlabeled=0, labeled_copies=0, copies=0, test=0, n=96, examples=[])


@pytest.mark.parametrize(
    ("leaks", "expected"),
    [
        (None, None),
        (NO_LEAK, None),
        (
            dataclasses.replace(NO_LEAK, known=96),
            "leaks: no source video of the test set is in the labeled set or in the corpus",
        ),
        (
            dataclasses.replace(NO_LEAK, known=96, videos=2, labeled=1234, unlabeled=5, test=7, examples=["a", "b"]),
            "leaks: 7 of 96 test samples leak: 2 source videos of the test set (a, b) are also the source of 1,234 "
            "labeled samples and 5 samples of the corpus",
        ),
        (
            dataclasses.replace(NO_LEAK, known=9, videos=3, unlabeled=5, copies=6, test=7, examples=["\x1b[2Ja", "b"]),
            "leaks: 7 of 96 test samples leak: 3 source videos of the test set ([2Ja, b, ...) are also the source of 0 "
            "labeled samples and 5 samples of the corpus; 6 samples of the corpus are byte-identical to test samples",
        ),
        (
            dataclasses.replace(NO_LEAK, copies=6, test=7),
            "leaks: 7 of 96 test samples leak: 6 samples of the corpus are byte-identical to test samples",
        ),
        (
            dataclasses.replace(NO_LEAK, labeled_copies=2, copies=6, test=7),
            "leaks: 7 of 96 test samples leak: 2 labeled samples and 6 samples of the corpus are byte-identical",
        ),
        (
            dataclasses.replace(NO_LEAK, labeled_copies=2, test=1),
            "leaks: 1 of 96 test samples leak: 2 labeled samples are byte-identical to test samples",
        ),
        (dataclasses.replace(NO_LEAK, others=[SharedSet(name="v2", labeled={}, unlabeled={})]), None),
        (
            dataclasses.replace(
                NO_LEAK,
                removed=44,
                others=[
                    SharedSet(name="v2", labeled={}, unlabeled={"bytes": 3, "near": 1041}),
                    SharedSet(name="voc", labeled={"near": 2}, unlabeled={"near": 1}),
                ],
            ),
            "leaks: samples of the corpus (3 byte-identical, 1,041 near-duplicates) are also in v2; labeled samples (2 "
            "near-duplicates) and samples of the corpus (1 near-duplicates) are also in voc (44 samples of the corpus "
            "are not selected)",
        ),
    ],
)
def test_leaks_are_printed_if_source_videos_are_known_or_files_are_shared(
    leaks: Leaks | None, expected: str | None
) -> None:
    where, stream = console()
    print_summary(dataclasses.replace(small(), leaks=leaks), "/runs/run-0123", where)
    text = text_of(stream).replace("\n", " ").replace("  ", " ")
    assert ("leaks" in text) == (expected is not None)
    assert expected is None or expected in text


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_hostile_names_are_printed_as_plain_text(terminal: bool, encoding: str) -> None:
    where, stream = console(terminal, encoding)
    print_summary(small(HOSTILE), "/runs/" + "long" * 60, where)
    text = re.sub(r"\x1b\[[0-9;]*m", "", text_of(stream)) if terminal else text_of(stream)  # without rich's own colours
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)
    assert "[bold]x[/bold]" in text  # rich markup is printed as text
    assert "long" * 60 + "/report.html\n" in text  # one line, so that it can be copied


@pytest.mark.parametrize(
    ("settings", "word"),
    [({}, "images"), ({"view": {"clip": None}}, "images"), ({"view": {"clip": {"frames": 8}}}, "samples")],
)
def test_stages_of_a_video_run_count_samples(settings: dict[str, Any], word: str) -> None:
    where, stream = console()
    print_summary(dataclasses.replace(small(), settings=settings), "runs/run-cat-0", where)
    (head,) = (line.split() for line in text_of(stream).splitlines() if line.split()[:2] == ["stage", "seconds"])
    assert head == ["stage", "seconds", word, f"{word}/s"]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_progress_without_a_terminal_prints_a_line_at_most_every_five_seconds() -> None:
    clock, (where, stream) = Clock(), console()
    with Progress("label\x1b[2J", 1000, "images", console=where, clock=clock) as progress:
        for second in range(1, 21):
            clock.now = float(second)
            progress.update(second * 50, rejects=second // 10, note="unit\n7")
        before_end = len(text_of(stream).splitlines())
    lines = text_of(stream).splitlines()
    assert (before_end, len(lines)) == (4, 5)  # at 0, 5, 10, 15 seconds, and once at the end
    assert lines[0] == "label[2J: 0 of 1,000 images"
    assert lines[1] == "label[2J: 250 of 1,000 images, 50/s, 15 s left, unit 7"
    assert lines[2] == "label[2J: 500 of 1,000 images, 50/s, 10 s left, 1 rejected, unit 7"
    assert lines[-1] == "label[2J: 1,000 of 1,000 images, 50/s, in 20 s, 2 rejected, unit 7"


def test_rate_excludes_work_before_its_window_and_of_an_earlier_run() -> None:
    clock, (where, stream) = Clock(), console()
    with Progress("train", 2_000_000, unit="steps", done=1_000_000, console=where, clock=clock) as progress:
        for second in range(1, 121):
            clock.now = float(second)
            progress.update(1_000_000 + (second * 1000 if second <= 60 else 60_000 + (second - 60) * 10))
    lines = text_of(stream).splitlines()
    assert lines[1].startswith("train: 1,005,000 of 2,000,000 steps, 1,000/s, 16 min 35 s left")
    assert ", 10/s, 26 h 05 min left" in lines[-2]
    assert lines[-1].endswith(", 505/s, in 2 min 00 s")  # the whole of this run: 60,600 steps in 120 s


def test_rate_is_not_negative_if_the_count_decreases() -> None:
    clock, (where, stream) = Clock(), console()
    with Progress("train", 1000, "images", done=200, console=where, clock=clock) as progress:
        for second, done in ((3, 500), (6, 100), (12, 160), (20, 1000)):
            clock.now = float(second)
            progress.update(done)
    lines = text_of(stream).splitlines()
    assert lines[1] == "train: 100 of 1,000 images"
    assert lines[2] == "train: 160 of 1,000 images, 10/s, 1 min 24 s left"
    assert lines[-1] == "train: 1,000 of 1,000 images, 45/s, in 20 s"


def test_error_prints_stopped_and_propagates() -> None:
    clock, (where, stream) = Clock(), console()
    with pytest.raises(KeyError), Progress("label", 0, "images", console=where, clock=clock):
        clock.now = 3.0
        raise KeyError
    assert text_of(stream).splitlines()[-1] == "label: 0 of 0 images, 0/s, stopped after 3 s"


def test_progress_on_a_terminal_is_one_live_line_that_stays_when_done() -> None:
    clock, (where, stream) = Clock(), console(terminal=True)
    with Progress("label", 1000, "images", console=where, clock=clock) as progress:
        clock.now = 4.0
        progress.update(400, rejects=3, note="[red]unit 7[/red]")
        progress._bar.refresh()
        clock.now = 10.0
        progress.update(1000, rejects=3)
    text = text_of(stream)
    assert "\x1b[" in text
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert "400 of 1,000 images, 100/s, 6 s left, 3 rejected, [red]unit 7[/red]" in plain
    assert plain.rstrip().splitlines()[-1].endswith("1,000 of 1,000 images, 100/s, in 10 s, 3 rejected")


def test_updates_from_many_threads_keep_lines_intact() -> None:
    clock, (where, stream) = Clock(), console()
    with Progress("label", 8000, "images", console=where, clock=clock) as progress:

        def work() -> None:
            for done in range(1000):
                clock.now += 1.0  # every few updates, a line is due
                progress.update(done)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lines = text_of(stream).splitlines()
    assert len(lines) > 100
    assert all(re.fullmatch(r"label: [\d,]+ of 8,000 images(, .*)?", line) for line in lines)


def test_patient_progress_prints_nothing_for_short_work() -> None:
    now = [0.0]
    for seconds, total, expected in [
        (PATIENCE - 0.1, 10, []),
        (PATIENCE, 10, ["index: 3 of 10 files", "index: 9 of 10 files, 6/s, in 1 s"]),
        (PATIENCE, None, ["index: 3 files", "index: 9 files, 6/s, in 1 s"]),
    ]:
        now[0] = 0.0
        out, stream = console()
        with PatientProgress("index", total, "files", console=out, clock=lambda: now[0]) as progress:
            progress.update(1)
            now[0] = seconds
            progress.update(3)
            now[0] = seconds + 1 if expected else seconds
            progress.update(9)
        assert text_of(stream).splitlines() == expected
