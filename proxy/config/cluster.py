"""Settings of the fleet: where the other nodes are found, where this one is reached, what they trust each other by."""

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
    """A URL that redis-py takes, or one of Sentinels; raises ValueError with the fix."""
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
        places = [urlsplit(f"//{place}") for place in parts.netloc.rpartition("@")[2].split(",")]
        named = all(place.hostname and place.port != 0 for place in places)
    except ValueError:
        named = False
    if not named:
        raise ValueError("names no host; percent-encode what is neither letter nor digit in the password")
    if parts.scheme.endswith("sentinel") and not re.fullmatch(r"/[^/]+(/\d+)?", parts.path):
        raise ValueError("names no master; write redis+sentinel://host:26379,host:26379/mymaster/0")
    return text


def parse_dns_name(value: object) -> str:
    """`name:port`; raises ValueError with the fix."""
    name, _, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    if not name or not port.isdigit() or not 0 < int(port) < 65536 or "/" in name:
        raise ValueError("is not a name and port; write peers.namespace.svc:9000, the port that the gateways listen on")
    return str(value)


def expand(value: object) -> object:
    """`${NAME}` stands for the environment's variable; raises ValueError for one that is not set."""
    if not isinstance(value, str):
        return value

    def replaced(found: re.Match[str]) -> str:
        try:
            return os.environ[found[1]]
        except KeyError:
            raise ValueError(f"names ${{{found[1]}}}, which the environment does not set") from None

    return re.sub(r"\$\{(\w+)\}", replaced, value)


def _secrets(value: Any) -> Any:
    return one_or_more(value) if value is not None else None


class ClusterSettings(Section):
    """The other nodes that this one shares its work with."""

    redis: Annotated[SecretStr, BeforeValidator(parse_redis_url), BeforeValidator(expand)] | None = None
    """URL of the Redis by which nodes find each other, take leases and hear of writes; or `dns`, or `peers`."""
    dns: Annotated[str, BeforeValidator(parse_dns_name)] | None = None
    """Name and port of a headless service whose addresses are the members, for a fleet without Redis."""
    peers: Annotated[tuple[Endpoint, ...], BeforeValidator(one_or_more)] = ()
    """URLs of all members, for a fleet without Redis; this node's own may be among them."""
    advertise: Annotated[Endpoint, BeforeValidator(expand)] | None = None
    """URL by which other nodes reach this one; `${NAME}` stands for a variable. Without it, the address that leads to
    Redis or to the other members, with the first listener's port."""
    control: Annotated[Address, BeforeValidator(parse_address)] | None = None
    """Where asks of other nodes are answered; without it the first listener's host, and its port + 1."""
    secret: Annotated[tuple[Passphrase, ...], BeforeValidator(_secrets)] = ()
    """What requests between nodes are signed with, 16 characters at least; of a list the first signs, all are taken."""
    secret_file: LocalPath | None = None
    """A file with the secret, or one a line."""
    zone: Annotated[str, BeforeValidator(expand)] | None = None
    """Where links are wide: blocks cross into each zone once. An empty one is none, with a warning: a node may lack the
    label that it comes from."""
    prove_blocks: ProveBlocks = "auto"
    """Whether nodes prove each other the bytes of blocks by a MAC: `auto` (where TLS does not), `always` or `never`."""
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,64}$")] = "warmstart"
    """What all keys and channels in Redis begin with: two fleets on one Redis need two."""
    ca_file: LocalPath | None = None
    """PEM file of the authorities that may have signed the other nodes' certificates; without it the system's."""
    tls_name: Text | None = None
    """The name that the certificates of all nodes bear; without it, each node's must be for the host it advertises."""

    @model_validator(mode="after")
    def _one_way_to_find_members(self) -> Self:
        given = [name for name in ("redis", "dns", "peers") if getattr(self, name)]
        if not given:
            raise KeyProblem("redis", None, "is missing; write one of redis, dns and peers")
        if len(given) > 1:
            raise KeyProblem(given[1], None, f"is given together with {given[0]}; keep one of them")
        return self

    @model_validator(mode="after")
    def _a_secret_is_there(self) -> Self:
        if bool(self.secret) == (self.secret_file is not None):
            raise KeyProblem("secret", None, "must be given, or else secret_file: what nodes trust each other by")
        if self.secret_file is not None and not self.secret_file.is_file():
            raise KeyProblem("secret_file", None, "is not a file; give the path of one")
        for secret in self.secrets():
            if len(secret) < SECRET_BYTES_MIN:
                key = "secret" if self.secret else "secret_file"
                raise KeyProblem(key, None, f"is shorter than {SECRET_BYTES_MIN} characters; write a random one")
        return self

    def secrets(self) -> tuple[bytes, ...]:
        """All secrets, the one that signs first."""
        if self.secret_file is None:
            return tuple(secret.get_secret_value().encode() for secret in self.secret)
        lines = self.secret_file.read_bytes().splitlines()
        return tuple(line.strip() for line in lines if line.strip()) or (b"",)
