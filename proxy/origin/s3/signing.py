"""AWS Signature Version 4, in the Authorization header. Pure except for the clock.

How it works. The canonical request is method, path, sorted query, signed headers and the payload's hash, one per line.
Its SHA-256 is signed with a key derived from secret, day, region and service. For S3 the path is used exactly as it
is sent, without the normalisation that other services apply. The derived key is kept for the day, so one signature
costs one HMAC and two hashes. Source: Amazon S3 API Reference, "Authenticating Requests: Using the Authorization
Header". Checked against botocore's signer by a property test.

Host, Content-Type, Content-MD5 and every `x-amz-*` header are signed (servers reject unsigned ones). Range and
conditions are not: headers that a middlebox may rewrite must not break the signature.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import quote

from proxy.origin.s3.target import Target

UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
EMPTY_PAYLOAD = hashlib.sha256(b"").hexdigest()

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Credentials:
    """An access key. The secret parts stay out of `repr`."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


class Signer:
    """A signer for S3. `clock` is Unix time in seconds; `user_agent`, if given, is sent with every request."""

    def __init__(self, clock: Callable[[], float] = time.time, user_agent: str | None = None) -> None:
        self._clock = clock
        self._user_agent = user_agent
        self._key_name: tuple[str, str, str] | None = None
        self._key = b""

    def sign(
        self, credentials: Credentials | None, region: str, method: str, target: Target, headers: Headers, payload: str
    ) -> Headers:
        """Return all headers to send, Host first. `payload` is its SHA-256 in hex, or UNSIGNED_PAYLOAD.

        Without credentials the request stays anonymous. `headers` have lower-case names.
        """
        if self._user_agent is not None:
            headers = (*(pair for pair in headers if pair[0] != "user-agent"), ("user-agent", self._user_agent))
        if credentials is None:
            return (("host", target.endpoint.authority), *headers)
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._clock()))
        sent = (("host", target.endpoint.authority), *headers, ("x-amz-date", stamp), ("x-amz-content-sha256", payload))
        if credentials.session_token is not None:
            sent += (("x-amz-security-token", credentials.session_token),)
        names, lines = _canonical_headers(sent)
        canonical = f"{method}\n{target.path}\n{_canonical_query(target)}\n{lines}\n{names}\n{payload}"
        scope = f"{stamp[:8]}/{region}/s3/aws4_request"
        digest = hashlib.sha256(canonical.encode("latin-1")).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"
        key = self._signing_key(credentials.secret_access_key, stamp[:8], region)
        signature = hmac.new(key, text.encode(), "sha256").hexdigest()
        authorization = (
            f"AWS4-HMAC-SHA256 Credential={credentials.access_key_id}/{scope}, "
            f"SignedHeaders={names}, Signature={signature}"
        )
        return (*sent, ("authorization", authorization))

    def _signing_key(self, secret: str, day: str, region: str) -> bytes:
        name = (secret, day, region)
        if name != self._key_name:
            key = f"AWS4{secret}".encode()
            for part in (day, region, "s3", "aws4_request"):
                key = hmac.new(key, part.encode(), "sha256").digest()
            self._key, self._key_name = key, name
        return self._key


def _canonical_headers(headers: Headers) -> tuple[str, str]:
    """Return the signed headers' names, and their lines. Values are the sent bytes as latin-1."""
    signed: dict[str, list[str]] = {}
    for name, value in headers:
        if name.startswith("x-amz-") or name in ("host", "content-type", "content-md5"):
            signed.setdefault(name, []).append(b" ".join(value.encode("latin-1").split()).decode("latin-1"))
    names = sorted(signed)
    return ";".join(names), "".join(f"{name}:{','.join(signed[name])}\n" for name in names)


def _canonical_query(target: Target) -> str:
    if not target.query:
        return ""
    pairs = (
        (quote(name.encode("utf-8", "surrogateescape"), safe="~"), quote(value.encode("utf-8", "surrogateescape"), "~"))
        for name, value in target.query
    )
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))
