"""Which questions are kept for plain hits: short ones that were answered, in a table that is bounded in bytes."""

from __future__ import annotations

from typing import cast

import pytest

from proxy.gateway.answers import ReadObject
from proxy.gateway.hot import HotRead, Peeked
from proxy.objects import ObjectName, ObjectRecord, ObjectVersion
from proxy.surface import hot
from s3api.hot import hot_reads
from s3api.requests import Read

RECORD = ObjectRecord(
    version=ObjectVersion("o", "b", "k", '"e"', 10),
    etag='"e"',
    last_modified_s=1e9,
    headers=(),
    checked_at_s=0.0,
)


class Prepared:
    """A read that is answered at once where its key says so."""

    def __init__(self, request: ReadObject) -> None:
        self._name = request.name

    def peek(self, wanted: bytes | None) -> Peeked | None:
        return None if self._name.key.startswith("missing") else Peeked(RECORD, 0, 10, False, False, ())


class Questions:
    """HotReads and how often it had to parse."""

    def __init__(self) -> None:
        self.parsed: list[ObjectName] = []
        self.reads: hot.HotReads[Read] = hot_reads(self._prepare)

    def _prepare(self, request: ReadObject) -> HotRead:
        self.parsed.append(request.name)
        return cast(HotRead, Prepared(request))

    def ask(self, target: bytes, **fields: bytes) -> bool:
        headers = {name.replace("_", "-").encode(): value for name, value in fields.items()}
        return self.reads.answer(b"GET", target, {b"host": b"h", **headers}, bare=True) is not None

    def kept_bytes(self) -> int:
        return self.reads._kept_bytes


@pytest.fixture
def questions() -> Questions:
    return Questions()


def test_a_question_that_was_answered_is_parsed_once(questions: Questions) -> None:
    assert [questions.ask(b"/b/k") for _ in range(3)] == [True] * 3
    assert len(questions.parsed) == 1


def test_a_question_that_is_not_answered_is_not_kept(questions: Questions) -> None:
    for number in range(100):
        assert not questions.ask(b"/b/missing%d" % number)
    assert questions.kept_bytes() == 0


@pytest.mark.parametrize("part", ["target", "condition"])
def test_a_long_question_is_answered_and_not_kept(questions: Questions, part: str) -> None:
    for _ in range(3):
        if part == "target":
            assert questions.ask(b"/b/k?x-id=" + b"a" * 2100)
        else:
            assert questions.ask(b"/b/k", if_none_match=b'"' + b"a" * 2100 + b'"')
    assert len(questions.parsed) == 3
    assert questions.kept_bytes() == 0


def test_the_longest_key_is_kept(questions: Questions) -> None:
    for _ in range(2):
        assert questions.ask(b"/bucket/" + b"k" * 1024)
    assert len(questions.parsed) == 1


def test_what_is_kept_is_bounded_in_bytes(questions: Questions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hot, "KEPT_BYTES_MAX", 100_000)
    for number in range(200):
        assert questions.ask(b"/b/%03d" % number + b"k" * 900)
    assert 90_000 < questions.kept_bytes() <= 100_000
    assert len(questions.reads._kept) < 20
    assert questions.ask(b"/b/199" + b"k" * 900)
    assert len(questions.parsed) == 200  # the latest are there
