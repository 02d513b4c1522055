"""Writes in GCS's dialect: through to GCS whatever they are, to an S3 store where they are simple, nowhere unseen."""

from __future__ import annotations

import base64
import hashlib
import json
import random
from email import message_from_bytes
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.crossing.three_origins import Answer, Crossing
from tests.gateways import start_gateway

JSON = {"Content-Type": "application/json"}
DATA = random.Random(4).randbytes(300_000)


def multipart(resource: dict[str, Any], data: bytes) -> bytes:
    head = b"--x\r\nContent-Type: application/json\r\n\r\n" + json.dumps(resource).encode()
    return head + b"\r\n--x\r\nContent-Type: text/plain\r\n\r\n" + data + b"\r\n--x--"


def insert(crossing: Crossing, bucket: str, name: str, data: bytes, kind: str = "media", **resource: Any) -> Answer:
    door = f"/upload/storage/v1/b/{bucket}/o?uploadType={kind}"
    if kind == "media":
        return crossing.ask("POST", f"{door}&name={name}", {"Content-Type": "text/plain"}, data)
    related = {"Content-Type": "multipart/related; boundary=x"}
    return crossing.ask("POST", door, related, multipart({"name": name, **resource}, data))


def everywhere(crossing: Crossing, bucket: str, name: str) -> set[tuple[int, bytes]]:
    """What each dialect reads now."""
    found = [crossing.read(dialect, bucket, name) for dialect in ("s3", "json", "xml")]
    return {(answer.status, answer.body if answer.status == 200 else b"") for answer in found}


@pytest.mark.parametrize("kind", ["media", "multipart"])
@pytest.mark.parametrize("bucket", ["goog", "moto"])
def test_an_upload_is_seen_at_once_in_every_dialect(crossing: Crossing, bucket: str, kind: str) -> None:
    name = f"written-{kind}"
    for data in (b"first", DATA, b""):
        found = insert(crossing, bucket, name, data, kind)
        resource = found.json()
        assert (found.status, resource["name"], resource["bucket"]) == (200, name, bucket)
        assert (resource["size"], resource["contentType"]) == (str(len(data)), "text/plain")
        assert resource["mediaLink"].startswith(f"{crossing.gateway.url}/download/storage/v1/b/{bucket}/o/{name}")
        assert everywhere(crossing, bucket, name) == {(200, data)}


def test_metadata_and_checksums_reach_an_s3_store(crossing: Crossing) -> None:
    md5 = base64.b64encode(hashlib.md5(b"data").digest()).decode()
    told = {"contentType": "x/y", "cacheControl": "no-store", "metadata": {"Colour": "blue"}, "md5Hash": md5}
    assert insert(crossing, "moto", "described", b"data", "multipart", **told).status == 200
    stored = crossing.moto.client().head_object(Bucket="real-moto", Key="described")
    assert (stored["ContentType"], stored["CacheControl"], stored["Metadata"]) == (
        "x/y",
        "no-store",
        {"colour": "blue"},
    )
    wrong = insert(crossing, "moto", "described", b"other", "multipart", **told)
    assert wrong.status == 400
    assert crossing.moto.client().get_object(Bucket="real-moto", Key="described")["Body"].read() == b"data"


def test_what_an_s3_store_has_no_word_for_is_refused_by_name(crossing: Crossing) -> None:
    door = "/upload/storage/v1/b/moto/o"
    for method, target, body in (
        ("POST", f"{door}?uploadType=resumable&name=r", b"{}"),
        ("POST", f"{door}?uploadType=media&name=r&ifGenerationMatch=5", b"x"),
        ("POST", f"{door}?uploadType=media&name=r&predefinedAcl=publicRead", b"x"),
        ("POST", "/storage/v1/b/moto/o/r/compose", b"{}"),
        ("PATCH", "/storage/v1/b/moto/o/r", b"{}"),
        ("POST", "/storage/v1/b/moto/o/a/rewriteTo/b/moto/o/b", b"{}"),
        ("DELETE", "/storage/v1/b/moto", b""),
    ):
        found = crossing.ask(method, target, JSON, body)
        assert (found.status, found.json()["error"]["errors"][0]["reason"]) == (501, "notImplemented"), target
    assert crossing.read("json", "moto", "r").status == 404
    told = insert(crossing, "moto", "r", b"x", "multipart", kmsKeyName="k")
    assert (told.status, "kmsKeyName" in told.json()["error"]["message"]) == (501, True)


def test_an_upload_that_must_be_new_is_at_an_s3_store_too(crossing: Crossing) -> None:
    target = "/upload/storage/v1/b/moto/o?uploadType=media&name=new&ifGenerationMatch=0"
    assert crossing.ask("POST", target, {}, b"one").status == 200
    again = crossing.ask("POST", target, {}, b"two")
    assert (again.status, again.json()["error"]["errors"][0]["reason"]) == (412, "conditionNotMet")
    assert crossing.read("json", "moto", "new").body == b"one"


