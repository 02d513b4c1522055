"""The address of a server: host, port, and whether it speaks TLS."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server's endpoint. `host` is a name or an address, IPv6 without brackets."""

    host: str
    port: int
    tls: bool = False

    def __post_init__(self) -> None:
        if not self.host or any(character in self.host for character in "[]/@ \r\n"):
            raise ValueError(f"not a host: {self.host!r}")
        if not 0 < self.port < 65536:
            raise ValueError(f"not a port: {self.port}")

    @classmethod
    def parse(cls, url: str) -> Endpoint:
        """Parse `http://host`, `https://[::1]:9000/` and the like. Raises ValueError for anything else.

        >>> Endpoint.parse("https://[::1]:9000").authority
        '[::1]:9000'
        """
        parts = urlsplit(url)
        if parts.scheme not in _DEFAULT_PORTS:
            raise ValueError(f"{url!r} starts with neither http:// nor https://")
        if parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
            raise ValueError(f"{url!r} has more than scheme, host and port")
        port = _DEFAULT_PORTS[parts.scheme] if parts.port is None else parts.port
        return cls(parts.hostname or "", port, parts.scheme == "https")

    @property
    def authority(self) -> str:
        """The value of `Host`: the default port is left out, as signers do."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = _DEFAULT_PORTS["https" if self.tls else "http"]
        return host if self.port == default else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.authority}"
