"""A range of GCS asked for before its generation is known is judged once it is, by the rules of every range."""

from __future__ import annotations

import pytest

from proxy.blocks import ByteSink
from proxy.errors import NotFound, OriginUnavailable, VersionChanged, WarmstartError
from proxy.objects import ObjectRecord, ObjectVersion
from proxy.origin import Attach, OpensRanges
from proxy.origin.watched import WatchedOpener
from proxy.ranges import ByteRange
from tests.fakes.scripted import Handler, ScriptedServer, answer
from tests.origin.answers import DATA, RIGHT, SPAN
from tests.origin.asking import Received, Tokens, counted, gcs_origin
from tests.origin.gcs_answers import said

BODY = DATA[SPAN.start : SPAN.end]


class Taker:
    """Judges at once, as that of a version of this origin."""

    def __init__(self, origin: WatchedOpener, generation: int = 17, span: ByteRange = SPAN) -> None:
        self.sink = Received()
        self._version = ObjectVersion(origin.id, "models", "weights", f"generation {generation}", len(DATA))
        self._span = span
        self.record: ObjectRecord | None = None

    def begin(self, attach: Attach, record: ObjectRecord | None = None) -> ByteSink:
        self.record = record
        return attach(self._version, self._span, self.sink)


def served(body: bytes = BODY, *headers: tuple[str, str]) -> Handler:
    return answer(206, body, [("content-range", RIGHT), *(headers or (("x-goog-generation", "17"),))])


async def fail(handler: Handler, generation: int = 17) -> WarmstartError:
    async with ScriptedServer(handler) as server, gcs_origin(server.url) as origin:
        taker = Taker(origin, generation)
        with pytest.raises(WarmstartError) as caught:
            await origin.open_range("models", "weights", SPAN, taker)
        assert not taker.sink.data
    return caught.value


async def test_a_range_is_asked_for_without_a_generation_and_taken_as_the_current_one() -> None:
    async with ScriptedServer(served()) as server, gcs_origin(server.url, Tokens()) as origin:
        assert isinstance(origin, OpensRanges)
        taker = Taker(origin)
        await origin.open_range("models", "a b", SPAN, taker)
        assert taker.sink.data == BODY
        assert counted("origin_bytes", origin.id) == len(BODY)
        [request] = server.requests
    assert request.target == b"/download/storage/v1/b/models/o/a%20b?alt=media"
    assert request.get("accept-encoding") == "gzip"
    assert request.get("range") == f"bytes={SPAN.start}-{SPAN.end - 1}"


async def test_another_generation_than_the_metadata_told_is_a_changed_version() -> None:
    assert isinstance(await fail(served(), generation=18), VersionChanged)


async def test_a_server_that_names_no_generation_can_not_be_asked_so() -> None:
    error = await fail(served(BODY, ("x-other", "1")))
    assert isinstance(error, OriginUnavailable)
    assert "generation" in str(error)


async def test_what_is_missing_or_throttled_is_said() -> None:
    assert isinstance(await fail(said(404, "notFound", "No such object: models/weights")), NotFound)
    error = await fail(said(429, "rateLimitExceeded"))
    assert isinstance(error, OriginUnavailable)
    assert error.throttled
