"""The tracker: what fails does not end a run, and the newest snapshot arrives."""

import threading
import time

import pytest
from tracked import points, snapshot

from raylabel.tracking import tracker
from raylabel.tracking.snapshot import Snapshot, flat
from raylabel.tracking.tracker import Tracker


class Recorder:
    """Fails at the first calls."""

    def __init__(self, failures: int):
        self.failures, self.calls, self.got = failures, 0, list[Snapshot]()

    def send(self, snapshot: Snapshot) -> None:
        self.calls += 1
        if self.calls <= self.failures:
            raise ConnectionError("no\nserver")
        self.got.append(snapshot)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker, "EVERY", 0.02)
    monkeypatch.setattr(tracker, "RETRY", 0.02)


def wait_for(condition) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_backend_that_fails_is_tried_again_with_one_warning(capsys: pytest.CaptureFixture[str]) -> None:
    broken, sound = Recorder(3), Recorder(0)
    tracked = Tracker(snapshot(), {"broken": lambda: broken, "sound": lambda: sound})
    tracked.watch("teacher", points(4))
    wait_for(lambda: broken.got)
    tracked.watch("teacher", points(4))  # nothing new
    tracked.watch("teacher", points(6))
    wait_for(lambda: broken.got[-1].points == {"teacher": points(6)} == sound.got[-1].points)
    tracked.end()
    for backend in (broken, sound):
        assert backend.got[-1].state == "stopped" and backend.got[-1].points == {"teacher": points(6)}
        assert len({id(one) for one in backend.got}) == len(backend.got)
    assert capsys.readouterr().out.count("warning: cannot track the run in broken (no server): it is tried again") == 1


def test_a_backend_that_never_answers_ends_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tracker.LAST, "stopped", 0.2)
    over = threading.Event()

    class Silent:
        def send(self, snapshot: Snapshot) -> None:
            over.wait(30)

    def unavailable() -> Silent:
        raise OSError("no such store")

    tracked = Tracker(snapshot(), {"silent": Silent, "lost": unavailable})
    begun = time.monotonic()
    tracked.watch("teacher", points(4))
    assert time.monotonic() < begun + 0.1
    tracked.end()
    assert time.monotonic() < begun + 10
    said = " ".join(capsys.readouterr().out.split())
    assert "warning: silent does not answer" in said
    assert "cannot track the run in lost (no such store): the same command sends what is missing" in said
    over.set()


def test_settings_have_the_names_of_the_command_line() -> None:
    assert flat({"a": {"b": 1, "c": ["x"]}, "d": None}) == {"a.b": "1", "a.c": "['x']", "d": "None"}
