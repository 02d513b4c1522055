"""Answers of an origin in the client's names: buckets, ids, links; and requests in the origin's."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gcsapi.links import rewrite_document, rewrite_link, rewrite_names

NAMES = {"real": "alias", "same": "same"}
HOST = "https://gateway:9"


def rewritten(document: Any) -> Any:
    return json.loads(rewrite_document(json.dumps(document).encode(), NAMES, HOST))


def test_an_objects_resource_names_and_leads_here() -> None:
    assert rewritten(
        {
            "kind": "storage#object",
            "id": "real/a/b/5",
            "name": "a/b",
            "bucket": "real",
            "selfLink": "http://origin/storage/v1/b/real/o/a%2Fb",
            "mediaLink": "http://origin/download/storage/v1/b/real/o/a%2Fb?generation=5&alt=media",
            "metadata": {"bucket": "real", "selfLink": "http://mine"},
        }
    ) == {
        "kind": "storage#object",
        "id": "alias/a/b/5",
        "name": "a/b",
        "bucket": "alias",
        "selfLink": f"{HOST}/storage/v1/b/alias/o/a%2Fb",
        "mediaLink": f"{HOST}/download/storage/v1/b/alias/o/a%2Fb?generation=5&alt=media",
        "metadata": {"bucket": "real", "selfLink": "http://mine"},  # the user's own
    }


def test_lists_copies_and_access_rules_are_walked() -> None:
    page = rewritten({"items": [{"bucket": "real"}, {"bucket": "other", "acl": [{"bucket": "real"}]}]})
    assert page == {"items": [{"bucket": "alias"}, {"bucket": "other", "acl": [{"bucket": "alias"}]}]}
    assert rewritten({"resource": {"bucket": "real"}})["resource"]["bucket"] == "alias"


def test_a_bucket_has_the_clients_name() -> None:
    found = rewritten(
        {"kind": "storage#bucket", "id": "real", "name": "real", "selfLink": "http://o/storage/v1/b/real"}
    )
    assert found == {"kind": "storage#bucket", "id": "alias", "name": "alias", "selfLink": f"{HOST}/storage/v1/b/alias"}


def test_an_object_called_like_its_bucket_keeps_its_name() -> None:
    assert rewritten({"kind": "storage#object", "name": "real", "bucket": "real"})["name"] == "real"


@pytest.mark.parametrize("body", [b"", b"not json", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_stays_as_it_is(body: bytes) -> None:
    assert rewrite_document(body, NAMES, HOST) == body


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("http://o/storage/v1/b/real/o?x=1", f"{HOST}/storage/v1/b/alias/o?x=1"),
        ("http://o/storage/v1/b/re%61l", f"{HOST}/storage/v1/b/alias"),
        ("http://o/storage/v1/b/%ff/o", f"{HOST}/storage/v1/b/%25ff/o"),
        ("http://o/elsewhere?q", f"{HOST}/elsewhere?q"),
    ],
)
def test_links_keep_their_path(link: str, expected: str) -> None:
    assert rewrite_link(link, NAMES, HOST) == expected


def test_a_requests_resource_gets_the_real_names() -> None:
    names = {"alias": "real"}
    resource: dict[str, Any] = {"bucket": "alias", "destination": {"bucket": "alias"}}
    assert rewrite_names(resource, names)
    assert resource == {"bucket": "real", "destination": {"bucket": "real"}}
    assert not rewrite_names({"bucket": "other", "name": "alias"}, names)
