"""What goes on to GCS: in real names, inside the fence of what it writes; what comes back, in the client's."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.gcsapi.passing import HOST, Sent, Surface

JSON = {"content-type": "application/json; charset=UTF-8"}


@pytest.fixture
def surface() -> Surface:
    return Surface()


def resource(**fields: Any) -> bytes:
    return json.dumps({"kind": "storage#object", "bucket": "real-w", **fields}).encode()


async def test_paths_have_the_real_names_and_names_stay_one_segment(surface: Surface) -> None:
    await surface.ask("PATCH", "/storage/v1/b/w/o/a%2Fb%20%C3%BC?ifGenerationMatch=5", json={"metadata": {"a": "b"}})
    request = surface.last.request
    assert (request.method, request.path) == ("PATCH", "/storage/v1/b/real-w/o/a%2Fb%20%C3%BC")
    assert request.query == (("ifGenerationMatch", "5"),)
    assert json.loads(surface.last.body) == {"metadata": {"a": "b"}}
    assert surface.last.fenced == {"real-w/a/b ü", "real-w/a/b ü#null"}
    await surface.ask("POST", "/storage/v1/b/w/o/x/rewriteTo/b/v/o/y", json={})
    assert surface.last.request.path == "/storage/v1/b/real-w/o/x/rewriteTo/b/real-v/o/y"
    assert surface.last.fenced == {"real-v/y", "real-v/y#null"}
    assert surface.keys.fenced == set()


async def test_tokens_stay_here_and_other_words_go_on(surface: Surface) -> None:
    headers = {
        "authorization": "Bearer secret",
        "x-goog-user-project": "p",
        "x-goog-custom": "c",
        "accept-encoding": "gzip",
    }
    await surface.ask("GET", "/storage/v1/b/w/o?prefix=p&access_token=secret&fields=items(name)", headers=headers)
    sent = surface.last
    assert sent.request.query == (("prefix", "p"), ("fields", "items(name)"))
    assert (sent.header("authorization"), sent.header("host")) == (None, None)
    assert (sent.header("x-goog-user-project"), sent.header("x-goog-custom")) == ("p", "c")
    assert sent.header("accept-encoding") == "identity"  # what comes is looked into
    assert sent.fenced == frozenset()


async def test_a_listing_comes_back_in_the_clients_names(surface: Surface) -> None:
    link = "http://origin:1/download/storage/v1/b/real-w/o/x?generation=5&alt=media"
    items = [{"kind": "storage#object", "bucket": "real-w", "name": "x", "id": "real-w/x/5", "mediaLink": link}] * 500
    surface.origin.answer = lambda sent: (200, JSON, json.dumps({"items": items, "nextPageToken": "t"}).encode())
    found = await surface.ask("GET", "/storage/v1/b/w/o")
    page = found.json()
    assert (len(page["items"]), page["nextPageToken"]) == (500, "t")
    assert page["items"][0]["id"] == "w/x/5"
    assert page["items"][0]["mediaLink"] == f"{HOST}/download/storage/v1/b/w/o/x?generation=5&alt=media"
    assert int(found.headers["content-length"]) == len(found.content)
    assert (found.headers["x-cache"], surface.origin.closed) == ("BYPASS", 1)


async def test_a_document_without_end_is_given_up(surface: Surface, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gcsapi.passing.DOCUMENT_BYTES_MAX", 5000)
    surface.origin.answer = lambda sent: (200, JSON, b"[" + b"1," * 5000 + b"1]")
    found = await surface.ask("GET", "/storage/v1/b/w/o")
    assert (found.status_code, found.json()["error"]["code"], surface.origin.closed) == (503, 503, 1)


async def test_an_origins_error_comes_back_as_it_is(surface: Surface) -> None:
    error = {"error": {"code": 412, "message": "No.", "errors": [{"reason": "conditionNotMet"}]}}
    surface.origin.answer = lambda sent: (412, JSON, json.dumps(error).encode())
    found = await surface.ask("DELETE", "/storage/v1/b/w/o/x?ifGenerationMatch=5")
    assert (found.status_code, found.json()) == (412, error)


async def test_an_upload_of_media_streams_on_under_its_name(surface: Surface) -> None:
    async def pieces() -> Any:
        for _ in range(10):
            yield b"x" * 1000

    surface.origin.answer = lambda sent: (200, JSON, resource(name="n/1"))
    found = await surface.ask(
        "POST",
        "/upload/storage/v1/b/w/o?uploadType=media&name=n%2F1",
        content=pieces(),
        headers={"content-type": "a/b"},
    )
    assert (found.status_code, found.json()["bucket"]) == (200, "w")
    assert (surface.last.body, surface.last.header("content-type")) == (b"x" * 10_000, "a/b")
    assert surface.last.request.path == "/upload/storage/v1/b/real-w/o"
    assert surface.last.request.body_bytes is None
    assert surface.last.fenced == {"real-w/n/1", "real-w/n/1#null"}


@pytest.mark.parametrize("query", ["", "&name=by-query"])
async def test_a_multipart_upload_is_fenced_by_the_name_in_its_first_part(surface: Surface, query: str) -> None:
    body = (
        b'--b\r\nContent-Type: application/json\r\n\r\n{"name": "by-part"}\r\n--b\r\n\r\n' + b"d" * 9000 + b"\r\n--b--"
    )
    target = "/upload/storage/v1/b/w/o?uploadType=multipart" + query
    await surface.ask("POST", target, content=body, headers={"content-type": "multipart/related; boundary=b"})
    name = "by-query" if query else "by-part"
    assert (surface.last.body, surface.last.request.body_bytes) == (body, len(body))
    assert surface.last.fenced == {f"real-w/{name}", f"real-w/{name}#null"}


async def test_a_resumable_upload_begins_and_goes_on_where_its_location_says(surface: Surface) -> None:
    def begin(sent: Sent) -> tuple[int, dict[str, str], bytes]:
        return 200, {"location": "https://origin/upload/storage/v1/b/real-w/o?uploadType=resumable&upload_id=AB"}, b""

    surface.origin.answer = begin
    begun = await surface.ask(
        "POST", "/resumable/upload/storage/v1/b/w/o?uploadType=resumable", json={"name": "a/b", "bucket": "w"}
    )
    assert surface.last.fenced == frozenset()  # nothing is written yet
    assert json.loads(surface.last.body) == {"name": "a/b", "bucket": "real-w"}
    location = begun.headers["location"]
    assert location.startswith(f"{HOST}/upload/storage/v1/b/w/o?")
    assert parse_qs(urlsplit(location).query)["name"] == ["a/b"]

    surface.origin.answer = lambda sent: (308, {"range": "bytes=0-99"}, b"")
    for span in ("bytes 0-99/200", "bytes */*", "bytes */200"):
        found = await surface.ask(
            "PUT", location, content=b"x" * 100 if "-" in span else b"", headers={"content-range": span}
        )
        assert (found.status_code, found.headers["range"], found.headers.get("location")) == (308, "bytes=0-99", None)
        request = surface.last.request
        assert request.path == "/upload/storage/v1/b/real-w/o"
        assert request.query == (("uploadType", "resumable"), ("upload_id", "AB"))
        assert surface.last.header("content-range") == span
        assert surface.last.fenced == {"real-w/a/b", "real-w/a/b#null"}
    surface.origin.answer = lambda sent: (499, {}, b"")
    assert (await surface.ask("DELETE", location)).status_code == 499


async def test_an_upload_without_a_name_never_reaches_the_origin(surface: Surface) -> None:
    for target, options in (
        ("/upload/storage/v1/b/w/o?uploadType=media", {"content": b"x"}),
        ("/upload/storage/v1/b/w/o?uploadType=resumable", {"json": {}}),
        ("/storage/v1/b/w/o", {"json": {}}),
    ):
        found = await surface.ask("POST", target, **options)
        assert (found.status_code, found.json()["error"]["errors"][0]["reason"]) == (400, "required")
    assert surface.origin.sent == []


async def test_the_xml_api_goes_on_by_bucket_and_name(surface: Surface) -> None:
    surface.origin.answer = lambda sent: (200, {"x-goog-generation": "7", "etag": '"e"'}, b"")
    bearer = {"authorization": "Bearer secret"}
    found = await surface.ask("PUT", "/w/a/b?x=y", content=b"data", headers=bearer | {"x-goog-meta-a": "b"})
    sent = surface.last
    assert (sent.request.path, sent.request.bucket, sent.request.key) == (None, "real-w", "a/b")
    assert (sent.body, sent.header("x-goog-meta-a"), sent.header("authorization")) == (b"data", "b", None)
    assert sent.fenced == {"real-w/a/b", "real-w/a/b#null"}
    assert (found.headers["x-goog-generation"], found.headers["etag"]) == ("7", '"e"')
    copied = {"x-goog-copy-source": "/v/from%20here", **bearer}
    await surface.ask("PUT", "/w/copy", headers=copied)
    assert surface.last.header("x-goog-copy-source") == "real-v/from%20here"


async def test_an_xml_resumable_upload_goes_on_at_this_host_under_the_clients_name(surface: Surface) -> None:
    surface.origin.answer = lambda sent: (201, {"location": "https://origin/real-w/a/b?upload_id=AB"}, b"")
    found = await surface.ask("POST", "/w/a/b", headers={"x-goog-resumable": "start", "authorization": "Bearer x"})
    location = found.headers["location"]
    assert location.startswith(f"{HOST}/w/a%2Fb?upload_id=")
    surface.origin.answer = lambda sent: (308, {}, b"")
    await surface.ask("PUT", location, content=b"x", headers={"authorization": "Bearer x"})
    assert (surface.last.request.key, surface.last.request.query) == ("a/b", (("upload_id", "AB"),))


async def test_a_form_is_fenced_by_the_key_in_its_fields(surface: Surface) -> None:
    field = 'Content-Disposition: form-data; name="{}"\r\n\r\n'
    body = f"--b\r\n{field.format('key')}posted\r\n--b\r\n{field.format('file')}data\r\n--b--".encode()
    headers = {"authorization": "Bearer x", "content-type": "multipart/form-data; boundary=b"}
    await surface.ask("POST", "/w", content=body, headers=headers)
    assert (surface.last.body, surface.last.request.key) == (body, None)
    assert surface.last.fenced == {"real-w/posted", "real-w/posted#null"}
    found = await surface.ask("POST", "/w?delete", content=b"<Delete/>", headers={"authorization": "Bearer x"})
    assert (found.status_code, len(surface.origin.sent)) == (501, 1)


async def test_an_object_under_the_customers_key_is_read_past_the_cache(surface: Surface) -> None:
    surface.origin.answer = lambda sent: (
        200,
        {"content-type": "application/json", "x-goog-hash": "md5=x"},
        b'{"a": 1}',
    )
    headers = {"x-goog-encryption-algorithm": "AES256", "x-goog-encryption-key": "k", "accept-encoding": "gzip"}
    found = await surface.ask("GET", "/storage/v1/b/w/o/x?alt=media", headers=headers | {"range": "bytes=0-9"})
    assert (found.content, found.headers["x-cache"]) == (b'{"a": 1}', "BYPASS")  # bytes are nobody's document
    sent = surface.last
    assert (sent.header("x-goog-encryption-key"), sent.header("range")) == ("k", "bytes=0-9")
    assert sent.header("accept-encoding") == "gzip"


async def test_denied_writes_and_copies_between_origins_never_reach_an_origin(surface: Surface) -> None:
    denied = await surface.ask("DELETE", "/storage/v1/b/locked/o/x")
    assert (denied.status_code, "buckets.locked.writes" in denied.text) == (403, True)
    for method, target, headers in (
        ("POST", "/storage/v1/b/far/o/x/rewriteTo/b/w/o/y", {}),
        ("PUT", "/w/y", {"x-goog-copy-source": "/far/x", "authorization": "Bearer x"}),
    ):
        found = await surface.ask(method, target, headers=headers)
        assert (found.status_code, "two origins" in found.text) == (501, True)
    assert surface.origin.sent == []


async def test_what_names_no_bucket_goes_to_the_origin_of_all_others(surface: Surface) -> None:
    surface.origin.answer = lambda sent: (200, JSON, b'{"email_address": "x"}')
    found = await surface.ask("GET", "/storage/v1/projects/p/serviceAccount")
    assert (found.json(), surface.last.request.path) == (
        {"email_address": "x"},
        "/storage/v1/projects/p/serviceAccount",
    )
    await surface.ask("POST", "/storage/v1/b?project=p", json={"name": "new"})
    assert (surface.last.request.path, json.loads(surface.last.body)) == ("/storage/v1/b", {"name": "new"})
