"""Settings of the buckets: the origin behind a client's bucket, and the rules for serving it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from proxy.config.origins import Text
from proxy.config.quantities import Duration, parse_duration, render_duration
from proxy.config.section import Section

WriteRule = Literal["deny", "through"]


@dataclass(frozen=True, slots=True)
class ConsistencySetting:
    """`kind` is immutable, ttl or strong; `ttl_s` applies to ttl only."""

    kind: Literal["immutable", "ttl", "strong"] = "ttl"
    ttl_s: float = 60.0

    def __str__(self) -> str:
        return f"ttl {render_duration(self.ttl_s)}" if self.kind == "ttl" else self.kind


def parse_consistency(value: object) -> ConsistencySetting:
    """Parse `immutable`, `strong` or `ttl <duration>`. Raises ValueError with the fix."""
    words = value.split() if isinstance(value, str) else []
    match words:
        case ["immutable"]:
            return ConsistencySetting("immutable")
        case ["strong"]:
            return ConsistencySetting("strong")
        case ["ttl", duration]:
            try:
                return ConsistencySetting("ttl", parse_duration(duration))
            except ValueError as error:
                raise ValueError(f"names {duration!r}, which {error}") from None
    if isinstance(value, ConsistencySetting):
        return value
    raise ValueError("is not a consistency rule; write immutable, strong, or ttl and a duration, such as ttl 60s")


ConsistencyRule = Annotated[
    ConsistencySetting,
    BeforeValidator(parse_consistency),
    PlainSerializer(str, return_type=str, when_used="json"),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^(immutable|strong|ttl \d+(\.\d+)?(ms|s|m|h|d))$",
            "examples": ["immutable", "ttl 60s", "strong"],
        }
    ),
]


class BucketSettings(Section):
    """One bucket as clients name it, or `*` for all without a rule of their own."""

    origin: Text
    """The name of one of `origins`."""
    bucket: Text | None = None
    """The bucket's real name at the origin. Default: the name that clients use."""
    consistency: ConsistencyRule = ConsistencySetting()
    """How long an object is served unchecked: `immutable` (forever), `ttl 60s`, `strong` (checked on every read)."""
    stale_if_error: Duration = 0.0
    """How long after its freshness ends an object is still served while the origin is down; 0: not at all."""
    negative_ttl: Duration = 0.0
    """How long "not found" is cached; 0: never, so that a new object is seen at once."""
    writes: WriteRule | None = None
    """`through` or `deny` for this bucket. Default: the top-level `writes`."""
    replicate: bool = True
    """Whether each node of a fleet that reads a block keeps a copy. `false`: only the block's owner does, so that the
    disks together hold more."""
