"""From an S3 answer that is no success, and from a failed exchange, to the error family. Counts origin errors."""

from __future__ import annotations

import html
import re

import httpx

from proxy.errors import AccessDenied, NotFound, OriginRefused, OriginUnavailable, VersionChanged, WarmstartError
from proxy.metrics import ORIGIN_ERRORS
from proxy.origin.s3.headers import Headers, end_to_end, first_value, parse_retry_after
from proxy.wire.errors import ConnectFailed, ConnectionBroken, MalformedResponse, TimedOut, WireError

_CODE = re.compile(rb"<Code>\s*([A-Za-z0-9._-]{1,100})\s*</Code>")
_MESSAGE = re.compile(rb"<Message>([^<]{1,1000})</Message>")
_REGION = re.compile(rb"<Region>\s*([a-z0-9-]{1,64})\s*</Region>")
_THROTTLES = frozenset(("SlowDown", "ServiceUnavailable", "Throttling", "ThrottlingException", "TooManyRequests"))
_MISSING = {"NoSuchBucket": "bucket", "NoSuchVersion": "version", "NoSuchKey": "key"}


def parse_code(body: bytes) -> str | None:
    """The `<Code>` of an S3 error document."""
    found = _CODE.search(body)
    return found[1].decode("ascii") if found is not None else None


def parse_region(body: bytes) -> str | None:
    """The region that AuthorizationHeaderMalformed wants."""
    found = _REGION.search(body)
    return found[1].decode("ascii") if found is not None else None


def refusal(
    origin: str, status: int, headers: Headers, body: bytes, bucket: str, key: str, *, now_s: float
) -> WarmstartError:
    """The error that an answer with this status is; `body` is empty for HEAD. Conditions are handled before."""
    code = parse_code(body)
    if status == 404:
        what = _MISSING.get(code or "", "key")
        return NotFound(what, bucket if what == "bucket" else key)
    if status == 429 or status == 503 or code in _THROTTLES:
        ORIGIN_ERRORS.labels(origin, "throttled").inc()
        wait_s = parse_retry_after(first_value(headers, "retry-after"), now_s)
        return OriginUnavailable(f"the origin throttles ({status})", retry_after_s=wait_s, throttled=True)
    if status >= 500 and status != 501:
        ORIGIN_ERRORS.labels(origin, "server").inc()
        wait_s = parse_retry_after(first_value(headers, "retry-after"), now_s)
        return OriginUnavailable(f"the origin answered {status} {code or ''}".rstrip(), retry_after_s=wait_s)
    if status == 403 and code in (None, "AccessDenied"):
        return AccessDenied(_denial(body))
    if status < 400:
        return mismatch(origin, f"an answer with status {status}")
    return OriginRefused(status, end_to_end(headers), body)


def _denial(body: bytes) -> str:
    said = _MESSAGE.search(body)
    return f"the origin refuses: {html.unescape(said[1].decode('utf-8', 'replace'))}" if said else "the origin refuses"


def mismatch(origin: str, what: str) -> OriginUnavailable:
    """An answer that can't be the one to this request."""
    ORIGIN_ERRORS.labels(origin, "mismatch").inc()
    return OriginUnavailable(f"mislabelled: the origin sent {what}")


def changed(origin: str, key: str, what: str) -> VersionChanged:
    """Another version than the one asked for; not the origin's fault, so not counted as its error."""
    return VersionChanged(f"{origin} holds another version of {key!r}: {what}")


def short_body(origin: str, received_bytes: int, expected_bytes: int) -> OriginUnavailable:
    ORIGIN_ERRORS.labels(origin, "short").inc()
    return OriginUnavailable(f"the origin sent {received_bytes} of {expected_bytes} bytes")


def from_httpx(origin: str, error: httpx.HTTPError) -> OriginUnavailable:
    """What httpx raised, as ours."""
    match error:
        case httpx.ConnectError() | httpx.ConnectTimeout() | httpx.ProxyError() | httpx.UnsupportedProtocol():
            reason = "connect"
        case httpx.TimeoutException():
            reason = "timeout"
        case _:
            reason = "reset"
    ORIGIN_ERRORS.labels(origin, reason).inc()
    words = str(error) or type(error).__name__
    return OriginUnavailable(f"{reason}: {words}")


def from_wire(origin: str, error: WireError) -> OriginUnavailable:
    """What the range client raised, as ours."""
    match error:
        case ConnectFailed():
            reason = "connect"
        case TimedOut():
            reason = "connect" if error.phase in ("connect", "tls") else "timeout"
        case MalformedResponse():
            reason = "mismatch"
        case ConnectionBroken(received_bytes=received) if received > 0:
            reason = "short"
        case _:
            reason = "reset"
    ORIGIN_ERRORS.labels(origin, reason).inc()
    return OriginUnavailable(f"{reason}: {error}")
