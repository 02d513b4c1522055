"""Answers to a ranged GET, right and wrong, for the scripted server."""

from __future__ import annotations

import random

from proxy.ranges import ByteRange
from tests.fakes.scripted import Exchange, Handler, answer

DATA = random.Random(7).randbytes(300_000)
SPAN = ByteRange(1000, 201_000)
ETAG = ("etag", '"v1"')


def labelled(
    label: str | None,
    body: bytes = DATA[SPAN.start : SPAN.end],
    *,
    status: int = 206,
    etag: str | None = '"v1"',
    headers: tuple[tuple[str, str], ...] = (),
) -> Handler:
    """One answer, whatever was asked."""
    named = [("content-range", label)] if label is not None else []
    tagged = [("etag", etag)] if etag is not None else []
    return answer(status, body, [*tagged, *named, *headers])


def error(status: int, code: str, **headers: str) -> Handler:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>Said &lt;so&gt;</Message></Error>".encode()
    return answer(status, body, list(headers.items()))


RIGHT = f"bytes 1000-200999/{len(DATA)}"


def broken_off(how: str, after: int) -> Handler:
    async def handler(exchange: Exchange) -> None:
        await exchange.send_head(206, [ETAG, ("content-range", RIGHT)], content_length=SPAN.length)
        await exchange.send(DATA[SPAN.start : SPAN.start + after])
        if how == "close":
            exchange.close()
        elif how == "reset":
            exchange.reset()
        else:
            await exchange.stall()

    return handler
