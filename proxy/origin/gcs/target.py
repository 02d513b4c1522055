"""Targets of GCS's objects, buckets and listings: endpoint and request target, byte for byte. Pure.

How it works. Metadata, listings and bytes are requested by the JSON API, in whose paths an object's name is one
percent-encoded segment: `a//b`, `../x` and `/lead` are ordinary names there, and no server on the way has anything to
normalise. Every GCS endpoint and every emulator serves these paths, whatever its host name. Operations that are passed
through stay with the client's API.
Source: Cloud Storage documentation, "Request endpoints" and "Encoding URI path parts".
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from proxy.errors import ConfigInvalid, InvalidRequest
from proxy.http.masking import mask_url
from proxy.wire.endpoint import Endpoint

DEFAULT_ENDPOINT = "https://storage.googleapis.com"
Query = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Target:
    """A target. `request_target` is that of the request line (origin form)."""

    endpoint: Endpoint
    request_target: bytes


@dataclass(frozen=True, slots=True)
class Site:
    """One GCS service."""

    endpoint: Endpoint

    @property
    def id(self) -> str:
        """The id, the same on every node, whatever the alias in its configuration."""
        return f"gcs://{self.endpoint.authority}"

    def resource(self, bucket: str, key: str, query: Query = ()) -> Target:
        """Return the target of an object's metadata."""
        return self._target(f"/storage/v1/b/{encode(bucket)}/o/{encode(key)}", query)

    def media(self, bucket: str, key: str, query: Query = ()) -> Target:
        """Return the target of an object's bytes."""
        path = f"/download/storage/v1/b/{encode(bucket)}/o/{encode(key)}"
        return self._target(path, (("alt", "media"), *query))

    def listing(self, bucket: str, query: Query = ()) -> Target:
        return self._target(f"/storage/v1/b/{encode(bucket)}/o", query)

    def bucket(self, bucket: str, query: Query = ()) -> Target:
        """Return the target of a bucket's metadata."""
        return self._target(f"/storage/v1/b/{encode(bucket)}", query)

    def buckets(self, query: Query = ()) -> Target:
        return self._target("/storage/v1/b", query)

    def xml(self, bucket: str, key: str | None, query: Query = ()) -> Target:
        """Return a target of the XML API: a key, a bucket (`key` None) or the service (`bucket` empty)."""
        path = "/" + encode(bucket) if bucket else "/"
        return self._target(path if key is None else f"{path}/{encode(key)}", query)

    def path(self, path: str, query: Query = ()) -> Target:
        """Return the target of any path of the JSON API, already percent-encoded."""
        return self._target(path, query)

    def _target(self, path: str, query: Query) -> Target:
        encoded = render_query(query)
        return Target(self.endpoint, (f"{path}?{encoded}" if encoded else path).encode("ascii"))


def parse_site(url: str | None) -> Site:
    """Return the service at an endpoint URL; None is Google's own. Raises ConfigInvalid."""
    try:
        return Site(Endpoint.parse(url or DEFAULT_ENDPOINT))
    except ValueError:  # its text may quote a password
        fix = "is not an endpoint; write http://host:port or https://host"
        raise ConfigInvalid(f"endpoint {mask_url(url or '')!r} {fix}") from None


def encode(name: str) -> str:
    """Encode a bucket's or object's name as one path segment: all but unreserved characters are percent-encoded."""
    return quote(_bytes(name), safe="~")


def render_query(query: Query) -> str:
    """Render the query in its own order; a parameter without a value has no `=`, like the XML API's sub-resources."""
    return "&".join(
        f"{quote(_bytes(name), safe='~')}={quote(_bytes(value), safe='~')}" if value else quote(_bytes(name), safe="~")
        for name, value in query
    )


def _bytes(name: str) -> bytes:
    try:
        return name.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidRequest("InvalidURI", "the name is not valid Unicode") from None
