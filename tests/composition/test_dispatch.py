"""Which dialect a request is in: listener, host, signature, path, bucket, in this order."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any, cast

import pytest

from proxy.composition.dispatch import GUESSES_MAX, NAMED_BYTES_MAX, DialectRules, Dispatcher, Surface
from proxy.gateway.routes import BucketRoute, Routes
from proxy.http.dialects import Dialect, sniff
from proxy.lanes.hot import Fields, HotAnswer
from proxy.origin import Origin

S3, GCS = Dialect.S3, Dialect.GCS


@pytest.mark.parametrize(
    ("headers", "query", "dialect"),
    [
        ({}, b"", None),
        ({b"range": b"bytes=0-1", b"user-agent": b"curl"}, b"list-type=2", None),
        ({b"authorization": b"AWS4-HMAC-SHA256 x"}, b"", S3),
        ({b"authorization": b"AWS a:b"}, b"", S3),
        ({b"x-amz-date": b"x"}, b"", S3),
        ({}, b"X-Amz-Signature=x", S3),
        ({}, b"a=b&AWSAccessKeyId=x", S3),
        ({b"authorization": b"Bearer x"}, b"", GCS),
        ({b"authorization": b"bearer x"}, b"", GCS),
        ({b"authorization": b"GOOG4-RSA-SHA256 x"}, b"", GCS),
        ({b"authorization": b"GOOG1 a:b"}, b"", GCS),
        ({b"x-goog-if-generation-match": b"1"}, b"", GCS),
        ({}, b"X-Goog-Signature=x", GCS),
        ({}, b"GoogleAccessId=x&Signature=y", GCS),
        ({}, b"generation=5", GCS),
        ({b"x-goog-meta-a": b"b", b"x-amz-date": b"x"}, b"", S3),
        ({b"authorization": b"Basic x"}, b"", None),
    ],
)
def test_signatures_and_headers_betray_the_dialect(
    headers: dict[bytes, bytes], query: bytes, dialect: Dialect | None
) -> None:
    assert sniff(headers, query) is dialect


class _Origin:
    def __init__(self, dialect: str) -> None:
        self.dialect = dialect


def route(name: str, dialect: str) -> BucketRoute:
    return BucketRoute(name, cast(Origin, _Origin(dialect)), name, writes_through=True)


ROUTES = Routes({name: route(name, dialect) for name, dialect in (("s", "s3"), ("g", "gcs"), ("f", "file"))})
RULES = DialectRules({("", 9001): GCS, ("127.0.0.1", 9002): S3}, {"s3.test": S3, "goog.test": GCS, "both.test": None})


def dispatcher(rules: DialectRules, hot: list[tuple[Dialect, bool]] | None = None) -> Dispatcher:
    def surface(dialect: Dialect) -> Surface:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"dialect": dialect})

        def answer(method: bytes, target: bytes, fields: Fields, *, bare: bool) -> HotAnswer | None:
            (hot if hot is not None else []).append((dialect, bare))
            return None

        return Surface(app, answer)

    async def admin(scope: Any, receive: Any, send: Any) -> None:
        await send({"dialect": None})

    return Dispatcher(admin, None, {dialect: surface(dialect) for dialect in Dialect}, ROUTES, rules)


async def enter(
    target: bytes, headers: dict[bytes, bytes], port: int = 9000, rules: DialectRules = RULES
) -> Dialect | None:
    path, _, query = target.partition(b"?")
    scope = {
        "type": "http",
        "raw_path": path,
        "query_string": query,
        "headers": list({b"host": b"127.0.0.1", **headers}.items()),
        "server": ("127.0.0.1", port),
        "extensions": {"warmstart.target": {"raw": target, "authority": None}},
    }
    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async def receive() -> MutableMapping[str, Any]:
        raise AssertionError("nothing is received here")

    await dispatcher(rules)(scope, receive, send)
    found: Dialect | None = sent[0]["dialect"]
    return found


AWS, BEARER = {b"authorization": b"AWS4-HMAC-SHA256 x"}, {b"authorization": b"Bearer x"}


@pytest.mark.parametrize(
    ("target", "headers", "port", "dialect"),
    [
        # a listener of one dialect decides, whatever the request says
        (b"/g/k", AWS, 9001, GCS),
        (b"/storage/v1/b/g/o", BEARER, 9002, S3),
        # then the host
        (b"/g/k", {b"host": b"s3.test", **BEARER}, 9000, S3),
        (b"/k", {b"host": b"s.goog.test:80", **AWS}, 9000, GCS),
        (b"/k", {b"host": b"s.both.test", **BEARER}, 9000, GCS),
        (b"/k", {b"host": b"g.both.test"}, 9000, GCS),
        (b"/k", {b"host": b"s.both.test"}, 9000, S3),
        # then the signature
        (b"/g/k", AWS, 9000, S3),
        (b"/s/k", BEARER, 9000, GCS),
        (b"/storage/v1/b/g/o", AWS, 9000, S3),
        # then a path of the JSON API
        (b"/storage/v1/b/s/o/k", {}, 9000, GCS),
        (b"/upload/storage/v1/b/s/o", {}, 9000, GCS),
        (b"/batch/storage/v1", {}, 9000, GCS),
        (b"/storage/k", {}, 9000, S3),
        # then the bucket's origin; S3 where there is none that says more
        (b"/g/k", {}, 9000, GCS),
        (b"/s/k", {}, 9000, S3),
        (b"/f/k", {}, 9000, S3),
        (b"/nowhere/k", {}, 9000, S3),
        (b"/%ff/k", {}, 9000, S3),
        (b"/", {}, 9000, S3),
        # the gateway's own pages, but not where the host names a bucket
        (b"/-/health", {}, 9000, None),
        (b"/-/health", {b"host": b"goog.test"}, 9001, None),
        (b"/-/health", {b"host": b"g.goog.test"}, 9000, GCS),
    ],
)
async def test_requests_enter_by_the_right_door(
    target: bytes, headers: dict[bytes, bytes], port: int, dialect: Dialect | None
) -> None:
    assert await enter(target, headers, port) is dialect


@pytest.mark.parametrize(
    ("target", "headers", "expected"),
    [
        (b"/g/k", {}, (GCS, True)),
        (b"/s/k", {}, (S3, True)),
        (b"/g/k", AWS, (S3, False)),
        (b"/s/k?generation=5", {}, (GCS, False)),
        (b"/k", {b"host": b"s.goog.test"}, (GCS, True)),
        (b"http://s.goog.test/k", {b"host": b"s3.test"}, (GCS, True)),
        (b"http://s3.test/g/k", {b"host": b"s.goog.test"}, (S3, True)),
        (b"http://user@s.goog.test:80/k", {b"host": b"s3.test"}, (GCS, True)),
        (b"http://127.0.0.1/g/k", {b"host": b"s3.test"}, (GCS, True)),
        (b"/storage/v1/b/s/o/k?alt=media", {}, (GCS, True)),
    ],
)
async def test_hot_answers_are_asked_for_at_the_same_door(
    target: bytes, headers: dict[bytes, bytes], expected: tuple[Dialect, bool]
) -> None:
    assert await enter(target, headers, 9000) is expected[0]
    asked: list[tuple[Dialect, bool]] = []
    made = dispatcher(DialectRules({}, RULES.suffixes), asked)
    for _ in range(2):
        assert made.answer_hot(b"GET", target, {b"host": b"127.0.0.1", **headers}) is None
    assert asked == [expected, expected]


def test_guesses_are_bounded_and_long_targets_are_not_remembered() -> None:
    made = dispatcher(DialectRules({}, RULES.suffixes))
    for number in range(GUESSES_MAX + 10):
        made.answer_hot(b"GET", b"/g/%d" % number, {b"host": b"127.0.0.1"})
    remembered = len(made._guessed)
    assert remembered <= GUESSES_MAX
    made.answer_hot(b"GET", b"/g/" + b"k" * NAMED_BYTES_MAX, {b"host": b"127.0.0.1"})
    made.answer_hot(b"GET", b"/g/k", {b"host": b"h" * NAMED_BYTES_MAX})
    assert len(made._guessed) == remembered
