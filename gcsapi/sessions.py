"""Resumable uploads that go on: sessions which bind bucket and name, and which only gateways can make.

How it works. A resumable upload's first request says what it writes; the later ones say a session of the origin's, and
nothing else. So the `Location` that the client gets is one of this gateway: it carries the object's name, and where the
session is at the origin, under a MAC of the real bucket, the name and that place. A client can change none of them: the
object that is written is the one that the fence, and every rule, has seen. Nothing is remembered. All workers, and a
restart, have the node's key; the nodes of a fleet have a key of its secret, so any of them can go on.
Source: Cloud Storage documentation, "Resumable uploads", "Performing resumable uploads".
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode, urlsplit

from gcsapi.resources import encode
from proxy.errors import NotFound
from proxy.http.targets import Query, decode_name

MAC_BYTES = 16
_JSON_SESSION = re.compile(r"/(?:resumable/)?upload/storage/v1/b/([^/]+)/o")
_EMULATOR_SESSION = re.compile(r"/upload/resumable/[A-Za-z0-9._~%-]+")


@dataclass(frozen=True, slots=True)
class Session:
    """Where an upload goes on at the origin: a path, percent-encoded, and its query."""

    path: str
    query: Query


class Sessions:
    """`keys` are the one that signs, and others that are still taken. Raises NotFound for what none of them signed.

    Clients begin an upload anew when its session is not found.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        assert keys
        self._keys = tuple(keys)

    def json_location(self, location: str, host: str, bucket: str, real_bucket: str, name: str) -> str:
        """The Location by which a client of the JSON API goes on; `bucket` is the client's name of it."""
        token = self._token(real_bucket, name, location)
        query = urlencode({"uploadType": "resumable", "name": name, "upload_id": token})
        return f"{host}/upload/storage/v1/b/{encode(bucket)}/o?{query}"

    def xml_location(self, location: str, host: str, bucket: str, real_bucket: str, name: str) -> str:
        """The same for the XML API, whose path names the object."""
        token = self._token(real_bucket, name, location)
        return f"{host}/{encode(bucket)}/{encode(name)}?{urlencode({'upload_id': token})}"

    def parse_json(self, token: str, real_bucket: str, name: str) -> Session:
        session = self._parse(token, real_bucket, name)
        inside = _JSON_SESSION.fullmatch(session.path)
        if _EMULATOR_SESSION.fullmatch(session.path) is None and (
            inside is None or decode_name(inside[1].encode()) != real_bucket
        ):
            raise NotFound("session", token)
        return session

    def parse_xml(self, token: str, real_bucket: str, name: str) -> Session:
        """Its path is the object's own."""
        return self._parse(token, real_bucket, name)

    def _token(self, real_bucket: str, name: str, location: str) -> str:
        parts = urlsplit(location)
        target = f"{parts.path}?{parts.query}".encode()
        return base64.urlsafe_b64encode(_mac(self._keys[0], real_bucket, name, target) + target).decode().rstrip("=")

    def _parse(self, token: str, real_bucket: str, name: str) -> Session:
        try:
            raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except ValueError:
            raw = b""
        mac, target = raw[:MAC_BYTES], raw[MAC_BYTES:]
        if not any(hmac.compare_digest(mac, _mac(key, real_bucket, name, target)) for key in self._keys):
            raise NotFound("session", token)
        path, _, query = target.decode("utf-8", "replace").partition("?")
        return Session(path, tuple(parse_qsl(query, keep_blank_values=True)))


def _mac(key: bytes, real_bucket: str, name: str, target: bytes) -> bytes:
    mac = hmac.new(key, digestmod=hashlib.sha256)
    for part in (real_bucket.encode("utf-8", "surrogatepass"), name.encode("utf-8", "surrogatepass"), target):
        mac.update(len(part).to_bytes(8, "big") + part)
    return mac.digest()[:MAC_BYTES]
