"""Trouble at an origin is told once when it begins, now and then while it lasts, and once when it is over."""

from __future__ import annotations

import logging

import pytest

from proxy.errors import AccessDenied, OriginUnavailable, WarmstartError, blame
from proxy.origin.incidents import QUIET_S, Incidents
from proxy.rate_limited_log import INTERVAL_S


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def down(reason: str = "connect", said: str = "") -> WarmstartError:
    return blame(OriginUnavailable(f"{reason}: refused"), reason, said, "req-1")


class Told:
    """Incidents of an origin `lab`, and the lines that they log."""

    def __init__(self, caplog: pytest.LogCaptureFixture, *secrets: str) -> None:
        caplog.set_level(logging.DEBUG, "warmstart.origin")
        self._caplog = caplog
        self.clock = Clock()
        self.incidents = Incidents("lab", secrets, clock=self.clock)

    def lines(self) -> list[tuple[str, str]]:
        """Level and text of the lines since the last call."""
        found = [(record.levelname, record.getMessage()) for record in self._caplog.records]
        self._caplog.clear()
        return found

    def later(self, seconds: float) -> None:
        self.clock.now_s += seconds
        self.incidents.tick()


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Told:
    return Told(caplog)


def test_a_failure_is_logged_with_all_that_is_known_of_it(told: Told, caplog: pytest.LogCaptureFixture) -> None:
    told.incidents.failed(blame(AccessDenied("the origin refuses"), "refused", "403 AccessDenied: No", "r1"), "b", "k")
    [record] = caplog.records
    assert (record.levelname, record.getMessage()) == ("WARNING", "origin lab: the origin refuses")
    assert record.__dict__["fields"] == {
        "origin": "lab",
        "reason": "refused",
        "bucket": "b",
        "key": "k",
        "said": "403 AccessDenied: No",
        "origin_request_id": "r1",
    }


def test_failures_of_one_reason_are_one_line_each_half_minute_with_their_number(told: Told) -> None:
    for _ in range(5):
        told.incidents.failed(down(), "b", "k")
    told.incidents.failed(down("server"), "b", "k")
    assert told.lines() == [("WARNING", "origin lab: connect: refused"), ("INFO", "origin lab: server: refused")]
    told.later(INTERVAL_S)
    told.incidents.failed(down(), "b", "k")
    assert told.lines() == [("WARNING", "origin lab: connect: refused (5 times)")]


def test_the_end_of_trouble_says_how_long_it_lasted(told: Told, caplog: pytest.LogCaptureFixture) -> None:
    told.incidents.failed(down(), "b", "k")
    told.later(40)
    told.incidents.failed(down(), "b", "k")
    told.later(2)
    told.incidents.answered("b", "other")
    caplog.clear()
    told.later(QUIET_S)
    [record] = caplog.records
    assert (record.levelname, record.getMessage()) == ("INFO", "origin lab answers again")
    assert record.__dict__["fields"] == {"origin": "lab", "reason": "connect", "lasted_s": 42.0, "failures": 2}
    told.later(QUIET_S)
    assert len(caplog.records) == 1


def test_an_origin_that_answers_in_between_has_not_recovered(told: Told) -> None:
    for _ in range(5):
        told.incidents.failed(down("server"), "b", "k")
        told.incidents.answered("b", "k")
        told.later(QUIET_S / 2)
    assert told.lines() == [("INFO", "origin lab: server: refused")]


def test_a_refusal_is_over_when_the_same_key_is_answered(told: Told) -> None:
    told.incidents.failed(down("refused"), "b", "closed")
    told.incidents.answered("b", "open")
    told.later(QUIET_S)
    assert len(told.lines()) == 1
    told.incidents.answered("b", "closed")
    told.later(QUIET_S)
    assert told.lines() == [("INFO", "origin lab answers again")]


def test_trouble_that_was_held_back_ends_without_a_line(told: Told) -> None:
    for _ in range(2):
        told.incidents.failed(down(), "b", "k")
        told.incidents.answered("b", "k")
        told.later(QUIET_S)
    assert [text for _, text in told.lines()] == ["origin lab: connect: refused", "origin lab answers again"]


def test_a_retry_that_gave_up_is_a_warning(told: Told) -> None:
    told.incidents.gave_up(down("throttled"), "b", "k", 9, 30.04)
    assert told.lines() == [("WARNING", "origin lab: throttled: refused; given up")]


def test_no_line_shows_a_secret_or_more_than_a_little_of_what_an_origin_says(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = Told(caplog, "AKIDSECRET", "hunter2")
    said = "The key AKIDSECRET with Signature=abc/def and\nhunter2 " + "x" * 5000
    told.incidents.failed(down("refused", said), "b", "k" * 5000)
    fields = caplog.records[0].__dict__["fields"]
    assert fields["said"].startswith("The key … with Signature=… and … xxx")
    assert len(fields["said"]) <= 300
    assert len(fields["key"]) <= 300
