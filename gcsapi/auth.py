"""What of a request is signature or token, and who asks.

How it works. A request may carry a token (`Authorization: Bearer`, `access_token`), an HMAC signature (`GOOG1`,
`GOOG4-…`, and S3's forms, which the XML API takes too) or a signed URL's query (V2 or V4). All are recognised here, in
one place, because they are never part of what is asked: they are taken out before a request becomes an operation, and
an operation that passes through goes with the origin's own token. With `auth: none` nothing of it is verified and
everybody is the same anonymous caller.
Source: Cloud Storage documentation, "Signatures", "HTTP headers for XML API", "Standard query parameters".
"""

from __future__ import annotations

from collections.abc import Mapping

from proxy.http.targets import Query

SIGNATURE_HEADERS = frozenset(
    {
        "authorization",
        "date",
        "x-amz-content-sha256",
        "x-amz-date",
        "x-amz-security-token",
        "x-goog-content-sha256",
        "x-goog-date",
        "x-goog-iam-authority-selector",
        "x-goog-iam-authorization-token",
    }
)
_V4 = ("algorithm", "credential", "date", "expires", "signature", "signedheaders", "security-token", "content-sha256")
_V4_PARAMETERS = frozenset(f"x-{vendor}-{name}" for vendor in ("goog", "amz") for name in _V4)
_V2_PARAMETERS = frozenset({"GoogleAccessId", "AWSAccessKeyId", "Expires", "Signature"})
_TOKEN_PARAMETERS = frozenset({"access_token", "key", "oauth_token"})
_NONE: frozenset[str] = frozenset()


def is_signed(query: Query, fields: Mapping[str, str]) -> bool:
    """Whether a request claims to be somebody's: it carries a token or signature, whether or not that is looked at."""
    if fields.get("authorization"):
        return True
    names = {name for name, _ in query}
    return (
        "access_token" in names
        or ("Signature" in names and bool(names & {"GoogleAccessId", "AWSAccessKeyId"}))
        or any(name.lower() in ("x-goog-signature", "x-amz-signature") for name in names)
    )


def without_signature(query: Query, *, json: bool) -> Query:
    """The query less every parameter that proves who asks. `json`: the API whose parameters `key` and tokens are."""
    if not query:
        return query
    names = {name for name, _ in query}
    dropped = _TOKEN_PARAMETERS if json else _NONE
    if "Signature" in names and names & {"GoogleAccessId", "AWSAccessKeyId"}:
        dropped |= _V2_PARAMETERS
    return tuple((name, value) for name, value in query if name not in dropped and name.lower() not in _V4_PARAMETERS)
