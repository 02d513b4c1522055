"""Targets of buckets and keys: endpoint, Host and the request target, byte for byte. Pure.

How it works. S3 names are bytes: `a//b`, `../x` and `/lead` are three ordinary keys. So the target is built here,
percent-encoded as S3's signature requires (all but `A-Z a-z 0-9 - . _ ~ /`). The signed target is sent unchanged:
no library below may normalise it. A redirect's target is decoded and encoded again for the same reason.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import SplitResult, parse_qsl, quote, unquote_to_bytes, urlsplit

from proxy.errors import ConfigInvalid, InvalidRequest
from proxy.http.masking import mask_url
from proxy.wire.endpoint import Endpoint

Addressing = Literal["path", "virtual", "auto"]
Query = tuple[tuple[str, str], ...]

_DNS_LABEL = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")  # no dot: a wildcard certificate covers one label
_DNS_NAME = re.compile(r"[a-z0-9][a-z0-9.-]*[a-z0-9]")  # other names (old buckets) have only a path
_REGION = re.compile(r"[a-z0-9-]{1,64}")
_AWS_DOMAINS = ("amazonaws.com", "amazonaws.com.cn")


@dataclass(frozen=True, slots=True)
class Target:
    """One resource of an S3 service. `path` is percent-encoded and begins with `/`; `query` holds decoded pairs."""

    endpoint: Endpoint
    path: str
    query: Query = ()

    @property
    def request_target(self) -> bytes:
        """The target in the request line (origin form)."""
        encoded = render_query(self.query)
        return (f"{self.path}?{encoded}" if encoded else self.path).encode("ascii")


@dataclass(frozen=True, slots=True)
class Site:
    """An S3 service: AWS (`endpoint` None, one host for each region) or one endpoint with an optional path prefix."""

    endpoint: Endpoint | None
    prefix: str = ""
    addressing: Addressing = "auto"

    @property
    def id(self) -> str:
        """The id, the same on every node, whatever the alias or region in its configuration."""
        if self.endpoint is None:
            return "s3://s3.amazonaws.com"
        host = f"[{self.endpoint.host}]" if ":" in self.endpoint.host else self.endpoint.host
        return f"s3://{host}:{self.endpoint.port}{self.prefix}"

    def locate(self, bucket: str, key: str | None, region: str, query: Query = ()) -> Target:
        """Return the target of a key, of a bucket (`key` None) or of the service (`bucket` empty)."""
        endpoint = self.endpoint or aws_endpoint(region)
        path = self.prefix
        if bucket and self._is_virtual(bucket):
            endpoint = Endpoint(f"{bucket}.{endpoint.host}", endpoint.port, endpoint.tls)
        elif bucket:
            path += "/" + encode(bucket)
        return Target(endpoint, path + "/" + encode(key) if key is not None else path or "/", query)

    def _is_virtual(self, bucket: str) -> bool:
        if self.addressing == "auto":
            return self.endpoint is None and _DNS_LABEL.fullmatch(bucket) is not None
        return self.addressing == "virtual" and _DNS_NAME.fullmatch(bucket) is not None


def parse_site(url: str | None, addressing: Addressing) -> Site:
    """Return the service at an endpoint URL; None or `s3://` is AWS. Raises ConfigInvalid."""
    if url is None or url == "s3://":
        return Site(None, "", addressing)
    try:
        parts = urlsplit(url)
        endpoint = _endpoint(parts)
    except ValueError:  # its text may quote a password
        fix = "is not an endpoint; write http://host:port or https://host"
        raise ConfigInvalid(f"endpoint {mask_url(url)!r} {fix}") from None
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise ConfigInvalid(f"endpoint {mask_url(url)!r}: only scheme, host, port and a path belong there")
    return Site(endpoint, quote(unquote_to_bytes(parts.path.rstrip("/")), safe="/~"), addressing)


def redirected(target: Target, location: str, bucket: str) -> Target | None:
    """Return the target of a Location header within the same origin; None if it leads elsewhere, or makes no sense.

    The request there is signed with this origin's keys, and the answer is served. So an origin, or anybody who answers
    in its place, must not choose another server. The same origin means the same host and port, the same host over TLS,
    and at AWS the same bucket at another host of AWS.
    """
    try:
        parts = urlsplit(location)
        endpoint = _endpoint(parts) if parts.netloc else target.endpoint
        query = tuple(parse_qsl(parts.query, keep_blank_values=True, errors="surrogateescape"))
    except ValueError:
        return None
    if not parts.path.startswith("/") and not parts.netloc:
        return None
    if not _is_at_home(target.endpoint, endpoint, parts.path, bucket):
        return None
    return Target(endpoint, quote(unquote_to_bytes(parts.path or "/"), safe="/~"), query)


def _is_at_home(asked: Endpoint, named: Endpoint, path: str, bucket: str) -> bool:
    if named == asked or (named.host == asked.host and named.tls and (asked.port, named.port) == (80, 443)):
        return True
    home, away = _parse_aws_host(asked.host), _parse_aws_host(named.host)
    if home is None or away is None or home.domain != away.domain or not named.tls or named.port != 443:
        return False
    return away.bucket == bucket or (not away.bucket and path.split("/")[1] == encode(bucket))


@dataclass(frozen=True, slots=True)
class _AwsHost:
    """A host of AWS's S3: its partition's domain, and the bucket in its name ("" for none)."""

    domain: str
    bucket: str


def _parse_aws_host(host: str) -> _AwsHost | None:
    """Parse `s3.REGION.DOMAIN`, `BUCKET.s3.dualstack.REGION.DOMAIN`, `s3-REGION.DOMAIN` and the like, or None."""
    domain = next((domain for domain in _AWS_DOMAINS if host.endswith("." + domain)), None)
    if domain is None:
        return None
    labels = host.removesuffix("." + domain).split(".")
    for index in reversed(range(max(0, len(labels) - 3), len(labels))):
        if labels[index] == "s3" or labels[index].startswith("s3-"):
            return _AwsHost(domain, ".".join(labels[:index]))
    return None


def aws_endpoint(region: str) -> Endpoint:
    """Return AWS's regional endpoint. Source: AWS General Reference, "Amazon S3 endpoints and quotas"."""
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return Endpoint(f"s3.{region}.{domain}", 443, True)


def is_region(name: str) -> bool:
    """Return whether a region from an answer may become part of a host name."""
    return _REGION.fullmatch(name) is not None


def encode(name: str) -> str:
    """Encode a key or bucket for a path: UTF-8, percent-encoded except `/` and the unreserved characters."""
    return quote(_bytes(name), safe="/~")


def render_query(query: Query) -> str:
    """Return the query as it is sent, in its own order; a parameter without a value has no `=`."""
    return "&".join(
        f"{quote(_bytes(name), safe='~')}={quote(_bytes(value), safe='~')}" if value else quote(_bytes(name), safe="~")
        for name, value in query
    )


def _bytes(name: str) -> bytes:
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise InvalidRequest("InvalidURI", "the name is not valid Unicode") from None


def _endpoint(parts: SplitResult) -> Endpoint:
    """Return a URL's endpoint. Raises ValueError with the reason."""
    if parts.scheme not in ("http", "https"):
        raise ValueError("the scheme must be http or https")
    if not parts.hostname:
        raise ValueError("the host is missing")
    tls = parts.scheme == "https"
    return Endpoint(parts.hostname, parts.port or (443 if tls else 80), tls)
