"""What settings mean on this machine: an endpoint from the environment, one that leads back here, a missing directory.

How it works. Origins of type s3 without an endpoint take AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, as AWS's SDKs do. In
a shell or a pod these often point clients to this very gateway; such a value is left alone, with a note. An endpoint in
the settings that is one of the gateway's own listeners can't be meant, and is an error. Only literal addresses,
`localhost` and this machine's name are compared: no name is looked up. Whatever is missed ends by `proxy.http.trail`.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping, Sequence
from typing import TypeVar
from urllib.parse import urlsplit

from proxy.config.origins import OriginSettings, RemoteOriginSettings, parse_endpoint
from proxy.config.quantities import Address
from proxy.config.settings import Settings
from proxy.errors import ConfigInvalid
from proxy.http.masking import mask_url

IGNORE_VARIABLE = "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"

Remote = TypeVar("Remote", bound=RemoteOriginSettings)


def look_around(settings: Settings, environment: Mapping[str, str]) -> tuple[Settings, tuple[str, ...]]:
    """Return the settings completed from the environment, and notes to show at the start. Raises ConfigInvalid."""
    notes: list[str] = []
    origins: dict[str, OriginSettings] = {}
    for name, origin in settings.origins.items():
        endpoint = getattr(origin, "endpoint", None)
        if endpoint is not None and leads_here(endpoint, settings.listen):
            shown = f"origins.{name}.endpoint: {mask_url(endpoint)!r}"
            raise ConfigInvalid(f"{shown} is this gateway's own listener; write the address of the store")
        if isinstance(origin, RemoteOriginSettings) and endpoint is None:
            origin = _with_ambient_endpoint(name, origin, settings, environment, notes)
        notes += [f"origins.{name}.{key}: {doubt}" for key, doubt in origin.doubts()]
        origins[name] = origin
    return settings.model_copy(update={"origins": origins}), tuple(notes)


def _with_ambient_endpoint(
    name: str, origin: Remote, settings: Settings, environment: Mapping[str, str], notes: list[str]
) -> Remote:
    variable = next((variable for variable in origin.endpoint_variables if environment.get(variable)), None)
    if variable is None or environment.get(IGNORE_VARIABLE, "").lower() == "true":
        return origin
    try:
        endpoint = parse_endpoint(environment[variable])
    except ValueError as error:
        raise ConfigInvalid(f"{variable}: {error}; or unset the variable, or set origins.{name}.endpoint") from None
    if leads_here(endpoint, settings.listen):
        notes.append(f"origins.{name}: {variable} is this gateway's own listener and is ignored; AWS is used")
        return origin
    notes.append(f"origins.{name}: the endpoint comes from {variable}: {mask_url(endpoint)}")
    return origin.model_copy(update={"endpoint": endpoint})


def leads_here(endpoint: str, listeners: Sequence[Address]) -> bool:
    """Whether an endpoint is, without any doubt, one of these listeners."""
    parts = urlsplit(endpoint)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    host = parts.hostname or ""
    return any(listener.port == port and _is_host(host, listener.host) for listener in listeners)


def _is_host(host: str, listens: str) -> bool:
    if host == listens:
        return True
    if listens in ("0.0.0.0", "::"):
        return host in ("localhost", socket.gethostname().lower()) or _is_own_address(host)
    return host == "localhost" and Address(listens, 0).loopback


def _is_own_address(host: str) -> bool:
    """Whether a literal address is one of this machine's: only those can be bound."""
    try:
        version = ipaddress.ip_address(host).version
        with socket.socket(socket.AF_INET6 if version == 6 else socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind((host, 0))
    except (ValueError, OSError):
        return False
    return True
