"""Errors for failed exchanges and nonsensical answers, each with its `OriginTrouble`.

An error caused by the origin, or by the network between, carries an `OriginTrouble`. One caused by the client (no such
key, a failed condition) carries none. `proxy.origin.incidents` counts and logs them.
"""

from __future__ import annotations

from proxy.errors import OriginUnavailable, VersionChanged, blame
from proxy.http.headers import Headers
from proxy.http.masking import mask_url, mask_words
from proxy.origin.headers import first_value
from proxy.wire.errors import ConnectFailed, ConnectionBroken, MalformedResponse, TimedOut, WireError

REQUEST_IDS = ("x-amz-request-id", "x-guploader-uploadid", "x-goog-request-id", "x-request-id")
REQUEST_ID_MAX = 200
REDIRECTS = frozenset((301, 302, 303, 307, 308))


def request_id_of(headers: Headers) -> str:
    """Return the origin's id of the request, from the answer's headers; empty if there is none."""
    found = (first_value(headers, name) for name in REQUEST_IDS)
    return next((value for value in found if value), "")[:REQUEST_ID_MAX]


def mismatch(what: str, headers: Headers = ()) -> OriginUnavailable:
    """Return the error for an answer that can't belong to this request; `headers` are the answer's."""
    error = OriginUnavailable(f"mislabelled: the origin sent {what}")
    return blame(error, "mismatch", request_id=request_id_of(headers))


def changed(origin: str, key: str, what: str) -> VersionChanged:
    """Return the error for another version than the requested one, which is not the origin's fault."""
    return VersionChanged(f"{origin} holds another version of {key!r}: {what}")


def short_body(received_bytes: int, expected_bytes: int, headers: Headers = ()) -> OriginUnavailable:
    error = OriginUnavailable(f"the origin sent {received_bytes} of {expected_bytes} bytes")
    return blame(error, "short", request_id=request_id_of(headers))


def looped(headers: Headers) -> OriginUnavailable:
    """Return the error for a request that came back to a gateway that it had already passed."""
    error = OriginUnavailable("its endpoint leads back to this gateway", lasting=True)
    return blame(error, "loop", request_id=request_id_of(headers))


def redirect_refused(status: int, headers: Headers) -> OriginUnavailable:
    """Return the error for a redirect out of the origin, or to nowhere. It names region and host, never a query."""
    region, location = first_value(headers, "x-amz-bucket-region"), first_value(headers, "location")
    said = f"the origin answered {status}"
    if region is not None:
        said += f": the bucket is in the region {mask_words(region, characters_max=64)}; set the origin's region to it"
    if location is not None and "://" in location:
        said += f"; it redirects to {mask_url(location)}, which is not followed"
    return blame(OriginUnavailable(said, lasting=True), "redirect", request_id=request_id_of(headers))


def unreachable(reason: str, words: str, *, silent: bool = False) -> OriginUnavailable:
    """Return the error for a failed exchange. `reason` is the metric's label; `silent`: no bytes came in time."""
    if "WRONG_VERSION_NUMBER" in words or "UNEXPECTED_EOF" in words or "RECORD_LAYER_FAILURE" in words:
        words += " (the server does not speak TLS there; is its endpoint http://?)"
    return blame(OriginUnavailable(f"{reason}: {words}", silent=silent), reason)


def from_wire(error: WireError) -> OriginUnavailable:
    """Translate an error of the range client into one of ours."""
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
    return unreachable(reason, str(error), silent=reason == "timeout")
