"""Headers that count for one connection only, in requests and in answers; and headers by name. Pure.

Source: RFC 9110 section 7.6.1.
"""

from __future__ import annotations

Headers = tuple[tuple[str, str], ...]

HOP_BY_HOP = frozenset(
    [
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ]
)
HOPS = "x-warmstart-hops"  # of gateways among themselves, see `proxy.http.trail`
FRAMING = frozenset(["content-length", "expect", "host"])  # of one request: whoever sends it on gives its own


def connection_headers(headers: Headers) -> frozenset[str]:
    """The names that count for one hop only: the usual ones and those that `Connection` lists."""
    listed = [value for name, value in headers if name == "connection"]
    if not listed:
        return HOP_BY_HOP
    return HOP_BY_HOP | {item.strip().lower() for value in listed for item in value.split(",")}


def end_to_end(headers: Headers) -> Headers:
    """All but the hop-by-hop headers."""
    named = connection_headers(headers)
    return tuple((name, value) for name, value in headers if name not in named)


def join_fields(headers: Headers) -> dict[str, str]:
    """Values by name; repeated ones joined by commas (RFC 9110 section 5.3), each copied once."""
    fields: dict[str, str] = {}
    repeated: dict[str, list[str]] = {}
    for name, value in headers:
        if name in fields:
            repeated.setdefault(name, [fields[name]]).append(value)
        else:
            fields[name] = value
    for name, values in repeated.items():
        fields[name] = ", ".join(values)
    return fields
