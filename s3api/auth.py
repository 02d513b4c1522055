"""What of a request is signature, and who asks.

How it works. A request may be signed in its headers or (presigned) in its query, by SigV2, SigV4 or SigV4A. All forms
are recognised here, in one place, because they are never part of what is asked: they are taken out before a request
becomes an operation, and an operation that passes through is signed anew by the origin. With `auth: none` the
signature is not verified and everybody is the same anonymous caller.
Source: Amazon S3 API Reference, "Authenticating Requests"; "Signing and Authenticating REST Requests" for SigV2.
"""

from __future__ import annotations

from collections.abc import Mapping

from s3api.targets import Query

SIGNATURE_HEADERS = frozenset(
    {
        "authorization",
        "date",
        "x-amz-content-sha256",
        "x-amz-date",
        "x-amz-region-set",
        "x-amz-s3session-token",
        "x-amz-security-token",
    }
)
_V4_PARAMETERS = frozenset(
    {
        "x-amz-algorithm",
        "x-amz-content-sha256",
        "x-amz-credential",
        "x-amz-date",
        "x-amz-expires",
        "x-amz-region-set",
        "x-amz-s3session-token",
        "x-amz-security-token",
        "x-amz-signature",
        "x-amz-signedheaders",
    }
)
_V2_PARAMETERS = frozenset({"AWSAccessKeyId", "Expires", "Signature"})
_NONE: frozenset[str] = frozenset()


def is_signed(query: Query, fields: Mapping[str, str]) -> bool:
    """Whether a request claims to be somebody's: it carries a signature, whether or not that is looked at."""
    if fields.get("authorization"):
        return True
    names = {name for name, _ in query}
    return {"AWSAccessKeyId", "Signature"} <= names or any(name.lower() == "x-amz-signature" for name in names)


def without_signature(query: Query) -> Query:
    """The query less every signature parameter. `Expires` is one only beside `AWSAccessKeyId` and `Signature`."""
    if not query:
        return query
    names = {name for name, _ in query}
    v2 = _V2_PARAMETERS if {"AWSAccessKeyId", "Signature"} <= names else _NONE
    return tuple((name, value) for name, value in query if name not in v2 and name.lower() not in _V4_PARAMETERS)
