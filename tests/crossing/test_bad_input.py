"""Nonsense in GCS's dialect is answered in GCS's shape, and costs the origin nothing."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from tests.crossing.three_origins import ORIGINS, Crossing


@pytest.mark.parametrize(
    ("target", "status", "reason"),
    [
        ("/storage/v1/b/moto/o/x?alt=xml", 400, "invalidAltValue"),
        ("/storage/v1/b/moto/o/x?generation=latest", 400, "invalid"),
        ("/storage/v1/b/moto/o/x?ifGenerationMatch=1e3", 400, "invalid"),
        ("/storage/v1/b/moto/o/x?fields=nme", 400, "invalidParameter"),
        ("/storage/v1/b/moto/o?fields=items(", 400, "invalidParameter"),
        ("/storage/v1/b/moto/o?pageToken=CAEQ", 400, "invalid"),
        ("/storage/v1/b/moto/o?pageToken=%C3%BC", 400, "invalid"),
        ("/storage/v1/b/moto/o?maxResults=many", 400, "invalid"),
        ("/storage/v1/b/moto/o?matchGlob=" + "x" * 2000, 400, "invalid"),
        ("/storage/v1/b/moto/o/%ff", 400, "invalid"),
        ("/storage/v1/b/moto/o/%zz", 400, "invalid"),
        ("/storage/v1/b/mo%20to/o/x", 400, "invalid"),
        ("/storage/v1/b/moto/o/" + "x" * 1025, 400, "invalid"),
        ("/storage/v1/b/nowhere/o/x", 404, "notFound"),
        ("/storage/v1/b/nowhere", 404, "notFound"),
        ("/storage/v1/b/moto/iam", 501, "notImplemented"),
        ("/storage/v1/projects/p/serviceAccount", 501, "notImplemented"),
        ("/storage/v1/b/moto/o/x/acl", 501, "notImplemented"),
        ("/batch/storage/v1", 405, "methodNotAllowed"),
    ],
)
def test_the_json_api_says_what_is_wrong(crossing: Crossing, target: str, status: int, reason: str) -> None:
    before = crossing.origin_bytes()
    found = crossing.ask("GET", target)
    error = found.json()["error"]
    assert (found.status, error["code"], error["errors"][0]["reason"]) == (status, status, reason)
    assert error["message"] == error["errors"][0]["message"] != ""
    assert found.headers["x-guploader-uploadid"]
    assert crossing.origin_bytes() == before


@pytest.mark.parametrize(
    ("target", "status", "code"),
    [
        ("/goog/x?generation=latest", 400, "InvalidArgument"),
        ("/goog/%ff", 400, "InvalidURI"),
        ("/goog?max-keys=many", 400, "InvalidArgument"),
        ("/goog?list-type=2&continuation-token=abc", 400, "InvalidArgument"),
        ("/goog?encoding-type=base64", 400, "InvalidArgument"),
        ("/nowhere/x", 404, "NoSuchBucket"),
        ("/moto/x?acl", 501, "NotImplemented"),
    ],
)
def test_the_xml_api_says_what_is_wrong(crossing: Crossing, target: str, status: int, code: str) -> None:
    found = crossing.ask("GET", target, {"Authorization": "Bearer x"})
    root = ElementTree.fromstring(found.body)
    assert (found.status, root.tag, root.findtext("Code")) == (status, "Error", code)


def test_a_page_token_of_one_dialect_is_a_place_in_the_other_too(crossing: Crossing) -> None:
    """Tokens are places in a listing, and both dialects list the same names."""
    for key in ("a", "b", "c"):
        crossing.put("moto", "places/" + key, b"x")
    page = crossing.ask("GET", "/storage/v1/b/moto/o?prefix=places/&maxResults=1").json()
    rest = crossing.ask(
        "GET",
        f"/moto?list-type=2&prefix=places/&continuation-token={page['nextPageToken']}",
        {"Authorization": "Bearer x"},
    )
    names = [node.text for node in ElementTree.fromstring(rest.body).iterfind("{*}Contents/{*}Key")]
    assert names == ["places/b", "places/c"]


@pytest.mark.parametrize("origin", ORIGINS)
def test_both_families_are_told_to_a_client_that_says_nothing_of_itself(crossing: Crossing, origin: str) -> None:
    crossing.put(origin, "plain", b"some bytes", metadata={"colour": "blue"})
    for method in ("GET", "HEAD", "GET"):
        found = crossing.ask(method, f"/{origin}/plain")
        assert found.body == (b"some bytes" if method == "GET" else b"")
        assert found.headers["x-goog-stored-content-length"] == "10"
        assert int(found.headers["x-goog-generation"]) > 0
        if origin != "shelf":
            assert found.headers["x-goog-meta-colour"] == found.headers["x-amz-meta-colour"] == "blue"
        assert ("x-amz-request-id" in found.headers) is (origin != "goog")
        assert ("x-guploader-uploadid" in found.headers) is (origin == "goog")
    missing = ElementTree.fromstring(crossing.ask("GET", f"/{origin}/missing").body)
    assert (missing.find("Details") is not None) is (origin == "goog")


@pytest.mark.parametrize("bucket", ["storage", "upload", "download", "batch"])
def test_a_bucket_called_like_the_json_api_works_by_s3(crossing: Crossing, bucket: str) -> None:
    """Signed requests reach all of its keys; others those that are no path of the JSON API."""
    signed = {"Authorization": "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/aws4_request, Signature=0"}
    crossing.moto.client().create_bucket(Bucket=bucket)
    for key in ("model.bin", "v1/b", "storage/v1/b/w/o", "v1/b/w/o/x"):
        crossing.moto.client().put_object(Bucket=bucket, Key=key, Body=key.encode())
        for _ in range(2):
            found = crossing.ask("GET", f"/{bucket}/{key}", signed)
            assert (found.status, found.body) == (200, key.encode()), key
    assert crossing.ask("GET", f"/{bucket}/model.bin").body == b"model.bin"
    assert crossing.ask("GET", f"/{bucket}/model.bin", {"Authorization": "Bearer x"}).body == b"model.bin"
    assert crossing.ask("GET", f"/{bucket}", signed).status == 200


def test_what_a_store_lacks_is_said_in_the_form_of_the_api_that_was_asked(crossing: Crossing) -> None:
    """fake-gcs-server answers a PUT by the XML API in JSON."""
    signed = {"Authorization": "AWS4-HMAC-SHA256 Credential=x", "Content-Length": "1"}
    found = crossing.ask("PUT", "/goog/new", signed, b"x")
    root = ElementTree.fromstring(found.body)
    assert (found.status, root.findtext("Code")) == (400, "InvalidRequest")
    assert root.findtext("Message") == "invalid uploadType"
