"""Conditional requests: RFC 9110 section 13.2.2, which is also S3's precedence.

If-Match beats If-Unmodified-Since, If-None-Match beats If-Modified-Since; conditions are decided before the range,
and count together with it. Source: S3 API reference, GetObject, "Considerations when using request headers".
"""

from __future__ import annotations

from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import Enum

from proxy.errors import InvalidRequest

LIST_CHARS_MAX = 8 << 10  # of entity tags; AWS S3 takes no larger header section
_DATE_CHARS_MAX = 64  # the longest of the three forms of an HTTP date has 33


class Verdict(Enum):
    """What the conditions say of the current version."""

    HOLDS = "holds"
    NOT_MODIFIED = "not modified"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class GenerationConditions:
    """GCS's own conditions: numbers that must, or must not, be the object's; None where the client sent none.

    `pin` names the one generation that is asked for at all. `etag_match` and `etag_none_match` are lists of the JSON
    API's entity tags, as in If-Match. Source: Cloud Storage documentation, "Request preconditions".
    """

    pin: int | None = None
    match: int | None = None
    not_match: int | None = None
    meta_match: int | None = None
    meta_not_match: int | None = None
    etag_match: str | None = None
    etag_none_match: str | None = None

    def __post_init__(self) -> None:
        _bound_lists(self.etag_match, self.etag_none_match)

    @property
    def only_news(self) -> bool:
        """Whether the client may have the object already."""
        return (self.not_match, self.meta_not_match, self.etag_none_match) != (None, None, None)

    def evaluate(self, generation: int, metageneration: int, etag: str, json_etag: str) -> Verdict:
        """`etag` is the object's in headers, `json_etag` that in its JSON resource; a list may name either."""
        if self.match not in (None, generation) or self.meta_match not in (None, metageneration):
            return Verdict.FAILED
        if self.etag_match is not None and not _lists_either(self.etag_match, etag, json_etag):
            return Verdict.FAILED
        if self.not_match == generation or self.meta_not_match == metageneration:
            return Verdict.NOT_MODIFIED
        if self.etag_none_match is not None and _lists_either(self.etag_none_match, etag, json_etag):
            return Verdict.NOT_MODIFIED
        return Verdict.HOLDS


@dataclass(frozen=True, slots=True)
class Conditions:
    """The raw values of the conditional headers; None where the client sent none. `generations` are GCS's own.

    Raises InvalidRequest where a list of entity tags is too long to be compared at once, as do GCS's own.
    """

    if_match: str | None = None
    if_none_match: str | None = None
    if_modified_since: str | None = None
    if_unmodified_since: str | None = None
    if_range: str | None = None
    generations: GenerationConditions | None = None

    def __post_init__(self) -> None:
        _bound_lists(self.if_match, self.if_none_match, self.if_range)

    def evaluate(self, etag: str, last_modified_s: float | None) -> Verdict:
        if self.if_match is not None:
            if not _lists(self.if_match, etag, weak=False):
                return Verdict.FAILED
        elif self.if_unmodified_since is not None and _newer(last_modified_s, self.if_unmodified_since):
            return Verdict.FAILED
        if self.if_none_match is not None:
            if _lists(self.if_none_match, etag, weak=True):
                return Verdict.NOT_MODIFIED
        elif self.if_modified_since is not None and not _newer(last_modified_s, self.if_modified_since, default=True):
            return Verdict.NOT_MODIFIED
        return Verdict.HOLDS

    def failed_name(self) -> str:
        """The header that `FAILED` speaks of."""
        if self.if_match is not None:
            return "If-Match"
        return "If-Unmodified-Since" if self.if_unmodified_since is not None else "generation"

    def range_applies(self, etag: str, last_modified_s: float | None) -> bool:
        """Whether If-Range lets the Range count (RFC 9110 section 13.1.5: strong comparison or exact date)."""
        if self.if_range is None:
            return True
        value = self.if_range.strip()
        if value.startswith(('"', "W/")):
            return value == etag and not etag.startswith("W/")
        seconds = parse_http_date(value)
        if seconds is None:  # an ETag without quotes, as some clients send it
            return value == etag.strip('"')
        return last_modified_s is not None and int(last_modified_s) == seconds


def parse_http_date(value: str) -> int | None:
    """Unix seconds of an HTTP date, or None where it is none."""
    if len(value) > _DATE_CHARS_MAX:
        return None
    try:
        return int(parsedate_to_datetime(value).timestamp())
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _bound_lists(*headers: str | None) -> None:
    if any(header is not None and len(header) > LIST_CHARS_MAX for header in headers):
        text = f"A list of entity tags has more than {LIST_CHARS_MAX} characters."
        raise InvalidRequest("RequestHeaderSectionTooLarge", text)


def _newer(last_modified_s: float | None, header: str, *, default: bool = False) -> bool:
    """Whether the object is newer than the header's date; `default` where a date is missing or unreadable."""
    seconds = parse_http_date(header)
    if seconds is None or last_modified_s is None:
        return default
    return int(last_modified_s) > seconds


def _lists_either(header: str, etag: str, json_etag: str) -> bool:
    return _lists(header, etag, weak=True) or _lists(header, json_etag, weak=True)


def _lists(header: str, etag: str, *, weak: bool) -> bool:
    """Whether a list of ETags names this one; `*` names any. Quotes are optional, as S3 takes them."""
    if header.strip() == "*":
        return True
    for item in header.split(","):
        candidate = item.strip()
        if weak:
            candidate, own = candidate.removeprefix("W/"), etag.removeprefix("W/")
        elif candidate.startswith("W/") or etag.startswith("W/"):
            continue
        else:
            own = etag
        if candidate.strip('"') == own.strip('"'):
            return True
    return False
