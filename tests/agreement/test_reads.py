"""Random reads through HTTP against slices of bytes and against a model of S3's rules."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.gateways import GatewayProcess, start_gateway

BLOCK_BYTES = 64 << 10
SIZES = [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES, 5 * BLOCK_BYTES + 77]
OBJECTS = {f"size-{size}": random.Random(size).randbytes(size) for size in SIZES}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("reads")
    (folder / "root" / "b").mkdir(parents=True)
    for name, content in OBJECTS.items():
        (folder / "root" / "b" / name).write_bytes(content)
    config = {"cache": {"block_size": "64KiB"}}
    with start_gateway(folder, origin=f"file://{folder / 'root'}", workers=2, config=config) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def client(gateway: GatewayProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{gateway.url}/b/", trust_env=False, timeout=60) as client:
        yield client


numbers = st.one_of(
    st.integers(0, 6 * BLOCK_BYTES),
    st.integers(0, 6).map(lambda n: n * BLOCK_BYTES),
    st.integers(1, 6).map(lambda n: n * BLOCK_BYTES - 1),
)
patient = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@patient
@given(key=st.sampled_from(sorted(OBJECTS)), first=st.none() | numbers, last=st.none() | numbers)
def test_any_range_is_the_slice_that_s3_means(
    client: httpx.Client, key: str, first: int | None, last: int | None
) -> None:
    content = OBJECTS[key]
    header = f"bytes={'' if first is None else first}-{'' if last is None else last}"
    answer = client.get(key, headers={"Range": header})
    if (first is None and last is None) or (first is not None and last is not None and last < first):
        assert (answer.status_code, answer.content) == (200, content)
        return
    if first is None:
        assert last is not None
        start, end = max(0, len(content) - last), len(content)
        satisfiable = last > 0 and len(content) > 0
    else:
        start, end = first, len(content) if last is None else min(last + 1, len(content))
        satisfiable = first < len(content)
    if not satisfiable:
        assert answer.status_code == 416
        assert answer.headers["content-range"] == f"bytes */{len(content)}"
        return
    assert answer.status_code == 206
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(content)}"
    assert answer.content == content[start:end]


def expected_status(etag_matches: dict[str, bool | None], newer: dict[str, bool | None], ranged: bool) -> int:
    """S3's precedence, as its GetObject page states it. None: the header is not sent."""
    if etag_matches["If-Match"] is not None:
        if not etag_matches["If-Match"]:
            return 412
    elif newer["If-Unmodified-Since"]:
        return 412
    if etag_matches["If-None-Match"] is not None:
        if etag_matches["If-None-Match"]:
            return 304
    elif newer["If-Modified-Since"] is False:
        return 304
    return 206 if ranged else 200


flags = st.sampled_from([None, False, True])


@patient
@given(
    matches=st.fixed_dictionaries({"If-Match": flags, "If-None-Match": flags}),
    newer=st.fixed_dictionaries({"If-Modified-Since": flags, "If-Unmodified-Since": flags}),
    ranged=st.booleans(),
    method=st.sampled_from(["GET", "HEAD"]),
    star=st.booleans(),
)
def test_any_conditions_are_decided_as_s3_decides_them(
    client: httpx.Client,
    matches: dict[str, bool | None],
    newer: dict[str, bool | None],
    ranged: bool,
    method: str,
    star: bool,
) -> None:
    key = f"size-{BLOCK_BYTES + 1}"
    known = client.head(key)
    etag = known.headers["etag"]
    modified = datetime.strptime(known.headers["last-modified"], "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC)
    headers = {}
    for name, match in matches.items():
        if match is not None:
            headers[name] = ("*" if star else f'"x", {etag}') if match else '"other"'
    for name, is_newer in newer.items():
        if is_newer is not None:
            headers[name] = format_datetime(modified + timedelta(hours=-1 if is_newer else 1), usegmt=True)
    if ranged:
        headers["Range"] = "bytes=10-19"
    answer = client.request(method, key, headers=headers)
    assert answer.status_code == expected_status(matches, newer, ranged)
    if answer.status_code == 206 and method == "GET":
        assert answer.content == OBJECTS[key][10:20]
    if answer.status_code == 304:
        assert answer.headers["etag"] == etag
        assert answer.content == b""


@pytest.mark.parametrize(("value", "status"), [("etag", 206), ('"other"', 200), ("date", 206), ("earlier", 200)])
def test_if_range_lets_a_range_count_only_for_the_same_version(client: httpx.Client, value: str, status: int) -> None:
    key = f"size-{BLOCK_BYTES}"
    known = client.head(key)
    texts = {
        "etag": known.headers["etag"],
        "date": known.headers["last-modified"],
        "earlier": "Mon, 01 Jan 2001 00:00:00 GMT",
    }
    answer = client.get(key, headers={"Range": "bytes=5-9", "If-Range": texts.get(value, value)})
    assert answer.status_code == status
    assert answer.content == (OBJECTS[key][5:10] if status == 206 else OBJECTS[key])
