"""From a GCS answer that is no success to the error family. Counts origin errors.

How it works. The JSON API says a `message` and a `reason`, the XML API a `<Code>` and a `<Message>`, and downloads by
the JSON API often nothing but a line of text. All become a status, a reason and a sentence; no document of one API
goes to a client of the other.
Source: Cloud Storage documentation, "HTTP status and error codes for JSON" and "... for XML".
"""

from __future__ import annotations

import html
import json
import re
from dataclasses import dataclass

from proxy.errors import AccessDenied, NotFound, OriginRefused, OriginUnavailable, WarmstartError
from proxy.hops import Headers, end_to_end
from proxy.metrics import ORIGIN_ERRORS
from proxy.origin.headers import first_value, parse_retry_after
from proxy.origin.trouble import mismatch

MESSAGE_MAX = 1000
_CODE = re.compile(rb"<Code>\s*([A-Za-z0-9._-]{1,100})\s*</Code>")
_MESSAGE = re.compile(rb"<Message>([^<]{1,1000})</Message>")
_THROTTLES = frozenset(("rateLimitExceeded", "userRateLimitExceeded", "SlowDown", "ServiceUnavailable"))
_SERVER_STATUSES = frozenset((408, 500, 502, 503, 504))
_OF_A_DOCUMENT = frozenset(("content-encoding", "content-length", "content-type"))


@dataclass(frozen=True, slots=True)
class Refusal:
    """What an error's body says; empty where it says nothing."""

    reason: str = ""
    message: str = ""


def parse_refusal(body: bytes) -> Refusal:
    """From JSON, XML or a line of text."""
    if body.lstrip()[:1] == b"{":
        return _parse_json(body)
    code, message = _CODE.search(body), _MESSAGE.search(body)
    if code is not None:
        said = html.unescape(message[1].decode("utf-8", "replace")) if message is not None else ""
        return Refusal(code[1].decode("ascii"), said)
    text = body.decode("utf-8", "replace").strip()
    return Refusal("", text[:MESSAGE_MAX] if "<" not in text else "")


def _parse_json(body: bytes) -> Refusal:
    try:
        error = json.loads(body)["error"]
        first: dict[str, object] = next(iter(error.get("errors") or ()), {})
        reason, message = first.get("reason", ""), error.get("message", "")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return Refusal()
    return Refusal(str(reason)[:100], str(message)[:MESSAGE_MAX])


def missing(refusal: Refusal) -> str | None:
    """What a 404 says does not exist: "bucket" or "key"; both reasons are the same, the sentence is not.

    None where it says neither, as an emulator's may.
    """
    told = refusal.message.lower()
    if refusal.reason == "NoSuchBucket" or "bucket does not exist" in told:
        return "bucket"
    return "key" if refusal.reason == "NoSuchKey" or "no such object" in told else None


def read_error(
    origin: str, status: int, headers: Headers, body: bytes, bucket: str, key: str, *, now_s: float
) -> WarmstartError:
    """The error that an answer with this status is. Conditions are handled before."""
    refusal = parse_refusal(body)
    if status == 404:
        what = missing(refusal) or "key"
        return NotFound(what, bucket if what == "bucket" else key)
    wait_s = parse_retry_after(first_value(headers, "retry-after"), now_s)
    if status in (429, 503) or refusal.reason in _THROTTLES:
        ORIGIN_ERRORS.labels(origin, "throttled").inc()
        return OriginUnavailable(f"the origin throttles ({status})", retry_after_s=wait_s, throttled=True)
    if status in _SERVER_STATUSES or (status > 500 and status != 501):
        ORIGIN_ERRORS.labels(origin, "server").inc()
        return OriginUnavailable(f"the origin answered {status} {refusal.reason}".rstrip(), retry_after_s=wait_s)
    if status in (401, 403):
        return AccessDenied(f"the origin refuses: {refusal.message or refusal.reason or status}")
    if status < 400:
        return mismatch(origin, f"an answer with status {status}")
    kept = tuple(pair for pair in end_to_end(headers) if pair[0] not in _OF_A_DOCUMENT)
    return OriginRefused(status, kept, b"", refusal.message)
