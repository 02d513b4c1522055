"""What nodes ask each other, as queries and JSON. Pure; both ends use these, so they agree.

`Ask` goes to an owner's control port: whom shall I read this block from? `WantedBlock` and `WantedRecord` go to a data
port. Names and validators travel percent-encoded, as UTF-8 with surrogates let through: keys may hold any byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote

from proxy.objects import ObjectKey, ObjectVersion, SumKind

ASK_PATH = "/-/peer/ask"
BLOCK_PATH = "/-/peer/block"
RECORD_PATH = "/-/peer/record"
HELLO_PATH = "/-/peer/hello"


@dataclass(frozen=True, slots=True)
class Ask:
    """`digest` and `index` name the block, `level` the tree; `uploads`: how many the asker serves now.

    `tried`: sources that have failed it. A node that says `slow` becomes nobody's source.
    """

    digest: bytes
    index: int
    level: int
    uploads: int = 0
    slow: bool = False
    tried: tuple[str, ...] = ()

    def target(self) -> bytes:
        fields = {
            "digest": self.digest.hex(),
            "index": str(self.index),
            "level": str(self.level),
            "uploads": str(self.uploads),
            "slow": "1" if self.slow else "0",
            "tried": ",".join(self.tried),
        }
        return _target(ASK_PATH, fields)

    @classmethod
    def parse(cls, query: Mapping[str, str]) -> Ask:
        """Raises ValueError."""
        digest = bytes.fromhex(_text(query, "digest"))
        if len(digest) != 32:
            raise ValueError("a digest has 32 bytes")
        tried = tuple(name for name in query.get("tried", "").split(",") if name)
        index, level, uploads = (_number(query, name) for name in ("index", "level", "uploads"))
        return cls(digest, index, level, uploads, query.get("slow") == "1", tried)


@dataclass(frozen=True, slots=True)
class NamedSource:
    """An owner's answer: read from `source`, within this fill. `source` None: nobody is left to name."""

    source: str | None
    fill_id: int = 0

    def render(self) -> dict[str, Any]:
        return {"source": self.source, "fill": f"{self.fill_id:x}"}

    @classmethod
    def parse(cls, values: Any) -> NamedSource:
        """Raises ValueError."""
        try:
            source, fill = values["source"], int(values["fill"], 16)
        except (KeyError, TypeError) as error:
            raise ValueError("not an owner's answer") from error
        if not isinstance(source, str | None) or not 0 <= fill < 1 << 64:
            raise ValueError("not an owner's answer")
        return cls(source, fill)


@dataclass(frozen=True, slots=True)
class WantedBlock:
    """Bytes [start, end) of a block of a version. `last`: the block is complete with them.

    `summed`: the tail shall have the checksum of just these bytes. `proved`: it shall have a MAC. `sums`: what is known
    of the whole object's checksums, for who fills the block.
    """

    version: ObjectVersion
    index: int
    start: int
    end: int
    fill_id: int
    last: bool
    sums: tuple[tuple[SumKind, int], ...] = ()
    summed: bool = False
    proved: bool = False

    def target(self) -> bytes:
        version = self.version
        fields = {
            "origin": version.origin,
            "bucket": version.bucket,
            "key": version.key,
            "validator": version.validator,
            "size": str(version.size_bytes),
            "index": str(self.index),
            "start": str(self.start),
            "end": str(self.end),
            "fill": f"{self.fill_id:x}",
            "last": "1" if self.last else "0",
            "summed": "1" if self.summed else "0",
            "proved": "1" if self.proved else "0",
            "sums": ",".join(f"{kind.value}:{value:x}" for kind, value in self.sums),
        }
        return _target(BLOCK_PATH, fields)

    @classmethod
    def parse(cls, query: Mapping[str, str]) -> WantedBlock:
        """Raises ValueError."""
        origin, bucket, key, validator = (_text(query, name) for name in ("origin", "bucket", "key", "validator"))
        version = ObjectVersion(origin, bucket, key, validator, _number(query, "size"))
        index, start, end = (_number(query, name) for name in ("index", "start", "end"))
        if not start < end:
            raise ValueError("an empty range")
        pairs = [pair.partition(":") for pair in query.get("sums", "").split(",") if pair]
        sums = tuple((SumKind(kind), int(value, 16)) for kind, _, value in pairs)
        fill_id = int(_text(query, "fill"), 16)
        if not 0 <= fill_id < 1 << 64:
            raise ValueError("a fill id has 64 bits")
        last, summed, proved = (query.get(name) == "1" for name in ("last", "summed", "proved"))
        return cls(version, index, start, end, fill_id, last, sums, summed, proved)


@dataclass(frozen=True, slots=True)
class WantedRecord:
    """What is known of a key. `anew`: the origin must be asked for this very request; else within `ttl_s` is fresh.

    `ttl_s` None: for ever. `negative_ttl_s`: how long ago the origin may have said "not found". `heard`: the stamp of
    the last write that the asker has heard of.
    """

    key: ObjectKey
    ttl_s: float | None
    anew: bool = False
    heard: int | None = None
    negative_ttl_s: float = 0.0

    def target(self) -> bytes:
        fields = {"origin": self.key.origin, "bucket": self.key.bucket, "key": self.key.key}
        if self.key.version_id is not None:
            fields["version"] = self.key.version_id
        if self.ttl_s is not None:
            fields["ttl"] = repr(self.ttl_s)
        if self.negative_ttl_s:
            fields["negative_ttl"] = repr(self.negative_ttl_s)
        if self.anew:
            fields["anew"] = "1"
        if self.heard is not None:
            fields["heard"] = str(self.heard)
        return _target(RECORD_PATH, fields)

    @classmethod
    def parse(cls, query: Mapping[str, str]) -> WantedRecord:
        """Raises ValueError."""
        origin, bucket, key = (_text(query, name) for name in ("origin", "bucket", "key"))
        ttl_s = _seconds(query, "ttl") if "ttl" in query else None
        negative_ttl_s = _seconds(query, "negative_ttl") if "negative_ttl" in query else 0.0
        heard = _number(query, "heard") if "heard" in query else None
        name = ObjectKey(origin, bucket, key, query.get("version"))
        return cls(name, ttl_s, query.get("anew") == "1", heard, negative_ttl_s)


def parse_query(text: bytes) -> dict[str, str]:
    """Raises ValueError for a name that comes twice."""
    pairs = parse_qsl(text.decode("ascii"), keep_blank_values=True, errors="surrogatepass")
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name comes twice")
    return found


def _target(path: str, fields: Mapping[str, str]) -> bytes:
    query = "&".join(f"{name}={quote(value, safe='', errors='surrogatepass')}" for name, value in fields.items())
    return f"{path}?{query}".encode("ascii")


def _text(query: Mapping[str, str], name: str) -> str:
    if name not in query:
        raise ValueError(f"{name} is missing")
    return query[name]


def _seconds(query: Mapping[str, str], name: str) -> float:
    value = float(_text(query, name)[:32])
    if not value >= 0:
        raise ValueError(f"{name} is no time")
    return value


def _number(query: Mapping[str, str], name: str) -> int:
    text = _text(query, name)
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        raise ValueError(f"{name} is no number")
    return int(text)
