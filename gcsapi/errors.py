"""From the one error family to GCS's errors: one table, two documents. Pure.

How it works. Each error has a status, the JSON API's reason and the XML API's code. The API that was asked decides
which document is written: `{"error": {"code", "message", "errors": [{"reason", ...}]}}`, or `<Error>` with `Code`,
`Message` and `Details`. What the origin itself refused keeps its status and its sentence. A HEAD gets only status and
headers.
Source: Cloud Storage documentation, "HTTP status and error codes for JSON" and "... for XML".
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from gcsapi.requests import Api
from gcsapi.responses import JSON_TYPE, XML_TYPE
from proxy.errors import (
    AccessDenied,
    InvalidRequest,
    NotFound,
    NotSupported,
    OriginRefused,
    OriginTrouble,
    OriginUnavailable,
    OtherGeneration,
    Overloaded,
    PreconditionFailed,
    RangeNotSatisfiable,
    StoreUnavailable,
    VersionChanged,
)
from proxy.http.trail import LOOP_STATUS
from proxy.http.xml import document, element
from proxy.surface.heads import Headers, Reply

_INVALID = {  # codes of InvalidRequest that have more to say than 400: status, reason, XML code
    "InvalidBucketName": (400, "invalid", "InvalidBucketName"),
    "InvalidPartNumber": (400, "invalid", "InvalidArgument"),
    "InvalidURI": (400, "invalid", "InvalidURI"),
    "KeyTooLongError": (400, "invalid", "KeyTooLongError"),
    "MaxMessageLengthExceeded": (413, "uploadTooLarge", "EntityTooLarge"),
    "MethodNotAllowed": (405, "methodNotAllowed", "MethodNotAllowed"),
    "MissingContentLength": (411, "required", "MissingContentLength"),
    "RequestTimeout": (408, "requestTimeout", "RequestTimeout"),
    "invalidAltValue": (400, "invalidAltValue", "InvalidArgument"),
    "invalidParameter": (400, "invalidParameter", "InvalidArgument"),
    "parseError": (400, "parseError", "MalformedXML"),
    "required": (400, "required", "InvalidArgument"),
}
_OF_STATUS = {  # reason and XML code of what an origin refused
    400: ("invalid", "InvalidArgument"),
    401: ("required", "AuthenticationRequired"),
    403: ("forbidden", "AccessDenied"),
    404: ("notFound", "NoSuchKey"),
    405: ("methodNotAllowed", "MethodNotAllowed"),
    409: ("conflict", "Conflict"),
    410: ("gone", "Gone"),
    411: ("required", "MissingContentLength"),
    412: ("conditionNotMet", "PreconditionFailed"),
    413: ("uploadTooLarge", "EntityTooLarge"),
    416: ("requestedRangeNotSatisfiable", "InvalidRange"),
    429: ("rateLimitExceeded", "SlowDown"),
    501: ("notImplemented", "NotImplemented"),
}


@dataclass(frozen=True, slots=True)
class Asked:
    """What of the request its error document names. `resource` is `bucket` or `bucket/name`."""

    method: str
    api: Api
    resource: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """One row of the table, filled in. `details` is the XML document's."""

    status: int
    reason: str
    code: str
    message: str
    details: str = ""
    headers: Headers = ()


def render_error(error: Exception, asked: Asked) -> Reply:
    """Any exception; one that is not of our family is an internal error, which says nothing of itself."""
    fault = describe(error, asked)
    json_api = asked.api is Api.JSON
    headers = (("content-type", JSON_TYPE if json_api else XML_TYPE), *fault.headers)
    if asked.method == "HEAD":
        return Reply(fault.status, headers)
    return Reply(
        fault.status,
        headers,
        render_json_error(fault.status, fault.reason, fault.message) if json_api else _xml_document(fault),
    )


def describe(error: Exception, asked: Asked) -> Fault:
    """The table."""
    match error:
        case NotFound(what="bucket"):
            return Fault(404, "notFound", "NoSuchBucket", "The specified bucket does not exist.")
        case NotFound() | OtherGeneration():
            return _missing(asked)
        case AccessDenied():
            return Fault(403, "forbidden", "AccessDenied", str(error) or "Access denied.", str(error))
        case RangeNotSatisfiable():
            headers = (("content-range", f"bytes */{error.size_bytes}"),)
            text = "The requested range cannot be satisfied."
            return Fault(416, "requestedRangeNotSatisfiable", "InvalidRange", text, headers=headers)
        case PreconditionFailed():
            text = "At least one of the pre-conditions you specified did not hold."
            return Fault(412, "conditionNotMet", "PreconditionFailed", text)
        case InvalidRequest():
            status, reason, code = _INVALID.get(error.code, (400, "invalid", "InvalidArgument"))
            return Fault(status, reason, code, str(error))
        case NotSupported():
            return Fault(501, "notImplemented", "NotImplemented", str(error))
        case OriginRefused():
            return _refused(error)
        case _:
            return _describe_trouble(error)


def _missing(asked: Asked) -> Fault:
    said = f"No such object: {asked.resource}"
    json_api = asked.api is Api.JSON
    return Fault(404, "notFound", "NoSuchKey", said if json_api else "The specified key does not exist.", said)


def _refused(error: OriginRefused) -> Fault:
    usual = ("backendError", "InternalError") if error.status >= 500 else ("invalid", "InvalidArgument")
    reason, code = _OF_STATUS.get(error.status, usual)
    return Fault(error.status, reason, code, f"T{str(error)[1:]}.")


def _describe_trouble(error: Exception) -> Fault:
    """What may pass by itself is a 503, which every client retries."""
    match error:
        case Overloaded():
            return _unavailable(str(error), error.retry_after_s)
        case OriginUnavailable(trouble=OriginTrouble(reason="loop")):
            return Fault(LOOP_STATUS, "backendError", "LoopDetected", f"The origin can't be asked: {error}")
        case OriginUnavailable():
            wait_s = error.retry_after_s if error.retry_after_s is not None else 1.0 if error.throttled else None
            return _unavailable(f"The origin is unavailable: {error}", wait_s)
        case VersionChanged():
            return _unavailable("The object changed while it was read; try again.", None)
        case StoreUnavailable():
            return _unavailable(str(error), None)
        case _:
            text = "We encountered an internal error. Please try again."
            return Fault(500, "internalError", "InternalError", text)


def _unavailable(text: str, wait_s: float | None) -> Fault:
    headers = () if wait_s is None else (("retry-after", str(max(1, math.ceil(wait_s)))),)
    return Fault(503, "backendError", "ServiceUnavailable", text, headers=headers)


def render_json_error(status: int, reason: str, message: str) -> bytes:
    """The JSON API's document."""
    first = {"message": message, "domain": "global", "reason": reason}
    error = {"code": status, "message": message, "errors": [first]}
    return json.dumps({"error": error}, indent=2).encode() + b"\n"


def _xml_document(fault: Fault) -> bytes:
    content = element("Code", fault.code) + element("Message", fault.message)
    return document("Error", content + (element("Details", fault.details) if fault.details else ""))
