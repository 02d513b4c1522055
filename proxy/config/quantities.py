"""Sizes, durations, shares and addresses as people write them, and the numbers they mean.

In the settings a `Size` is a number of bytes, a `Duration` a number of seconds and a `Share` lies between 0 and 1.
A unit is never guessed: `20G` is ambiguous and refused.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, WithJsonSchema

from proxy.http.dialects import DialectName

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

_SIZE_UNITS = {"b": 1}
for _power, _letter in enumerate("kmgtp", 1):
    _SIZE_UNITS |= {f"{_letter}b": 1000**_power, f"{_letter}ib": 1024**_power, f"{_letter}i": 1024**_power}
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

_SIZE_PATTERN = r"^\s*\d+(\.\d+)?\s*([kKmMgGtTpP]?[bB]|[kKmMgGtTpP][iI][bB]?)\s*$"
_DURATION_PATTERN = r"^\s*\d+(\.\d+)?\s*(ms|s|m|h|d)\s*$"
_RATE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kKmMgGtTpP]?)(bit|iB|B|b|)\s*(/\s*s|ps)?\s*", re.ASCII)
_NUMBER = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", re.ASCII)


def parse_size(value: object) -> int:
    """Return the bytes in `8MiB`, `500MB`, `20Gi` or a bare whole number. Raises ValueError with the fix."""
    if isinstance(value, int) and not isinstance(value, bool):
        return _not_negative(value)
    match = _NUMBER.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("is not a size; write a number and its unit, such as 8MiB, 20GiB or 500MB")
    number, unit = match[1], match[2].lower()
    if unit in tuple("kmgtp"):
        letter = unit.upper()
        raise ValueError(
            f"is ambiguous; write {number}{letter}iB (powers of 1024) or {number}{letter}B (powers of 1000)"
        )
    if unit and unit not in _SIZE_UNITS:
        raise ValueError(f"has the unknown unit {match[2]!r}; write KiB, MiB, GiB, TiB, or KB, MB, GB, TB")
    size = float(number) * _SIZE_UNITS[unit or "b"] if "." in number else int(number) * _SIZE_UNITS[unit or "b"]
    if size != int(size):
        raise ValueError("is not a whole number of bytes; use a smaller unit")
    return int(size)


def render_size(size_bytes: int) -> str:
    """Return the shortest exact way to write a size.

    >>> render_size(8 << 20), render_size(500_000_000), render_size(7)
    ('8MiB', '500MB', '7B')
    """
    units = [(factor, unit) for unit, factor in _SIZE_UNITS.items() if unit.endswith("b") and size_bytes % factor == 0]
    factor, unit = max(units) if size_bytes else (1, "b")
    return f"{size_bytes // factor}{unit.upper().replace('I', 'i')}"


def parse_rate(value: object) -> float:
    """Return the bytes per second in `100Gbit`, `25Gbit/s`, `25Gbps` or `2GB/s`. Raises ValueError with the fix."""
    fix = "write a number and its unit, such as 25Gbit or 3GB/s"
    match = _RATE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"is not a rate; {fix}")
    letter, unit = match[2].lower(), match[3]
    if unit == "B" or (unit == "iB" and letter):
        rate = float(match[1]) * _SIZE_UNITS[f"{letter}{unit.lower()}"]
    elif unit == "bit" or (unit == "b" and match[4] == "ps"):
        rate = float(match[1]) * 1000 ** " kmgtp".index(letter or " ") / 8
    else:
        raise ValueError(f"is ambiguous: bits or bytes? {fix}")
    if rate == 0:
        raise ValueError(f"is zero; {fix}")
    return rate


def parse_duration(value: object) -> float:
    """Return the seconds in `60s`, `5m`, `500ms`, `1h`, `2d`, or 0. Raises ValueError with the fix."""
    if value in (0, "0") and not isinstance(value, bool):
        return 0.0
    match = _NUMBER.fullmatch(value) if isinstance(value, str) else None
    if (isinstance(value, int | float) and not isinstance(value, bool)) or (match and not match[2]):
        raise ValueError(f"has no unit; write {str(value).strip()}s, or use ms, m, h or d")
    if match is None or match[2] not in _DURATION_UNITS:
        raise ValueError("is not a duration; write a number and its unit, such as 500ms, 60s, 5m, 1h or 2d")
    return float(match[1]) * _DURATION_UNITS[match[2]]


def render_duration(duration_s: float) -> str:
    """Write a duration in the largest unit that gives a whole number above one.

    >>> render_duration(60), render_duration(1.5), render_duration(0), render_duration(300)
    ('60s', '1500ms', '0s', '5m')
    """
    for unit, factor in sorted(_DURATION_UNITS.items(), key=lambda pair: -pair[1]):
        if duration_s / factor == int(duration_s / factor) and (duration_s / factor > 1 or duration_s == 1):
            return f"{int(duration_s / factor)}{unit}"
    return f"{duration_s:f}".rstrip("0").rstrip(".") + "s"


def parse_share(value: object) -> float:
    """Return the fraction that `95%` or `0.95` means. Raises ValueError with the fix."""
    text = value.strip() if isinstance(value, str) else value
    try:
        if isinstance(text, bool) or not isinstance(text, str | int | float):
            raise ValueError
        share = float(text[:-1]) / 100 if isinstance(text, str) and text.endswith("%") else float(text)
    except ValueError:
        raise ValueError("is not a share; write a percentage such as 95%, or a fraction such as 0.95") from None
    if not 0 < share <= 1:
        raise ValueError("is not between 0% and 100%; write a percentage such as 95%")
    return share


def render_share(share: float) -> str:
    """Write a share as a percentage.

    >>> render_share(0.95), render_share(0.1), render_share(0.005)
    ('95%', '10%', '0.5%')
    """
    return f"{100 * share:g}%"


@dataclass(frozen=True, slots=True)
class Address:
    """A listen address. Port 0 takes a free one. `dialect` is the only one spoken there, None: both are."""

    host: str
    port: int
    dialect: DialectName | None = None

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """True when only this machine can connect: an address of 127.0.0.0/8 or ::1, or the name localhost."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_address(value: object) -> Address:
    """Parse `host:port` or `[IPv6]:port`. Raises ValueError with the fix."""
    if isinstance(value, Address):
        return value
    fix = "is not an address; write host:port, such as 127.0.0.1:9000, [::1]:9000 or 0.0.0.0:9000"
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):(\d{1,5})", str(value).strip(), re.ASCII)
    if match is None or not isinstance(value, str):
        raise ValueError(fix)
    host, port = match[1] or match[2], int(match[3])
    if match[1]:
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError(fix) from None
    if port > 65535:
        raise ValueError("has a port above 65535; choose one from 1 to 65535, or 0 for a free one")
    return Address(host, port)


