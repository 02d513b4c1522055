"""The one family of errors, named by what the caller can do about them.

They carry data, never status codes: each surface has one table from error to wire. Exceptions of foreign
libraries become one of these at the border of the client that met them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

Failure = TypeVar("Failure", bound=BaseException)


def fresh(error: Failure) -> Failure:
    """Return a copy of an error to be raised in its place, without its traceback, cause and context.

    Whoever keeps an error and raises it again gathers the frames of all who got it, and what their variables hold.
    """
    copy = type(error).__new__(type(error), *error.args)
    copy.__dict__.update(error.__dict__)
    return copy


@dataclass(frozen=True, slots=True)
class OriginTrouble:
    """Why an origin failed a request, for counters and logs; see `proxy.origin.trouble`.

    `reason` is the counter's word. `said` is what the origin said, and `request_id` how the origin calls the request.
    """

    reason: str
    said: str = ""
    request_id: str = ""


class WarmstartError(Exception):
    """Root of the family; `str()` is a sentence that may be shown to a user."""

    trouble: OriginTrouble | None = None  # where an origin failed, or the way to it


Error = TypeVar("Error", bound=WarmstartError)


def blame(error: Error, reason: str, said: str = "", request_id: str = "") -> Error:
    """The same error, with the trouble at the origin that it stands for."""
    error.trouble = OriginTrouble(reason, said, request_id)
    return error


class NotFound(WarmstartError):
    """The bucket, key or version does not exist at the origin.

    Not `certain`: a key is missing, or its bucket is; the origin did not say which. `checked_at_s`: when it said so
    (Unix time), where that was not for this very request.
    """

    def __init__(self, what: str, name: str, *, certain: bool = True, checked_at_s: float | None = None) -> None:
        super().__init__(f"{what} {name!r} does not exist")
        self.what = what  # "bucket" | "key" | "version"
        self.name = name
        self.certain = certain
        self.checked_at_s = checked_at_s


class AccessDenied(WarmstartError):
    """The origin, or a rule of this gateway, refuses the request; the message says which."""


class RangeNotSatisfiable(WarmstartError):
    """The range starts at or beyond the object's end."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(f"the range lies outside of the object's {size_bytes} bytes")
        self.size_bytes = size_bytes


class PreconditionFailed(WarmstartError):
    """A condition of the client's own does not hold."""

    def __init__(self, condition: str) -> None:
        super().__init__(f"the condition {condition} does not hold")
        self.condition = condition


class OtherGeneration(PreconditionFailed):
    """The object has another generation than the one that was asked for."""


class InvalidRequest(WarmstartError):
    """The request makes no sense; `code` is a neutral word that the surface's table translates."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class NotSupported(WarmstartError):
    """The operation does not exist for this origin; no retry will help."""


class VersionChanged(WarmstartError):
    """The origin holds another version than the one asked for: resolve the key again."""


class OriginUnavailable(WarmstartError):
    """The origin can't be reached, throttles, or broke off; a retry may help.

    `retry_after_s` is what the origin asked for, or None. `throttled` tells 429/503 from a broken link; `silent` that
    the connection went silent and was abandoned. `lasting`: no retry of this read will help, somebody must mend
    something. `heard`: the origin's throttle knows of it, so that one refusal counts once.
    """

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float | None = None,
        throttled: bool = False,
        silent: bool = False,
        lasting: bool = False,
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.throttled = throttled
        self.silent = silent
        self.lasting = lasting
        self.heard = False


class BytesWrong(WarmstartError):
    """Bytes that another node gave failed their checksum, and are gone: what was sent of them can't be taken back.

    Whoever has sent none of them asks for the block again.
    """


class OriginRefused(WarmstartError):
    """The origin answered with a final error of its own; its status, headers and body are kept for the client.

    Where its body can't be shown to a client of another dialect, `body` is empty and `said` the sentence in it.
    """

    def __init__(self, status: int, headers: tuple[tuple[str, str], ...], body: bytes, said: str = "") -> None:
        super().__init__(f"the origin answered {status}: {said}" if said else f"the origin answered {status}")
        self.status = status
        self.headers = headers
        self.body = body


class Overloaded(WarmstartError):
    """The gateway itself has no room now; come back after `retry_after_s`."""

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StoreUnavailable(WarmstartError):
    """The disk is full or broken: read on without the cache, in memory."""


class StoreFull(StoreUnavailable):
    """The disk is full, and eviction is making room: worth a short wait."""


class ConfigInvalid(WarmstartError):
    """The configuration can't be used; the message names the key, the value and the fix."""
