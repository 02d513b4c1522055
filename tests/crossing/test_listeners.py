"""A listener, and a host suffix, may belong to one dialect: then it decides, whatever a request says."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree

import httpx
import pytest

from tests.gateways import GatewayProcess, start_gateway

BEARER = {"authorization": "Bearer x"}
AWS = {"authorization": "AWS4-HMAC-SHA256 x"}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("listeners")
    for key in ("x", "v1/b/w/o/x"):
        path = folder / "root/storage" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"of storage")
    config = {
        "listen": {"s3": "127.0.0.1:0", "gcs": ["127.0.0.1:0"]},
        "host_suffixes": {"gcs": "goog.test"},
        "buckets": {"*": {"consistency": "immutable"}},
    }
    with start_gateway(folder, origin=f"file://{folder / 'root'}", config=config) as process:
        yield process


def ask(url: str, target: str, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.get(url + target, headers=named, trust_env=False, timeout=30)


def is_gcs(answer: httpx.Response) -> bool:
    return "x-guploader-uploadid" in answer.headers


@pytest.mark.parametrize("headers", [{}, BEARER, AWS])
def test_a_listeners_dialect_outranks_the_requests(gateway: GatewayProcess, headers: dict[str, str]) -> None:
    gcs, s3 = gateway.urls  # in the order of the file, which sorts them
    for _ in range(3):
        assert not is_gcs(ask(s3, "/storage/x", **headers))
        assert is_gcs(ask(gcs, "/storage/x", **headers))
    found = ask(s3, "/storage/v1/b/w/o/x", **headers)
    assert (found.status_code, found.content, is_gcs(found)) == (200, b"of storage", False)
    assert ask(gcs, "/storage/v1/b/storage/o/x", **headers).json()["name"] == "x"
    missing = ElementTree.fromstring(ask(gcs, "/storage/none", **headers).content)
    assert missing.findtext("Details") == "No such object: storage/none"


def test_hits_are_answered_at_once_on_listeners_of_one_dialect(gateway: GatewayProcess) -> None:
    gcs, s3 = gateway.urls  # in the order of the file, which sorts them
    for url, operation in ((s3, "GetObject"), (gcs, "storage.objects.get")):
        gateway.wait_until_hot(lambda url=url: ask(url, "/storage/x"))  # type: ignore[misc]
        before = gateway.metric("warmstart_requests_total", operation=operation, lane="express")
        assert ask(url, "/storage/x").headers["x-cache"] == "HIT"
        assert gateway.metric("warmstart_requests_total", operation=operation, lane="express") == before + 1


def test_the_gateways_own_pages_are_on_every_listener(gateway: GatewayProcess) -> None:
    assert [ask(url, "/-/health").status_code for url in gateway.urls] == [200, 200]


def test_a_host_of_gcs_has_its_buckets_as_sub_domains(gateway: GatewayProcess) -> None:
    gcs, _ = gateway.urls
    found = ask(gcs, "/v1/b/w/o/x", host="storage.goog.test")
    assert (found.content, is_gcs(found)) == (b"of storage", True)
