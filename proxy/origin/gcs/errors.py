"""Errors of the error family from GCS's error answers.

How it works. An error body of either API becomes a status, a reason and a sentence. So no document of one API is sent
to a client of the other.
Source: Cloud Storage documentation, "HTTP status and error codes for JSON" and "... for XML".
"""

from __future__ import annotations

from proxy.errors import AccessDenied, NotFound, OriginRefused, OriginUnavailable, WarmstartError, blame
from proxy.http.headers import Headers, end_to_end
from proxy.http.trail import LOOP_STATUS
from proxy.origin.headers import first_value, parse_retry_after
from proxy.origin.refusals import ErrorBody, parse_refusal
from proxy.origin.trouble import REDIRECTS, looped, mismatch, redirect_refused, request_id_of

_THROTTLES = frozenset(("rateLimitExceeded", "userRateLimitExceeded", "SlowDown", "ServiceUnavailable"))
_SERVER_STATUSES = frozenset((408, 500, 502, 503, 504))
_OF_A_DOCUMENT = frozenset(("content-encoding", "content-length", "content-type"))


def missing(refusal: ErrorBody) -> str | None:
    """Return what does not exist according to a 404: "bucket" or "key". Their reasons are equal, their sentences not.

    None if it says neither, as an emulator's may.
    """
    told = refusal.message.lower()
    if refusal.reason == "NoSuchBucket" or "bucket does not exist" in told:
        return "bucket"
    return "key" if refusal.reason == "NoSuchKey" or "no such object" in told else None


def read_error(status: int, headers: Headers, body: bytes, bucket: str, key: str, *, now_s: float) -> WarmstartError:
    """Return the error for an answer with this status. Conditions are handled before."""
    refusal = parse_refusal(body)
    if status == 404:
        what = missing(refusal) or "key"
        return NotFound(what, bucket if what == "bucket" else key)
    said, request_id = refusal.said(status), request_id_of(headers)
    wait_s = parse_retry_after(first_value(headers, "retry-after"), now_s)
    if status in (429, 503) or refusal.reason in _THROTTLES:
        throttles = OriginUnavailable(f"the origin throttles ({status})", retry_after_s=wait_s, throttled=True)
        return blame(throttles, "throttled", said, request_id)
    if status in _SERVER_STATUSES or (status > 500 and status not in (501, LOOP_STATUS)):
        failed = OriginUnavailable(f"the origin answered {status} {refusal.reason}".rstrip(), retry_after_s=wait_s)
        return blame(failed, "server", said, request_id)
    if status in (401, 403):
        denied = AccessDenied(f"the origin refuses: {refusal.message or refusal.reason or status}")
        return blame(denied, "refused", said, request_id)
    if status == LOOP_STATUS:
        return looped(headers)
    if status in REDIRECTS:
        return redirect_refused(status, headers)
    if status < 400:
        return mismatch(f"an answer with status {status}", headers)
    kept = tuple(pair for pair in end_to_end(headers) if pair[0] not in _OF_A_DOCUMENT)
    return OriginRefused(status, kept, b"", refusal.message)
