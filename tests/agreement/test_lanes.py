"""Thousands of requests at random, each asked of both lanes: the answers differ in nothing but ids and dates."""

from __future__ import annotations

import random
from collections.abc import Iterator
from email.utils import formatdate

import pytest

from tests.agreement.asking import KEYS, MODIFIED_S, Asked, ask, make_tree, target_of
from tests.agreement.lanes import BLOCK_BYTES, HOST_SUFFIX, TwoLanes, hot_answers

LOOPS = ("uvloop", "asyncio", "asyncio-debug")
SIGNATURE = (
    "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKID%2F20260101%2Fus-east-1%2Fs3%2Faws4_request"
    "&X-Amz-Date=20260101T000000Z&X-Amz-Expires=3600&X-Amz-SignedHeaders=host&X-Amz-Signature=abcdef"
)
QUERIES = (
    "x-id=GetObject",
    SIGNATURE,
    "AWSAccessKeyId=AKID&Signature=x%3D&Expires=1",
    "response-content-type=text%2Fplain",
    "response-content-disposition=a%0Db",
    "partNumber=1",
    "partNumber=99999",
    "versionId=null",
    "versionId=",
    "acl",
    "tagging=",
    "torrent",
    "unknown=1",
    "list-type=2",
    "x-amz-checksum-mode=ENABLED",
    "a=%zz",
    "",
)


@pytest.fixture(scope="module", params=LOOPS)
def lanes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoLanes]:
    folder = tmp_path_factory.mktemp("lanes")
    make_tree(folder / "root")
    with TwoLanes(folder, folder / "root", request.param) as lanes:
        for key in KEYS:
            for _ in range(2):
                [answer] = ask(lanes.cold_port, [Asked("GET", target_of(key))])
                assert answer.status == 200
        yield lanes


def pick_range(chance: random.Random, size: int) -> str:
    place = chance.choice((0, 1, BLOCK_BYTES, size, size - 1, chance.randrange(size + 2)))
    first = max(0, place + chance.choice((-1, 0, 0, 1)))
    last = first + chance.choice((0, 1, 100, BLOCK_BYTES, 64 << 10, 10 * BLOCK_BYTES))
    form = chance.choice(
        ("bytes={f}-{l}",) * 8
        + ("bytes={f}-", "bytes=-{l}", "bytes=-0", "Bytes={f}-{l}", "bytes = {f} - {l}", "bytes={l}-{f}")
        + ("bytes={f}-{l},9-10", "bytes=+{f}-{l}", "bytes={f}", "lines={f}-{l}", "bytes=-", "bytes={f}-{l}x", "")
        + ("bytes=0{f}-0{l}", "bytes={f}-99999999999999999999999999", "bytes=٣-٤")
    )
    return form.format(f=first, l=last)


def pick_conditions(chance: random.Random, etag: str) -> Iterator[str]:
    for name in ("If-Match", "If-None-Match", "If-Range"):
        if chance.random() < 0.2:
            value = chance.choice((etag, etag, etag.strip('"'), "*", '"other"', f'W/{etag}, "x"', f'"x", {etag}'))
            yield f"{name}: {value}"
    for name in ("If-Modified-Since", "If-Unmodified-Since", "If-Range"):
        if chance.random() < 0.1:
            shift = chance.choice((-3600, 0, 3600))
            yield f"{name}: {chance.choice((formatdate(MODIFIED_S + shift, usegmt=True), 'nonsense'))}"


def pick_headers(chance: random.Random) -> Iterator[str]:
    extra = (
        "Authorization: AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=host, Signature=c",
        "x-amz-content-sha256: UNSIGNED-PAYLOAD",
        "x-amz-checksum-mode: ENABLED",
        "X-Amz-Checksum-Mode: enabled",
        "amz-sdk-invocation-id: 1",
        "amz-sdk-request: attempt=1",
        "accept-encoding: identity",
        "Content-Length: 0",
        "Connection: keep-alive",
    )
    odd = (
        "Cache-Control: no-cache",
        "Cache-Control: no-transform",
        "Origin: http://page",
        "x-amz-request-payer: requester",
        "x-amz-expected-bucket-owner: 1",
        "x-amz-server-side-encryption-customer-algorithm: AES256",
        "Host: other",
        "Connection: close",
        "Range: bytes=0-1",
    )
    yield from chance.sample(extra, chance.randrange(4))
    if chance.random() < 0.1:
        yield chance.choice(odd)


def pick(chance: random.Random, etags: dict[str, str]) -> Asked:
    key = chance.choice(sorted(KEYS))
    target = target_of(key)
    host = "127.0.0.1"
    style = chance.random()
    if style < 0.1:
        target, host = target.removeprefix("/models"), f"models.{HOST_SUFFIX}:80"
    elif style < 0.2:
        target = f"http://some.host:1{target}"
    elif style < 0.23:
        target = chance.choice(("/models//size-1", "/models/none", "/none/size-1", "/models", "/", "*", "/-/nothing"))
    if chance.random() < 0.25:
        target += "?" + "&".join(chance.sample(QUERIES, chance.choice((1, 1, 1, 2))))
    method = chance.choice(("GET",) * 7 + ("HEAD",) * 3 + ("OPTIONS",))
    lines = [f"Host: {host}", *pick_headers(chance), *pick_conditions(chance, etags[key])]
    if chance.random() < 0.6:
        lines.append(f"Range: {pick_range(chance, KEYS[key])}")
    chance.shuffle(lines)
    return Asked(method, target, tuple(lines), chance.choice(("1.1",) * 30 + ("1.0",)))


@pytest.mark.parametrize("seed", range(4))
def test_both_lanes_give_the_same_answers(lanes: TwoLanes, seed: int) -> None:
    chance = random.Random(seed)
    etags = {key: dict(ask(lanes.cold_port, [Asked("HEAD", target_of(key))])[0].headers)["etag"] for key in KEYS}
    before = hot_answers()
    for _ in range(250):
        wanted = [pick(chance, etags) for _ in range(chance.choice((1, 1, 2, 3, 6)))]
        hot, cold = ask(lanes.hot_port, wanted), ask(lanes.cold_port, wanted)
        assert len(hot) == len(cold), wanted
        for asked, mine, other in zip(wanted, hot, cold, strict=False):
            assert mine == other, asked
    assert hot_answers() - before > 100
