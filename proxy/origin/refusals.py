"""Error bodies of an origin, in any form: S3's and GCS's XML, GCS's JSON, or a line of text. Pure.

How it works. XML documents have a `<Code>` and a `<Message>`, those of the JSON API a `reason` and a `message`, and
downloads by the JSON API often only a line of text. The other parts of a document must not be shown: S3's answer to
a wrong signature quotes the request that was signed.
"""

from __future__ import annotations

import html
import json
import re
from dataclasses import dataclass

MESSAGE_MAX = 1000
_CODE = re.compile(rb"<Code>\s*([A-Za-z0-9._-]{1,100})\s*</Code>")
_MESSAGE = re.compile(rb"<Message>([^<]{1,1000})</Message>")


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """Reason and message of an error; empty if the body has none."""

    reason: str = ""
    message: str = ""

    def said(self, status: int) -> str:
        """Return status, reason and message in one line."""
        return f"{status} {self.reason}{f': {self.message}' if self.message else ''}".rstrip()


def parse_refusal(body: bytes) -> ErrorBody:
    """Parse JSON, XML or a line of text."""
    if body.lstrip()[:1] == b"{":
        return _parse_json(body)
    code = parse_code(body)
    if code is not None:
        return ErrorBody(code, parse_message(body))
    text = body.decode("utf-8", "replace").strip()
    return ErrorBody("", text[:MESSAGE_MAX] if "<" not in text else "")


def parse_code(body: bytes) -> str | None:
    """Return the `<Code>` of an error document."""
    found = _CODE.search(body)
    return found[1].decode("ascii") if found is not None else None


def parse_message(body: bytes) -> str:
    """Return the `<Message>` of an error document; empty if there is none."""
    found = _MESSAGE.search(body)
    return html.unescape(found[1].decode("utf-8", "replace")) if found is not None else ""


def _parse_json(body: bytes) -> ErrorBody:
    try:
        error = json.loads(body)["error"]
        first: dict[str, object] = next(iter(error.get("errors") or ()), {})
        reason, message = first.get("reason", ""), error.get("message", "")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return ErrorBody()
    return ErrorBody(str(reason)[:100], str(message)[:MESSAGE_MAX])
