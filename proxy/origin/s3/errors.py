"""From an S3 answer that is no success to the error family. Counts origin errors."""

from __future__ import annotations

import html
import re

from proxy.errors import AccessDenied, NotFound, OriginRefused, OriginUnavailable, WarmstartError
from proxy.hops import Headers, end_to_end
from proxy.metrics import ORIGIN_ERRORS
from proxy.origin.headers import first_value, parse_retry_after
from proxy.origin.trouble import mismatch

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
