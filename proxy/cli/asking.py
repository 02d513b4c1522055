"""One GET of a running gateway, for commands that ask it something."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from proxy.errors import ConfigInvalid

ANSWER_BYTES_MAX = 16 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """A gateway's response; `headers` have lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def ask(url: str, path: str, timeout_s: float, headers: Mapping[str, str] | None = None) -> Answer:
    """Raises ConfigInvalid for an invalid URL, OSError or http.client.HTTPException if nothing answers.

    Certificates are not checked: they name the service, not loopback, and nothing secret is sent.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigInvalid(f"--url: {url!r} is not a URL; write http://host:port")
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=timeout_s, context=context)
    else:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)
    try:
        connection.request("GET", path, headers=dict(headers or {}))
        answer = connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, found, answer.read(ANSWER_BYTES_MAX))
    finally:
        connection.close()
