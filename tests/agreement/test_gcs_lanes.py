"""Thousands of requests at random in GCS's dialect, and in none, each asked of both lanes: the same answers."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.agreement.asking import KEYS, Asked, ask, make_tree, target_of
from tests.agreement.lanes import BLOCK_BYTES, HOST_SUFFIX, TwoLanes, hot_answers

QUERIES = (
    "userProject=p",
    "prettyPrint=false",
    "fields=name",
    "X-Goog-Algorithm=GOOG4-RSA-SHA256&X-Goog-Credential=c&X-Goog-Signature=s",
    "GoogleAccessId=a&Signature=b&Expires=1",
    "response-content-type=text%2Fplain",
    "access_token=t",
    "projection=full",
    "ifMetagenerationMatch=1",
    "ifMetagenerationMatch=2",
    "ifMetagenerationNotMatch=1",
    "ifGenerationMatch=0",
    "ifGenerationMatch=x",
    "generation=5",
    "acl",
    "a=%zz",
    "",
)
HEADERS = (
    "Authorization: Bearer token",
    "Authorization: Bearer token",
    "Authorization: GOOG1 a:b",
    "x-goog-api-client: gl-python/3.11",
    "x-goog-user-project: p",
    "accept-encoding: gzip",
    "accept-encoding: identity",
    "cache-control: no-transform",
    "x-goog-if-metageneration-match: 1",
)
ODD_HEADERS = (
    "Cache-Control: no-cache",
    "Origin: http://page",
    "x-goog-encryption-algorithm: AES256",
    "x-goog-if-generation-match: x",
    "X-HTTP-Method-Override: DELETE",
    "Authorization: AWS a:b",
    "x-amz-date: 20260101T000000Z",
)


@pytest.fixture(scope="module", params=("uvloop", "asyncio-debug"))
def lanes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoLanes]:
    folder = tmp_path_factory.mktemp("lanes")
    make_tree(folder / "root")
    with TwoLanes(folder, Path(folder / "root"), request.param) as lanes:
        for key in KEYS:
            for _ in range(2):
                [answer] = ask(lanes.cold_port, [Asked("GET", target_of(key))])
                assert answer.status == 200
        yield lanes


def pick_target(chance: random.Random, key: str, generation: str) -> tuple[str, str]:
    """A target, and the Host that it is sent to."""
    style = chance.choice(("media", "media", "media", "download", "resource", "xml", "xml", "xml", "host", "absolute"))
    name = quote(key, safe="")
    query = chance.sample(QUERIES, chance.choice((0, 0, 1, 2)))
    if chance.random() < 0.3:
        query.append(chance.choice((f"generation={generation}", f"ifGenerationMatch={generation}")))
        query.append(chance.choice((f"ifGenerationNotMatch={generation}", "ifGenerationNotMatch=1", "x=y")))
    if style == "media":
        query.insert(0, "alt=media")
    path = {
        "media": f"/storage/v1/b/models/o/{name}",
        "resource": f"/storage/v1/b/models/o/{name}",
        "download": f"/download/storage/v1/b/models/o/{name}",
        "host": f"/{quote(key)}",
        "absolute": f"http://some.host:1/models/{quote(key)}",
    }.get(style, target_of(key))
    target = f"{path}?{'&'.join(query)}" if query else path
    return target, f"models.{HOST_SUFFIX}" if style == "host" else "127.0.0.1"


def pick(chance: random.Random, known: dict[str, dict[str, str]]) -> Asked:
    key = chance.choice(sorted(KEYS))
    headers = known[key]
    target, host = pick_target(chance, key, headers["x-goog-generation"])
    lines = [f"Host: {host}", *chance.sample(HEADERS, chance.choice((0, 1, 1, 2)))]
    if chance.random() < 0.1:
        lines.append(chance.choice(ODD_HEADERS))
    for name in ("If-Match", "If-None-Match"):
        if chance.random() < 0.15:
            lines.append(f"{name}: {chance.choice((headers['etag'], headers['json-etag'], '*', 'other'))}")
    if chance.random() < 0.6:
        first = chance.choice((0, 1, BLOCK_BYTES - 1, KEYS[key] - 1, KEYS[key]))
        last = first + chance.choice((0, 9, BLOCK_BYTES))
        lines.append("Range: " + chance.choice((f"bytes={first}-{last}", f"bytes={first}-", "bytes=-9", "bytes=x")))
    chance.shuffle(lines)
    return Asked(chance.choice(("GET",) * 5 + ("HEAD",)), target, tuple(lines))


def learn(lanes: TwoLanes) -> dict[str, dict[str, str]]:
    known = {}
    for key in KEYS:
        [xml] = ask(lanes.cold_port, [Asked("HEAD", target_of(key))])
        [json] = ask(lanes.cold_port, [Asked("HEAD", f"/storage/v1/b/models/o/{quote(key, safe='')}?alt=media")])
        known[key] = dict(xml.headers) | {"json-etag": dict(json.headers)["etag"]}
    return known


@pytest.mark.parametrize("seed", range(4))
def test_both_lanes_give_the_same_answers(lanes: TwoLanes, seed: int) -> None:
    chance = random.Random(seed)
    known = learn(lanes)
    before = hot_answers()
    for _ in range(250):
        wanted = [pick(chance, known) for _ in range(chance.choice((1, 1, 2, 3, 6)))]
        hot, cold = ask(lanes.hot_port, wanted), ask(lanes.cold_port, wanted)
        assert len(hot) == len(cold), wanted
        for asked, mine, other in zip(wanted, hot, cold, strict=False):
            assert mine == other, asked
    assert hot_answers() - before > 100
