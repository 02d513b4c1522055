"""What may be shown of text that can carry a secret: URLs, and the words of an origin. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

MASK = "…"
_HOST = r"(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?"
_HOST_AND_PORT = re.compile(r"[A-Za-z0-9.-]+:\d{1,5}")
_HOSTS = re.compile(rf"{_HOST}(?:,{_HOST})*")
_NAMED = re.compile(r"/[\w.-]*(?:/\d+)?")
_NUMBERED = re.compile(r"/\d*")
_SPACES = re.compile(r"[\x00-\x20\x7f]+")
_SIGNED = re.compile(  # what requests are signed with, as servers quote them back
    r"(?i)\b(Signature|Credential|X-Amz-[A-Za-z-]*Token|X-Goog-[A-Za-z-]*Token|Bearer|AWSAccessKeyId|GoogleAccessId)"
    r"([=: ]+)[^\s&,;<>\"']+"
)


def is_sendable(word: str) -> bool:
    """Whether a header can carry it as one word: printable ASCII without spaces."""
    return all("!" <= character <= "~" for character in word)


def mask_url(url: str) -> str:
    """Scheme, hosts and database of a URL: no user, no password, no query, whatever its author got wrong.

    >>> mask_url("redis://:pass/word@cache:6379/0?password=x")
    'redis://cache:6379/0'
    """
    scheme, separator, rest = url.partition("://")
    if not separator or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        return url if _HOST_AND_PORT.fullmatch(url) else MASK
    place, _, query = rest.partition("?")
    if scheme == "unix" and "@" not in rest:
        return f"unix://{place}"
    if "@" in query:
        return f"{scheme}://{MASK}"  # where the password ends can't be told
    hosts, slash, path = place.rpartition("@")[2].partition("/")
    if rest and _HOSTS.fullmatch(hosts) is None:
        return f"{scheme}://{MASK}"
    shown = _NAMED if scheme.endswith("sentinel") else _NUMBERED
    return f"{scheme}://{hosts}{slash + path if shown.fullmatch(slash + path) else ''}"


def mask_words(text: str, secrets: Iterable[str] = (), *, characters_max: int = 300) -> str:
    """One bounded line of somebody's words, without these secrets and without anything that looks like a signature."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, MASK)
    line = _SPACES.sub(" ", _SIGNED.sub(rf"\1\2{MASK}", text)).strip()
    return line if len(line) <= characters_max else line[: characters_max - 1] + MASK
