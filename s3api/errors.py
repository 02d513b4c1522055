"""From the one error family to S3's errors: one table, one document. Pure.

How it works. Each error has a status, S3's code, and the extra elements that S3 gives with it. What the origin itself
refused keeps its status, headers and body; where that body was lost (the question was a HEAD), the document is made
from its status. A HEAD gets status and headers only.
Source: Amazon S3 API Reference, "Error Responses".
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from proxy.errors import (
    AccessDenied,
    InvalidRequest,
    NotFound,
    NotSupported,
    OriginRefused,
    OriginTrouble,
    OriginUnavailable,
    Overloaded,
    PreconditionFailed,
    RangeNotSatisfiable,
    StoreUnavailable,
    VersionChanged,
)
from proxy.http.trail import LOOP_STATUS
from proxy.surface.heads import Headers, Reply, render_passed
from s3api.xml import document, element

_MISSING = {
    "bucket": ("NoSuchBucket", "The specified bucket does not exist", "BucketName"),
    "key": ("NoSuchKey", "The specified key does not exist.", "Key"),
    "version": ("NoSuchVersion", "The specified version does not exist.", "Key"),
}
_INVALID_STATUS = {  # codes of InvalidRequest whose status is not 400
    "InvalidPartNumber": 416,
    "MaxMessageLengthExceeded": 400,
    "MethodNotAllowed": 405,
    "MissingContentLength": 411,
}
_CODE_OF_STATUS = {  # for an origin's answer that had no body
    301: "PermanentRedirect",
    400: "BadRequest",
    401: "AccessDenied",
    403: "AccessDenied",
    404: "NoSuchKey",
    405: "MethodNotAllowed",
    409: "OperationAborted",
    411: "MissingContentLength",
    412: "PreconditionFailed",
    416: "InvalidRange",
    501: "NotImplemented",
}
_NOT_OF_AN_ERROR = frozenset({"content-encoding", "content-length", "content-type", "etag", "location"})


@dataclass(frozen=True, slots=True)
class Asked:
    """What of the request its error document names. `resource` is the path as sent."""

    method: str
    resource: str
    request_id: str
    range_header: str | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """One row of the table, filled in."""

    status: int
    code: str
    message: str
    details: tuple[tuple[str, str], ...] = ()
    headers: Headers = ()


def render_error(error: Exception, asked: Asked) -> Reply:
    """Any exception; one that is not of our family is an InternalError, which says nothing of itself."""
    if isinstance(error, OriginRefused):
        return _render_refused(error, asked)
    return _render_fault(describe(error, asked), asked)


def describe(error: Exception, asked: Asked) -> Fault:
    """The table."""
    match error:
        case NotFound():
            code, message, element_name = _MISSING.get(error.what, _MISSING["key"])
            return Fault(404, code, message, ((element_name, error.name),))
        case AccessDenied():
            return Fault(403, "AccessDenied", str(error) or "Access Denied")
        case RangeNotSatisfiable():
            details = (("RangeRequested", asked.range_header or ""), ("ActualObjectSize", str(error.size_bytes)))
            headers = (("content-range", f"bytes */{error.size_bytes}"),)
            return Fault(416, "InvalidRange", "The requested range is not satisfiable", details, headers)
        case PreconditionFailed():
            message = "At least one of the pre-conditions you specified did not hold"
            return Fault(412, "PreconditionFailed", message, (("Condition", error.condition),))
        case InvalidRequest():
            return Fault(_INVALID_STATUS.get(error.code, 400), error.code, str(error))
        case NotSupported():
            return Fault(501, "NotImplemented", str(error))
        case _:
            return _describe_trouble(error)


def _describe_trouble(error: Exception) -> Fault:
    """What may pass by itself is a 503, which every SDK retries; SlowDown makes it wait longer."""
    match error:
        case Overloaded():
            return Fault(503, "SlowDown", str(error), headers=_retry_after(error.retry_after_s))
        case OriginUnavailable(trouble=OriginTrouble(reason="loop")):
            return Fault(LOOP_STATUS, "LoopDetected", f"The origin can't be asked: {error}")
        case OriginUnavailable():
            code = "SlowDown" if error.throttled else "ServiceUnavailable"
            wait_s = error.retry_after_s if error.retry_after_s is not None else 1.0 if error.throttled else None
            return Fault(503, code, f"The origin is unavailable: {error}", headers=_retry_after(wait_s))
        case VersionChanged():
            return Fault(503, "ServiceUnavailable", "The object changed while it was read; try again.")
        case StoreUnavailable():
            return Fault(503, "ServiceUnavailable", str(error))
        case _:
            return Fault(500, "InternalError", "We encountered an internal error. Please try again.")


def _retry_after(wait_s: float | None) -> Headers:
    return () if wait_s is None else (("retry-after", str(max(1, math.ceil(wait_s)))),)


def _render_fault(fault: Fault, asked: Asked) -> Reply:
    headers = (("content-type", "application/xml"), *fault.headers)
    if asked.method == "HEAD":
        return Reply(fault.status, headers)
    return Reply(fault.status, headers, _document(fault.code, fault.message, fault.details, asked))


def _render_refused(error: OriginRefused, asked: Asked) -> Reply:
    headers = render_passed(error.status, error.headers)
    if error.body and asked.method != "HEAD":
        return Reply(error.status, tuple(pair for pair in headers if pair[0] != "content-length"), error.body)
    code = _CODE_OF_STATUS.get(error.status, "InternalError" if error.status >= 500 else "InvalidRequest")
    kept = tuple(pair for pair in headers if pair[0] not in _NOT_OF_AN_ERROR)
    fault = Fault(error.status, code, f"T{str(error)[1:]}.", headers=kept)
    return _render_fault(fault, asked)


def _document(code: str, message: str, details: Iterable[tuple[str, str]], asked: Asked) -> bytes:
    content = [element("Code", code), element("Message", message)]
    content += [element(name, value) for name, value in details]
    content += [element("Resource", asked.resource), element("RequestId", asked.request_id)]
    return document("Error", "".join(content), namespace=None)
