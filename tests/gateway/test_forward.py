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
from tests.gateway.writable_bucket import NAME, PUT, Site


async def test_write_is_fenced_before_the_origin_hears_of_it_and_until_it_has_answered(site: Site) -> None:
    tokens = [site.token()]

    async def answer(request: ForwardRequest) -> ForwardResponse:
        assert site.fenced()
        tokens.append(site.token())
        return await site.origin.ok(request)

    site.origin.answer = answer
    response = await site.put()
    assert site.fenced()
    await response.close()
    assert not site.fenced()
    tokens.append(site.token())
    assert len(set(tokens)) == 3


async def test_every_name_is_fenced_once(site: Site) -> None:
    names = [NAME, ObjectName("b", "k", "null"), ObjectName("b", "other"), NAME]
    response = await site.put(*names)
    for name in names:
        assert site.fenced(site.rig.bucket.object_key(name))
    await response.close()
    for name in names:
        assert not site.fenced(site.rig.bucket.object_key(name))


async def test_read_after_a_write_sees_the_new_object(site: Site) -> None:
    site.origin.put("k", b"old")
    assert await site.rig.get("k") == b"old"

    async def answer(request: ForwardRequest) -> ForwardResponse:
        site.origin.put("k", b"new!")
        assert await site.rig.get("k") == b"new!"  # a read in mid-write asks the origin
        return await site.origin.ok(request)

    site.origin.answer = answer
    await (await site.put()).close()
    assert await site.rig.get("k") == b"new!"


async def test_look_up_that_a_write_overtook_installs_nothing(site: Site) -> None:
    site.origin.put("k", b"old")
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def before_head() -> None:
        asked.set()
        await go_on.wait()

    site.origin.before_head = before_head
    reading = asyncio.create_task(site.rig.get("k"))
    await asked.wait()
    await (await site.put()).close()
    site.origin.before_head = None
    go_on.set()
    await reading
    assert site.keys.read(site.key) is None
    site.origin.put("k", b"new!")
    assert await site.rig.get("k") == b"new!"


async def test_streamed_answer_keeps_the_fence_until_its_end(site: Site) -> None:
    async def answer(request: ForwardRequest) -> ForwardResponse:
        return site.origin.respond(200, (), b"<Error>", b"</Error>")

    site.origin.answer = answer
    response = await site.put()
    assert response.status == 200
    chunks = []
    async for chunk in response.body:
        assert site.fenced()
        chunks.append(chunk)
    assert chunks == [b"<Error>", b"</Error>"]
    await response.close()
    await response.close()
    assert not site.fenced()
    assert site.origin.closed == 1


async def test_answer_that_was_not_read_to_its_end_leaves_the_fence_for_a_while(site: Site) -> None:
    async def answer(request: ForwardRequest) -> ForwardResponse:
        return site.origin.respond(200, (), b" ", b"<CompleteMultipartUploadResult/>")

    site.origin.answer = answer
    response = await site.put()
    assert await anext(response.body) == b" "
    await response.close()
    assert site.fenced()
    assert await site.lifted()


@pytest.mark.parametrize("status", [502, 504])
async def test_middle_box_without_an_answer_leaves_the_fence_for_a_while(site: Site, status: int) -> None:
    async def answer(request: ForwardRequest) -> ForwardResponse:
        return site.origin.respond(status, (("content-length", "0"),))

    site.origin.answer = answer
    await (await site.put()).close()
    assert site.fenced()
    assert await site.lifted()


async def test_origin_without_an_answer_leaves_the_fence_for_a_while(site: Site) -> None:
    async def answer(request: ForwardRequest) -> ForwardResponse:
        raise OriginUnavailable("timeout")

    site.origin.answer = answer
    with pytest.raises(OriginUnavailable):
        await site.put()
    assert site.fenced()
    assert await site.lifted()


@pytest.mark.parametrize("error", [InvalidRequest("IncompleteBody", "short"), ConnectionResetError()])
async def test_write_that_can_not_have_happened_is_lifted_at_once(site: Site, error: Exception) -> None:
    async def answer(request: ForwardRequest) -> ForwardResponse:
        raise error

    site.origin.answer = answer
    with pytest.raises((WarmstartError, ConnectionResetError)):
        await site.put()
    assert not site.fenced()


async def test_cancelled_write_leaves_the_fence_for_a_while(site: Site) -> None:
    asked = asyncio.Event()

    async def answer(request: ForwardRequest) -> ForwardResponse:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    site.origin.answer = answer
    writing = asyncio.create_task(site.put())
    await asked.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert await site.lifted()


async def test_write_cancelled_while_it_is_being_fenced_leaves_no_fence(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go_on = threading.Event(), threading.Event()
    real = site.keys.fence

    def fence(key: ObjectKey) -> object:
        taken = real(key)
        entered.set()
        assert go_on.wait(30)
        return taken

    monkeypatch.setattr(site.keys, "fence", fence)
    writing = asyncio.create_task(site.put())
    await asyncio.to_thread(entered.wait, 30)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert site.fenced()
    go_on.set()
    assert await site.lifted()


async def test_fence_that_fails_takes_the_others_back(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    real = site.keys.fence

    def fence(key: ObjectKey) -> object:
        if key.key == "other":
            raise OSError("no")
        return real(key)

    monkeypatch.setattr(site.keys, "fence", fence)
    with pytest.raises(OSError, match="no"):
        await site.put(NAME, ObjectName("b", "other"))
    assert not site.fenced()


async def test_two_writers_of_one_key_each_hold_their_fence(site: Site) -> None:
    first, second = await site.put(), await site.put()
    await first.close()
    assert site.fenced()
    await second.close()
    assert not site.fenced()


async def test_denied_write_never_reaches_the_origin_and_names_the_key_to_set(site: Site) -> None:
    asked: list[ForwardRequest] = []

    async def answer(request: ForwardRequest) -> ForwardResponse:
        asked.append(request)
        return await site.origin.ok(request)

    site.origin.answer = answer
    denied = replace(site.rig.bucket, writes_through=False)
    with pytest.raises(AccessDenied, match=r"buckets\.b\.writes.*'through'"):
        await site.forwarder.forward(denied, PUT, (NAME,), mutates=True)
    assert asked == []
    assert not site.fenced()
    await (await site.forwarder.forward(denied, ForwardRequest("GET", "b", None, (), ()), mutates=False)).close()
    assert len(asked) == 1


async def test_answer_without_fences_is_closed_once(site: Site) -> None:
    response = await site.forwarder.forward(site.rig.bucket, replace(PUT, method="HEAD"), mutates=False)
    await response.close()
    await response.close()
    assert site.origin.closed == 1


async def test_end_of_the_process_waits_for_lifts_and_leaves_unknown_outcomes_fenced(site: Site) -> None:
    async def answer(request: ForwardRequest) -> ForwardResponse:
        raise OriginUnavailable("timeout")

    site.origin.answer = answer
    forwarder = Forwarder(site.keys, linger_s=3600)
    with pytest.raises(OriginUnavailable):
        await forwarder.forward(site.rig.bucket, PUT, (NAME,), mutates=True)
    await forwarder.aclose()
    assert site.fenced()
