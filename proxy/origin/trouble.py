"""From a failed exchange, or an answer that can't be right, to the error family, with the trouble that it stands for.

Whatever an origin raises through its own fault, or that of the way to it, carries an `OriginTrouble`; a client's fault
(no such key, a condition that failed) carries none. `proxy.origin.incidents` counts and logs them.
"""

from __future__ import annotations

from proxy.errors import OriginUnavailable, VersionChanged, blame
from proxy.hops import Headers
from proxy.masking import mask_url, mask_words
from proxy.origin.headers import first_value
from proxy.wire.errors import ConnectFailed, ConnectionBroken, MalformedResponse, TimedOut, WireError

REQUEST_IDS = ("x-amz-request-id", "x-guploader-uploadid", "x-goog-request-id", "x-request-id")
REQUEST_ID_MAX = 200
REDIRECTS = frozenset((301, 302, 303, 307, 308))


def request_id_of(headers: Headers) -> str:
    """How the origin calls the request that it answered so; empty where it does not say."""
    found = (first_value(headers, name) for name in REQUEST_IDS)
    return next((value for value in found if value), "")[:REQUEST_ID_MAX]


def mismatch(what: str, headers: Headers = ()) -> OriginUnavailable:
    """An answer that can't be the one to this request; `headers` are the answer's."""
    error = OriginUnavailable(f"mislabelled: the origin sent {what}")
    return blame(error, "mismatch", request_id=request_id_of(headers))


def changed(origin: str, key: str, what: str) -> VersionChanged:
    """Another version than the one asked for, which is no trouble of the origin's."""
    return VersionChanged(f"{origin} holds another version of {key!r}: {what}")


def short_body(received_bytes: int, expected_bytes: int, headers: Headers = ()) -> OriginUnavailable:
    error = OriginUnavailable(f"the origin sent {received_bytes} of {expected_bytes} bytes")
    return blame(error, "short", request_id=request_id_of(headers))


def looped(headers: Headers) -> OriginUnavailable:
    """The request came back to a gateway that it had come through."""
    error = OriginUnavailable("its endpoint leads back to this gateway", lasting=True)
    return blame(error, "loop", request_id=request_id_of(headers))


def redirect_refused(status: int, headers: Headers) -> OriginUnavailable:
    """A redirect that leads out of the origin, or nowhere. The message names region and host, never a query."""
    region, location = first_value(headers, "x-amz-bucket-region"), first_value(headers, "location")
    said = f"the origin answered {status}"
    if region is not None:
        said += f": the bucket is in the region {mask_words(region, characters_max=64)}; set the origin's region to it"
    if location is not None and "://" in location:
        said += f"; it redirects to {mask_url(location)}, which is not followed"
    return blame(OriginUnavailable(said, lasting=True), "redirect", request_id=request_id_of(headers))


def unreachable(reason: str, words: str, *, silent: bool = False) -> OriginUnavailable:
    """An exchange that failed; `reason` is the counter's word for it. `silent`: it waited for bytes in vain."""
    if "WRONG_VERSION_NUMBER" in words or "UNEXPECTED_EOF" in words or "RECORD_LAYER_FAILURE" in words:
        words += " (the server does not speak TLS there; is its endpoint http://?)"
    return blame(OriginUnavailable(f"{reason}: {words}", silent=silent), reason)


def from_wire(error: WireError) -> OriginUnavailable:
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
    return unreachable(reason, str(error), silent=reason == "timeout")