@pytest.mark.parametrize("bucket", ["goog", "moto"])
def test_a_deleted_object_is_gone_in_every_dialect(crossing: Crossing, bucket: str) -> None:
    insert(crossing, bucket, "short-lived", b"data")
    assert everywhere(crossing, bucket, "short-lived") == {(200, b"data")}
    target = f"/storage/v1/b/{bucket}/o/short-lived"
    assert crossing.ask("DELETE", target).status in (200, 204)
    assert everywhere(crossing, bucket, "short-lived") == {(404, b"")}
    again = crossing.ask("DELETE", target)
    assert (again.status, again.json()["error"]["code"]) == (404, 404)


def test_the_xml_api_writes_to_an_s3_store(crossing: Crossing) -> None:
    bearer = {"Authorization": "Bearer x"}
    found = crossing.ask("PUT", "/moto/by-xml", bearer | {"x-goog-meta-a": "b", "Content-Type": "x/y"}, b"data")
    assert (found.status, found.body) == (200, b"")
    assert found.headers["etag"] == f'"{hashlib.md5(b"data").hexdigest()}"'
    assert int(found.headers["x-goog-generation"]) > 0
    read = crossing.read("s3", "moto", "by-xml")
    assert (read.body, read.headers["x-amz-meta-a"], read.headers["content-type"]) == (b"data", "b", "x/y")
    assert crossing.ask("PUT", "/moto/by-xml", bearer | {"x-goog-acl": "public-read"}, b"x").status == 501
    assert crossing.ask("DELETE", "/moto/by-xml", bearer).status == 204
    assert crossing.read("s3", "moto", "by-xml").status == 404


def test_a_write_by_s3_is_seen_by_gcs_clients(crossing: Crossing) -> None:
    signed = {"Authorization": "AWS a:b"}
    for bucket in ("moto", "goog"):
        insert(crossing, bucket, "both-ways", b"one")
        assert everywhere(crossing, bucket, "both-ways") == {(200, b"one")}
        if bucket == "moto":
            assert crossing.ask("PUT", f"/{bucket}/both-ways", signed, b"two").status == 200
            assert everywhere(crossing, bucket, "both-ways") == {(200, b"two")}


def test_a_directory_takes_no_writes(crossing: Crossing) -> None:
    found = insert(crossing, "shelf", "x", b"data")
    assert (found.status, found.json()["error"]["errors"][0]["reason"]) == (501, "notImplemented")
    assert crossing.ask("DELETE", "/storage/v1/b/shelf/o/x").status == 501


def test_a_resumable_upload_goes_on_at_this_gateway_and_is_fenced_by_its_name(crossing: Crossing) -> None:
    begun = crossing.ask(
        "POST", "/upload/storage/v1/b/goog/o?uploadType=resumable", JSON, json.dumps({"name": "in/parts"}).encode()
    )
    location = begun.headers["location"]
    assert begun.status == 200
    assert location.startswith(f"{crossing.gateway.url}/upload/storage/v1/b/goog/o?")
    session = location.removeprefix(crossing.gateway.url)
    half = 256 << 10
    crossing.put("goog", "in/parts", b"what was there before")
    assert everywhere(crossing, "goog", "in/parts") == {(200, b"what was there before")}
    part = crossing.ask("PUT", session, {"Content-Range": f"bytes 0-{half - 1}/{len(DATA)}"}, DATA[:half])
    assert (part.status, part.headers["range"]) == (308, f"bytes=0-{half - 1}")
    last = crossing.ask("PUT", session, {"Content-Range": f"bytes {half}-{len(DATA) - 1}/{len(DATA)}"}, DATA[half:])
    assert (last.status, last.json()["name"]) == (200, "in/parts")
    assert everywhere(crossing, "goog", "in/parts") == {(200, DATA)}


def test_a_session_that_no_gateway_began_is_not_found(crossing: Crossing) -> None:
    found = crossing.ask("PUT", "/upload/storage/v1/b/goog/o?uploadType=resumable&name=n&upload_id=AbC", {}, b"x")
    assert (found.status, found.json()["error"]["errors"][0]["reason"]) == (404, "notFound")