@dataclass(frozen=True, slots=True)
class HostSuffix:
    """A host whose sub-domains are buckets. `dialect` is the only one spoken there, None: both are."""

    name: str
    dialect: DialectName | None = None

    def __str__(self) -> str:
        return self.name


def parse_host_suffix(value: object) -> HostSuffix:
    """Parse `s3.cluster.local`, with or without a leading dot. Raises ValueError with the fix."""
    if isinstance(value, HostSuffix):
        return value
    name = value.lower().lstrip(".") if isinstance(value, str) else ""
    if re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", name) is None:
        raise ValueError("is not a host name; write the part after the bucket's name, such as s3.cluster.local")
    return HostSuffix(name)


def by_dialect(parse: Callable[[object], Any]) -> Callable[[object], object]:
    """Return a parser that turns `{s3: a, gcs: [b, c]}` into values with a dialect and leaves the rest unchanged."""

    def flatten(value: object) -> object:
        if not isinstance(value, dict):
            return value
        if not value or not value.keys() <= {"s3", "gcs"}:
            raise ValueError("is not a mapping of dialects; write {s3: …, gcs: …}, or a list for both dialects")
        return [
            replace(parse(item), dialect=dialect)
            for dialect, items in value.items()
            for item in (items if isinstance(items, list | tuple) else [items])
        ]

    return flatten


def _not_negative(value: int) -> int:
    if value < 0:
        raise ValueError("is negative; write a size such as 8MiB")
    return value


def _text(render: Callable[[Any], str]) -> PlainSerializer:
    return PlainSerializer(render, return_type=str, when_used="json")


def expand_home(path: Path) -> Path:
    """Replace `~` by the home directory. Raises ValueError with the fix if there is none."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError("begins with ~, but there is no such home directory; write the full path") from None


Size = Annotated[
    int,
    BeforeValidator(parse_size),
    _text(render_size),
    WithJsonSchema({"anyOf": [{"type": "string", "pattern": _SIZE_PATTERN}, {"type": "integer", "minimum": 0}]}),
]
Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    _text(render_duration),
    WithJsonSchema({"anyOf": [{"type": "string", "pattern": _DURATION_PATTERN}, {"const": 0}], "examples": ["60s"]}),
]
Share = Annotated[
    float,
    BeforeValidator(parse_share),
    _text(render_share),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": r"^\d+(\.\d+)?%$"},
                {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
            ]
        }
    ),
]
ListenAddress = Annotated[
    Address,
    BeforeValidator(parse_address),
    _text(str),
    WithJsonSchema({"type": "string", "pattern": r"^.+:\d{1,5}$", "examples": ["127.0.0.1:9000", "[::1]:9000"]}),
]
Suffix = Annotated[HostSuffix, BeforeValidator(parse_host_suffix), _text(str), WithJsonSchema({"type": "string"})]
LocalPath = Annotated[Path, AfterValidator(expand_home)]
