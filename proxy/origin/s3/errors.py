"""Errors of the error family from S3's error answers."""

from __future__ import annotations

import re

from proxy.errors import AccessDenied, NotFound, OriginRefused, OriginUnavailable, WarmstartError, blame
from proxy.http.headers import Headers, end_to_end
from proxy.http.trail import LOOP_STATUS
from proxy.origin.headers import first_value, parse_retry_after
from proxy.origin.refusals import parse_code, parse_message, parse_refusal
from proxy.origin.trouble import REDIRECTS, looped, mismatch, redirect_refused, request_id_of

_REGION = re.compile(rb"<Region>\s*([a-z0-9-]{1,64})\s*</Region>")
_THROTTLES = frozenset(("SlowDown", "ServiceUnavailable", "Throttling", "ThrottlingException", "TooManyRequests"))
_OF_CREDENTIALS = frozenset(
    {
        "AuthenticationRequired",
        "AuthorizationHeaderMalformed",
        "ExpiredToken",
        "IncompleteSignature",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSecurity",
        "InvalidToken",
        "InvalidTokenId",
        "MissingAuthenticationToken",
        "MissingSecurityHeader",
        "NotSignedUp",
        "RequestExpired",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
        "UnrecognizedClientException",
    }
)
_MISSING = {"NoSuchBucket": "bucket", "NoSuchVersion": "version", "NoSuchKey": "key"}


def parse_region(body: bytes) -> str | None:
    """Return the region that an AuthorizationHeaderMalformed error names."""
    found = _REGION.search(body)
    return found[1].decode("ascii") if found is not None else None


def refusal(status: int, headers: Headers, body: bytes, bucket: str, key: str, *, now_s: float) -> WarmstartError:
    """Return the error for an answer with this status; `body` is empty for HEAD. Conditions are handled before."""
    code = parse_code(body)
    if status == 404:
        what = _MISSING.get(code or "", "key")
        return NotFound(what, bucket if what == "bucket" else key)
    said, request_id = parse_refusal(body).said(status), request_id_of(headers)
    wait_s = parse_retry_after(first_value(headers, "retry-after"), now_s)
    if refuses_credentials(status, code):
        return credentials_refused(status, headers, body)
    if status == 429 or status == 503 or code in _THROTTLES:
        throttles = OriginUnavailable(f"the origin throttles ({status})", retry_after_s=wait_s, throttled=True)
        return blame(throttles, "throttled", said, request_id)
    if status >= 500 and status not in (501, LOOP_STATUS):
        failed = OriginUnavailable(f"the origin answered {status} {code or ''}".rstrip(), retry_after_s=wait_s)
        return blame(failed, "server", said, request_id)
    if status == 403 and code in (None, "AccessDenied"):
        return blame(AccessDenied(_denial(body)), "refused", said, request_id)
    if status == LOOP_STATUS:
        return looped(headers)
    if status in REDIRECTS:
        return redirect_refused(status, headers)
    if status < 400:
        return mismatch(f"an answer with status {status}", headers)
    refused = OriginRefused(status, end_to_end(headers), body)
    if status == 403:
        return blame(refused, "refused", said, request_id)
    return refused


def refuses_credentials(status: int, code: str | None) -> bool:
    """Return whether an answer rejects this gateway's own signature or credentials, not the operation."""
    return status == 401 or code in _OF_CREDENTIALS


def credentials_refused(status: int, headers: Headers, body: bytes) -> AccessDenied:
    """Return the clients' error, in place of the origin's document, which shows key id, token and signed request."""
    code = parse_code(body) or status
    error = AccessDenied(f"the origin refuses this gateway's credentials ({code}); its operator must mend that")
    return blame(error, "refused", parse_refusal(body).said(status), request_id_of(headers))


def _denial(body: bytes) -> str:
    said = parse_message(body)
    return f"the origin refuses: {said}" if said else "the origin refuses"