def test_a_resumable_upload_goes_on_after_a_restart_and_under_no_other_name(crossing: Crossing, tmp_path: Path) -> None:
    config = {
        "origins": {"goog": {"type": "gcs", "endpoint": crossing.goog.url, "anonymous": True}},
        "buckets": {"goog": {"origin": "goog", "bucket": "real-goog"}},
    }
    half = 256 << 10
    with start_gateway(tmp_path, config=config, workers=2) as gateway:
        begun = httpx.post(
            f"{gateway.url}/upload/storage/v1/b/goog/o?uploadType=resumable&name=in/two", trust_env=False
        )
        session = begun.headers["location"].removeprefix(gateway.url)
        content_range = {"Content-Range": f"bytes 0-{half - 1}/{len(DATA)}"}
        part = httpx.put(gateway.url + session, content=DATA[:half], headers=content_range, trust_env=False)
        assert part.status_code == 308
    with start_gateway(tmp_path, config=config, workers=2) as gateway:
        content_range = {"Content-Range": f"bytes {half}-{len(DATA) - 1}/{len(DATA)}"}
        for moved, status in ((session.replace("name=in%2Ftwo", "name=other"), 404), (session, 200)):
            found = httpx.put(gateway.url + moved, content=DATA[half:], headers=content_range, trust_env=False)
            assert found.status_code == status
        assert httpx.get(f"{gateway.url}/goog/in/two", trust_env=False).content == DATA


def test_copies_compositions_and_patches_invalidate_what_they_write(crossing: Crossing) -> None:
    insert(crossing, "goog", "part-1", b"one ")
    insert(crossing, "goog", "part-2", b"two")
    insert(crossing, "goog", "made", b"before")
    assert everywhere(crossing, "goog", "made") == {(200, b"before")}
    sources = {"sourceObjects": [{"name": "part-1"}, {"name": "part-2"}], "destination": {"bucket": "goog"}}
    found = crossing.ask("POST", "/storage/v1/b/goog/o/made/compose", JSON, json.dumps(sources).encode())
    assert (found.status, found.json()["bucket"]) == (200, "goog")
    assert everywhere(crossing, "goog", "made") == {(200, b"one two")}
    found = crossing.ask("POST", "/storage/v1/b/goog/o/part-2/rewriteTo/b/goog/o/made", JSON, b"{}")
    assert found.json()["resource"]["bucket"] == "goog"
    assert everywhere(crossing, "goog", "made") == {(200, b"two")}
    assert crossing.ask("PATCH", "/storage/v1/b/goog/o/made", JSON, b'{"metadata": {"a": "b"}}').status == 200
    assert crossing.resource("goog", "made").json()["metadata"] == {"a": "b"}
    assert crossing.read("xml", "goog", "made").headers["x-goog-meta-a"] == "b"


def test_a_copy_between_two_origins_is_refused(crossing: Crossing) -> None:
    found = crossing.ask("POST", "/storage/v1/b/moto/o/x/rewriteTo/b/goog/o/x", JSON, b"{}")
    assert (found.status, "two origins" in found.json()["error"]["message"]) == (501, True)


@pytest.mark.parametrize("bucket", ["goog", "moto"])
def test_a_batch_is_answered_part_by_part_wherever_its_bucket_is(crossing: Crossing, bucket: str) -> None:
    insert(crossing, bucket, "batched", b"data")
    asked = [("GET", "batched"), ("DELETE", "batched"), ("GET", "never-there")]
    parts = [
        f"--b\r\nContent-Type: application/http\r\nContent-ID: <x+{number}>\r\n\r\n"
        f"{method} {crossing.gateway.url}/storage/v1/b/{bucket}/o/{name} HTTP/1.1\r\n\r\n\r\n"
        for number, (method, name) in enumerate(asked)
    ]
    body = ("".join(parts) + "--b--").encode()
    found = crossing.ask("POST", "/batch/storage/v1", {"Content-Type": 'multipart/mixed; boundary="b"'}, body)
    message = message_from_bytes(f"Content-Type: {found.headers['content-type']}\r\n\r\n".encode() + found.body)
    answers: Any = message.get_payload()
    # They run side by side, as at GCS: the object may be gone before it is looked at.
    statuses = [one.get_payload().split()[1] for one in answers]
    assert statuses[0] in ("200", "404")
    assert statuses[1] in ("200", "204")
    assert statuses[2] == "404"
    assert [one["Content-ID"] for one in answers] == [f"<response-x+{number}>" for number in range(3)]
    assert everywhere(crossing, bucket, "batched") == {(404, b"")}


def test_an_upload_that_breaks_off_changes_nothing(crossing: Crossing) -> None:
    insert(crossing, "goog", "kept", b"whole")
    for kind, body in (("media", b"short"), ("multipart", multipart({"name": "kept"}, b"short"))):
        headers = {"Content-Type": "multipart/related; boundary=x", "Content-Length": str(len(body) + 1000)}
        target = f"/upload/storage/v1/b/goog/o?uploadType={kind}&name=kept"
        lines = [f"POST {target} HTTP/1.1", "Host: gateway", *(f"{name}: {value}" for name, value in headers.items())]
        crossing.send_and_leave("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    assert crossing.read("json", "goog", "kept", cache_control="no-cache").body == b"whole"


def test_writes_that_are_denied_name_the_key_to_set(crossing: Crossing) -> None:
    found = insert(crossing, "locked", "x", b"data")
    error = found.json()["error"]
    assert (found.status, error["errors"][0]["reason"]) == (403, "forbidden")
    assert "buckets.locked.writes" in error["message"]
