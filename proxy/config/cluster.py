"""Settings of the fleet: how nodes find, reach and trust each other."""

from __future__ import annotations

import os
import re
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, model_validator

from proxy.config.cache import one_or_more
from proxy.config.origins import Endpoint, Passphrase, Text
from proxy.config.quantities import Address, LocalPath, parse_address
from proxy.config.section import KeyProblem, Section

SECRET_BYTES_MIN = 16
ProveBlocks = Literal["auto", "always", "never"]


def parse_redis_url(value: object) -> object:
    """Check a URL for redis-py, or one with Sentinels. Raises ValueError with the fix."""
    fix = "is not a Redis URL; write redis://host:6379/0, rediss://… for TLS, or redis+sentinel://host:26379,…/master/0"
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if not isinstance(text, str):
        raise ValueError(fix)
    try:
        parts = urlsplit(text)
    except ValueError:
        raise ValueError(fix) from None
    if parts.scheme == "unix" and parts.path:
        return text
    if parts.scheme not in ("redis", "rediss", "redis+sentinel", "rediss+sentinel") or not parts.netloc:
        raise ValueError(fix)
    try:
        addresses = [urlsplit(f"//{address}") for address in parts.netloc.rpartition("@")[2].split(",")]
        named = all(address.hostname and address.port != 0 for address in addresses)
    except ValueError:
        named = False
    if not named:
        raise ValueError("names no host; if the password has anything but letters and digits, percent-encode it")
    if parts.scheme.endswith("sentinel") and not re.fullmatch(r"/[^/]+(/\d+)?", parts.path):
        raise ValueError("names no master; write redis+sentinel://host:26379,host:26379/mymaster/0")
    return text


def parse_dns_name(value: object) -> str:
    """Check `name:port`. Raises ValueError with the fix."""
    name, _, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    if not name or not port.isdigit() or not 0 < int(port) < 65536 or "/" in name:
        raise ValueError("is not a name and port; write one such as peers.namespace.svc:9000, with the gateways' port")
    return str(value)


def expand(value: object) -> object:
    """Replace `${NAME}` by the environment variable. Raises ValueError if it is not set."""
    if not isinstance(value, str):
        return value

    def replaced(found: re.Match[str]) -> str:
        try:
            return os.environ[found[1]]
        except KeyError:
            raise ValueError(f"uses ${{{found[1]}}}, which is not set in the environment; set it") from None

    return re.sub(r"\$\{(\w+)\}", replaced, value)


def _secrets(value: Any) -> Any:
    return one_or_more(value) if value is not None else None


class ClusterSettings(Section):
    """The fleet that this node belongs to."""

    redis: Annotated[SecretStr, BeforeValidator(parse_redis_url), BeforeValidator(expand)] | None = None
    """URL of the Redis where nodes find each other, take leases and announce writes; or set `dns` or `peers`."""
    dns: Annotated[str, BeforeValidator(parse_dns_name)] | None = None
    """Name and port of a headless service whose addresses are the members, for a fleet without Redis."""
    peers: Annotated[tuple[Endpoint, ...], BeforeValidator(one_or_more)] = ()
    """URLs of all members, for a fleet without Redis. This node's own may be included."""
    advertise: Annotated[Endpoint, BeforeValidator(expand)] | None = None
    """URL at which other nodes reach this one; `${NAME}` is replaced by a variable. Default: the address that routes to
    Redis or to the other members, with the first listener's port."""
    control: Annotated[Address, BeforeValidator(parse_address)] | None = None
    """Listen address for control requests from other nodes. Default: the first listener's host, and its port + 1."""
    secret: Annotated[tuple[Passphrase, ...], BeforeValidator(_secrets)] = ()
    """Secret that signs requests between nodes, 16 characters or more. Of a list, the first signs, all are accepted."""
    secret_file: LocalPath | None = None
    """A file with the secret, or one secret per line."""
    zone: Annotated[str, BeforeValidator(expand)] | None = None
    """Zone of this node: each block crosses into a zone once. An empty one means none, with a warning: a node may lack
    the label that it comes from."""
    prove_blocks: ProveBlocks = "auto"
    """Whether nodes prove blocks' bytes to each other with a MAC: `auto` (unless TLS does), `always` or `never`."""
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,64}$")] = "warmstart"
    """Prefix of all keys and channels in Redis. Two fleets on one Redis need different ones."""
    ca_file: LocalPath | None = None
    """PEM file of the authorities that sign the other nodes' certificates. Default: the system's."""
    tls_name: Text | None = None
    """The name in all nodes' certificates. Default: each certificate must be for the host that its node advertises."""

    @model_validator(mode="after")
    def _one_way_to_find_members(self) -> Self:
        given = [name for name in ("redis", "dns", "peers") if getattr(self, name)]
        if not given:
            raise KeyProblem("redis", None, "is missing; write redis, dns or peers")
        if len(given) > 1:
            raise KeyProblem(given[1], None, f"is given together with {given[0]}; keep one of them")
        return self

    @model_validator(mode="after")
    def _a_secret_is_there(self) -> Self:
        if bool(self.secret) == (self.secret_file is not None):
            fix = (
                "is given together with secret_file; keep one of them"
                if self.secret
                else "is missing; write secret or secret_file"
            )
            raise KeyProblem("secret", None, fix)
        if self.secret_file is not None and not self.secret_file.is_file():
            raise KeyProblem("secret_file", None, "is not a file; give the path of the file with the secret")
        for secret in self.secrets():
            if len(secret) < SECRET_BYTES_MIN:
                key = "secret" if self.secret else "secret_file"
                raise KeyProblem(key, None, f"is shorter than {SECRET_BYTES_MIN} characters; write a longer random one")
        return self

    def secrets(self) -> tuple[bytes, ...]:
        """Return all secrets, the signing one first."""
        if self.secret_file is None:
            return tuple(secret.get_secret_value().encode() for secret in self.secret)
        lines = self.secret_file.read_bytes().splitlines()
        return tuple(line.strip() for line in lines if line.strip()) or (b"",)
