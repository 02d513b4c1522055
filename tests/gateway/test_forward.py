"""Writes are fenced before the origin hears of them, until its last word, whatever goes wrong between."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import pytest

from proxy.errors import AccessDenied, InvalidRequest, OriginUnavailable, WarmstartError
from proxy.gateway.forward import Forwarder
from proxy.objects import ObjectKey, ObjectName
from proxy.origin import ForwardRequest, ForwardResponse
from tests.gateway.writable_bucket import NAME, PUT, WritableBucket


async def test_write_is_fenced_before_the_origin_hears_of_it_and_until_it_has_answered(
    writable: WritableBucket,
) -> None:
    tokens = [writable.token()]

    async def answer(request: ForwardRequest) -> ForwardResponse:
        assert writable.fenced()
        tokens.append(writable.token())
        return await writable.origin.ok(request)

    writable.origin.answer = answer
    response = await writable.put()
    assert writable.fenced()
    await response.close()
    assert not writable.fenced()
    tokens.append(writable.token())
    assert len(set(tokens)) == 3


async def test_every_name_is_fenced_once(writable: WritableBucket) -> None:
    names = [NAME, ObjectName("b", "k", "null"), ObjectName("b", "other"), NAME]
    response = await writable.put(*names)
    for name in names:
        assert writable.fenced(writable.engine.bucket.object_key(name))
    await response.close()
    for name in names:
        assert not writable.fenced(writable.engine.bucket.object_key(name))


async def test_read_after_a_write_sees_the_new_object(writable: WritableBucket) -> None:
    writable.origin.put("k", b"old")
    assert await writable.engine.get("k") == b"old"

    async def answer(request: ForwardRequest) -> ForwardResponse:
        writable.origin.put("k", b"new!")
        assert await writable.engine.get("k") == b"new!"  # a read in mid-write asks the origin
        return await writable.origin.ok(request)

    writable.origin.answer = answer
    await (await writable.put()).close()
    assert await writable.engine.get("k") == b"new!"


async def test_look_up_that_a_write_overtook_installs_nothing(writable: WritableBucket) -> None:
    writable.origin.put("k", b"old")
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def before_head() -> None:
        asked.set()
        await go_on.wait()

    writable.origin.before_head = before_head
    reading = asyncio.create_task(writable.engine.get("k"))
    await asked.wait()
    await (await writable.put()).close()
    writable.origin.before_head = None
    go_on.set()
    await reading
    assert writable.keys.read(writable.key) is None
    writable.origin.put("k", b"new!")
    assert await writable.engine.get("k") == b"new!"


async def test_streamed_answer_keeps_the_fence_until_its_end(writable: WritableBucket) -> None:
    async def answer(request: ForwardRequest) -> ForwardResponse:
        return writable.origin.respond(200, (), b"<Error>", b"</Error>")

    writable.origin.answer = answer
    response = await writable.put()
    assert response.status == 200
    chunks = []
    async for chunk in response.body:
        assert writable.fenced()
        chunks.append(chunk)
    assert chunks == [b"<Error>", b"</Error>"]
    await response.close()
    await response.close()
    assert not writable.fenced()
    assert writable.origin.closed == 1


async def test_answer_that_was_not_read_to_its_end_leaves_the_fence_for_a_while(writable: WritableBucket) -> None:
    async def answer(request: ForwardRequest) -> ForwardResponse:
        return writable.origin.respond(200, (), b" ", b"<CompleteMultipartUploadResult/>")

    writable.origin.answer = answer
    response = await writable.put()
    assert await anext(response.body) == b" "
    await response.close()
    assert writable.fenced()
    assert await writable.lifted()


@pytest.mark.parametrize("status", [502, 504])
async def test_middle_box_without_an_answer_leaves_the_fence_for_a_while(writable: WritableBucket, status: int) -> None:
    async def answer(request: ForwardRequest) -> ForwardResponse:
        return writable.origin.respond(status, (("content-length", "0"),))

    writable.origin.answer = answer
    await (await writable.put()).close()
    assert writable.fenced()
    assert await writable.lifted()


async def test_origin_without_an_answer_leaves_the_fence_for_a_while(writable: WritableBucket) -> None:
    async def answer(request: ForwardRequest) -> ForwardResponse:
        raise OriginUnavailable("timeout")

    writable.origin.answer = answer
    with pytest.raises(OriginUnavailable):
        await writable.put()
    assert writable.fenced()
    assert await writable.lifted()


@pytest.mark.parametrize("error", [InvalidRequest("IncompleteBody", "short"), ConnectionResetError()])
async def test_write_that_can_not_have_happened_is_lifted_at_once(writable: WritableBucket, error: Exception) -> None:
    async def answer(request: ForwardRequest) -> ForwardResponse:
        raise error

    writable.origin.answer = answer
    with pytest.raises((WarmstartError, ConnectionResetError)):
        await writable.put()
    assert not writable.fenced()


async def test_cancelled_write_leaves_the_fence_for_a_while(writable: WritableBucket) -> None:
    asked = asyncio.Event()

    async def answer(request: ForwardRequest) -> ForwardResponse:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    writable.origin.answer = answer
    writing = asyncio.create_task(writable.put())
    await asked.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert await writable.lifted()


async def test_write_cancelled_while_it_is_being_fenced_leaves_no_fence(
    writable: WritableBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go_on = threading.Event(), threading.Event()
    real = writable.keys.fence

    def fence(key: ObjectKey) -> object:
        taken = real(key)
        entered.set()
        assert go_on.wait(30)
        return taken

    monkeypatch.setattr(writable.keys, "fence", fence)
    writing = asyncio.create_task(writable.put())
    await asyncio.to_thread(entered.wait, 30)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert writable.fenced()
    go_on.set()
    assert await writable.lifted()


async def test_fence_that_fails_takes_the_others_back(
    writable: WritableBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = writable.keys.fence

    def fence(key: ObjectKey) -> object:
        if key.key == "other":
            raise OSError("no")
        return real(key)

    monkeypatch.setattr(writable.keys, "fence", fence)
    with pytest.raises(OSError, match="no"):
        await writable.put(NAME, ObjectName("b", "other"))
    assert not writable.fenced()


async def test_two_writers_of_one_key_each_hold_their_fence(writable: WritableBucket) -> None:
    first, second = await writable.put(), await writable.put()
    await first.close()
    assert writable.fenced()
    await second.close()
    assert not writable.fenced()


async def test_denied_write_never_reaches_the_origin_and_names_the_key_to_set(writable: WritableBucket) -> None:
    asked: list[ForwardRequest] = []

    async def answer(request: ForwardRequest) -> ForwardResponse:
        asked.append(request)
        return await writable.origin.ok(request)

    writable.origin.answer = answer
    denied = replace(writable.engine.bucket, writes_through=False)
    with pytest.raises(AccessDenied, match=r"buckets\.b\.writes.*'through'"):
        await writable.forwarder.forward(denied, PUT, (NAME,), mutates=True)
    assert asked == []
    assert not writable.fenced()
    await (await writable.forwarder.forward(denied, ForwardRequest("GET", "b", None, (), ()), mutates=False)).close()
    assert len(asked) == 1


async def test_answer_without_fences_is_closed_once(writable: WritableBucket) -> None:
    response = await writable.forwarder.forward(writable.engine.bucket, replace(PUT, method="HEAD"), mutates=False)
    await response.close()
    await response.close()
    assert writable.origin.closed == 1


async def test_end_of_the_process_waits_for_lifts_and_leaves_unknown_outcomes_fenced(writable: WritableBucket) -> None:
    async def answer(request: ForwardRequest) -> ForwardResponse:
        raise OriginUnavailable("timeout")

    writable.origin.answer = answer
    forwarder = Forwarder(writable.keys, linger_s=3600)
    with pytest.raises(OriginUnavailable):
        await forwarder.forward(writable.engine.bucket, PUT, (NAME,), mutates=True)
    await forwarder.aclose()
    assert writable.fenced()
