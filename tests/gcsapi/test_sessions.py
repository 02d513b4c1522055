"""Sessions of resumable uploads: what they bind, and whose they are."""

from __future__ import annotations

import base64
import hashlib
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcsapi.sessions import Session, Sessions
from proxy.errors import NotFound
from tests.gcsapi.passing import Sent, Surface

HOST = "http://gateway:9000"
OURS = Sessions([b"new", b"old"])
PLACE = "/upload/storage/v1/b/real-b/o?uploadType=resumable&upload_id=1"


def token_of(location: str) -> str:
    return parse_qs(urlsplit(location).query)["upload_id"][0]


def begin(location: str = PLACE, name: str = "a/ü b", sessions: Sessions = OURS) -> str:
    return token_of(sessions.json_location(location, HOST, "alias", "real-b", name))


@pytest.mark.parametrize(
    ("location", "path"),
    [
        (
            "https://storage.googleapis.com/upload/storage/v1/b/real%2Db/o?uploadType=resumable&upload_id=A-b_c",
            "/upload/storage/v1/b/real%2Db/o",
        ),
        ("http://127.0.0.1:4443/upload/resumable/0a1b?x=", "/upload/resumable/0a1b"),
        ("/resumable/upload/storage/v1/b/real-b/o?upload_id=1", "/resumable/upload/storage/v1/b/real-b/o"),
    ],
)
def test_a_session_leads_back_through_this_gateway(location: str, path: str) -> None:
    ours = OURS.json_location(location, HOST, "alias", "real-b", "a/ü b")
    assert ours.startswith(f"{HOST}/upload/storage/v1/b/alias/o?")
    assert parse_qs(urlsplit(ours).query)["name"] == ["a/ü b"]
    queried = parse_qs(urlsplit(location).query, keep_blank_values=True)
    session = OURS.parse_json(token_of(ours), "real-b", "a/ü b")
    assert session == Session(path, tuple((name, values[0]) for name, values in queried.items()))


@pytest.mark.parametrize(
    "location",
    [
        "/upload/storage/v1/b/other/o?upload_id=1",  # another bucket's
        "/storage/v1/b/real-b/o/x",  # not an upload at all
        "/upload/resumable/../storage/v1/b/x",
        "/upload/storage/v1/b/real-b/o/x?upload_id=1",
    ],
)
def test_a_session_for_something_else_is_not_found(location: str) -> None:
    with pytest.raises(NotFound):
        OURS.parse_json(begin(location), "real-b", "a/ü b")


def test_a_session_binds_bucket_name_and_place() -> None:
    token = begin()
    OURS.parse_json(token, "real-b", "a/ü b")
    raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    moved = base64.urlsafe_b64encode(raw[:16] + raw[16:].replace(b"upload_id=1", b"upload_id=2")).decode().rstrip("=")
    for other in (
        (token, "real-c", "a/ü b"),
        (token, "real-b", "victim"),
        (token, "real-b", ""),
        (moved, "real-b", "a/ü b"),
    ):
        with pytest.raises(NotFound):
            OURS.parse_json(*other)


def test_nobody_makes_a_session_without_a_key() -> None:
    resource = PLACE.encode()
    salted = hashlib.sha256(b"warmstart upload session 1" + resource).digest()
    forged = [base64.urlsafe_b64encode(salted[:size] + resource).decode().rstrip("=") for size in (8, 16)]
    for token in (*forged, begin(sessions=Sessions([b"other"])), "", "!", "AAAA", "=", "A" * 60_000):
        with pytest.raises(NotFound):
            OURS.parse_json(token, "real-b", "a/ü b")


def test_a_session_goes_on_while_the_fleet_changes_its_secret() -> None:
    for signer, reader in ((["old"], ["new", "old"]), (["new", "old"], ["old", "new"])):
        token = begin(sessions=Sessions([key.encode() for key in signer]))
        assert Sessions([key.encode() for key in reader]).parse_json(token, "real-b", "a/ü b").query


@given(st.text(max_size=60))
def test_a_session_from_elsewhere_is_not_found(token: str) -> None:
    with pytest.raises(NotFound):
        OURS.parse_json(token, "real-b", "a/ü b")


async def test_an_upload_that_goes_on_under_another_name_never_reaches_the_origin() -> None:
    surface = Surface()

    def begun(sent: Sent) -> tuple[int, dict[str, str], bytes]:
        return 200, {"location": "https://origin/upload/storage/v1/b/real-w/o?uploadType=resumable&upload_id=V"}, b""

    surface.origin.answer = begun
    location = (await surface.ask("POST", "/upload/storage/v1/b/w/o?uploadType=resumable&name=victim")).headers[
        "location"
    ]
    surface.origin.answer = lambda sent: (201, {"location": "https://origin/real-w/victim?upload_id=V"}, b"")
    headers = {"x-goog-resumable": "start", "authorization": "Bearer x"}
    xml_location = (await surface.ask("POST", "/w/victim", headers=headers)).headers["location"]
    asked = len(surface.origin.sent)
    for moved in (
        location.replace("name=victim", "name=harmless"),
        location.replace("name=victim&", ""),
        location.replace("/b/w/", "/b/v/"),
        xml_location.replace("victim", "harmless"),
        xml_location.replace("/w/", "/v/"),
        "/w/harmless?upload_id=V",
    ):
        found = await surface.ask("PUT", moved, content=b"data", headers={"authorization": "Bearer x"})
        assert (found.status_code, len(surface.origin.sent)) == (404, asked)
    for going_on in (location, xml_location):
        assert (await surface.ask("PUT", going_on, content=b"data", headers={"authorization": "Bearer x"})).status_code
        assert dict(surface.last.request.query)["upload_id"] == "V"
        assert surface.last.fenced == {"real-w/victim", "real-w/victim#null"}
