"""All settings of one gateway, checked once.

How it works. Four sources are merged, and earlier ones win: command-line flags, their twins in the
environment (`WARMSTART_ORIGIN`), variables named after keys (`WARMSTART_CACHE__BLOCK_SIZE`), the YAML file.
`proxy.config.sources` reads them into nested mappings ("layers"); they are merged here, mapping by mapping, and
checked.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from proxy.config.buckets import BucketSettings, WriteRule
from proxy.config.cache import CacheSettings, one_or_more
from proxy.config.cluster import ClusterSettings
from proxy.config.handover import WILDCARD
from proxy.config.limits import LimitSettings
from proxy.config.origins import OriginSettings
from proxy.config.quantities import (
    Address,
    ListenAddress,
    LocalPath,
    Suffix,
    by_dialect,
    parse_address,
    parse_host_suffix,
)
from proxy.config.section import KeyProblem, Section


class AuthSettings(Section):
    """Who may send requests. `none`: anybody who can connect."""

    mode: Literal["none"]
    """The only mode so far: requests need no credentials, and any that they carry are ignored."""


class TlsSettings(Section):
    """Serve HTTPS on every listener."""

    certificate: LocalPath
    """PEM file of the certificate and its chain."""
    key: LocalPath
    """PEM file of the private key."""


class LogSettings(Section):
    """The log, written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The lowest level that is written."""
    format: Literal["auto", "text", "json"] = "auto"
    """`text` for people; `json`, one object per line; `auto`: text on a terminal, json in a pipe or file."""
    access: bool = False
    """Write a line for each request. Off: at thousands of reads per second it costs more than the reads."""
    probes: bool = False
    """Write access lines for `/-/health`, `/-/ready` and `/-/metrics` too, which are polled every few seconds."""


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge `above` into `below`: mappings in both are merged, any other value in `above` wins."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _auth(value: Any) -> Any:
    return {"mode": value} if isinstance(value, str) else value


class Settings(Section):
    """The whole configuration; docs/configuration.md lists every key."""

    listen: Annotated[
        tuple[ListenAddress, ...],
        BeforeValidator(one_or_more),
        BeforeValidator(by_dialect(parse_address)),
        Field(min_length=1),
    ] = (Address("127.0.0.1", 9000),)
    """One address or a list: host:port, [IPv6]:port. `{s3: …, gcs: …}`: one dialect each. Addresses other than loopback
    need `auth`."""
    workers: Annotated[int, Field(ge=1, le=250)] = 2
    """Number of serving processes. Each can saturate a core; a few are enough for most disks and links."""
    auth: Annotated[AuthSettings | None, BeforeValidator(_auth)] = None
    """A word or a mapping (`none`, `{mode: none}`). Required for listeners that are not loopback."""
    writes: WriteRule | None = None
    """`through`: writes go to the origin; `deny`: refused. Default: through on loopback listeners, else deny."""
    host_suffixes: Annotated[tuple[Suffix, ...], BeforeValidator(by_dialect(parse_host_suffix))] = ()
    """Host suffixes for virtual-host style: `bucket.<suffix>` names a bucket. Other hosts are path style.
    `{s3: […], gcs: […]}`: requests to such a host use that dialect."""
    tls: TlsSettings | None = None
    """Certificate and key for HTTPS. Default: plain HTTP."""
    log: LogSettings = LogSettings()
    cache: CacheSettings = Field(default_factory=CacheSettings)
    origins: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")], OriginSettings] = Field(
        default_factory=dict
    )
    """Where the objects are, each origin by a name of your choice."""
    buckets: dict[str, BucketSettings] = Field(default_factory=dict)
    """How clients' buckets map to origins; `*`: all others. With one origin and no buckets, all of its buckets."""
    limits: LimitSettings = LimitSettings()
    cluster: ClusterSettings | None = None
    """The fleet. Default: this node works alone."""
    event_loop: Literal["auto", "uvloop", "asyncio"] = "auto"
    """The workers' event loop; `auto` takes uvloop, which is faster."""

    @classmethod
    def from_layers(cls, layers: Sequence[Mapping[str, Any]]) -> Self:
        """Merge layers, of which earlier ones win, and check the result. Raises pydantic's ValidationError."""
        merged: dict[str, Any] = {}
        for layer in layers:
            merged = merge(layer, merged)
        return cls.model_validate(merged)

    @property
    def loopback_only(self) -> bool:
        return all(address.loopback for address in self.listen)

    def writes_through(self, rule: BucketSettings | None = None) -> bool:
        """Return whether writes go through for buckets of that rule, or by default."""
        asked = (rule.writes if rule is not None else None) or self.writes
        return asked == "through" if asked is not None else self.loopback_only

    def bucket_rules(self) -> dict[str, BucketSettings]:
        """Return `buckets`, or the implied rule if there is one origin and no buckets."""
        if not self.buckets and len(self.origins) == 1:
            return {WILDCARD: BucketSettings(origin=next(iter(self.origins)))}
        return self.buckets

    @model_validator(mode="after")
    def _listeners_are_safe(self) -> Self:
        if self.auth is None:
            for address in self.listen:
                if not address.loopback:
                    fix = "can be reached from other machines; to serve anybody, write auth: none (--auth none)"
                    raise KeyProblem("listen", str(address), fix)
        return self

    @model_validator(mode="after")
    def _buckets_name_origins(self) -> Self:
        if not self.origins:
            raise KeyProblem("origins", None, "is empty; add one, or give --origin URL")
        if not self.buckets and len(self.origins) > 1:
            raise KeyProblem(
                "buckets",
                None,
                'is empty, but there are several origins; name the origin of each bucket, or write "*": {origin: …}',
            )
        for name, rule in self.buckets.items():
            if not name or "/" in name or name == "-":
                raise KeyProblem(f"buckets.{name}", None, "is not a bucket name; write the name that clients use")
            if rule.origin not in self.origins:
                known = ", ".join(self.origins)
                raise KeyProblem(
                    f"buckets.{name}.origin", rule.origin, f"is not a configured origin; write one of: {known}"
                )
            if name == WILDCARD and rule.bucket is not None:
                fix = "would make every bucket the same one; remove it, or replace * with a bucket name"
                raise KeyProblem(f"buckets.{name}.bucket", rule.bucket, fix)
        return self

    @model_validator(mode="after")
    def _certificate_exists(self) -> Self:
        if self.tls is None:
            return self
        for key, path in (("certificate", self.tls.certificate), ("key", self.tls.key)):
            if not path.is_file():
                raise KeyProblem(f"tls.{key}", str(path), "is not a file; give the path of a PEM file")
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.tls.certificate, self.tls.key, password=lambda: "")
        except (OSError, ValueError):
            fix = f"does not match the key {self.tls.key}, or one of them is not a PEM file without a password"
            raise KeyProblem("tls.certificate", str(self.tls.certificate), f"{fix}; check both files") from None
        return self
