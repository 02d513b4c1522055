"""Settings of the origins: where objects live, and with what credentials they are asked for."""

from __future__ import annotations

import ssl
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, WithJsonSchema, model_validator

from proxy.config.quantities import LocalPath
from proxy.config.section import KeyProblem, Section


def parse_endpoint(value: object) -> str:
    """An http(s) URL without a trailing slash; raises ValueError with the fix."""
    fix = "is not an endpoint; write http://host:port or https://host"
    if not isinstance(value, str):
        raise ValueError(fix)
    try:
        parts = urlsplit(value.strip())
        port = parts.port
    except ValueError:
        raise ValueError(fix) from None
    if "@" in parts.netloc:
        raise ValueError("carries credentials; write them as access_key_id and secret_access_key")
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or any(map(str.isspace, value.strip())):
        raise ValueError(fix)
    if parts.query or parts.fragment or parts.path.strip("/"):
        raise ValueError(f"has a path or query; write only {parts.scheme}://{parts.netloc} (clients name the bucket)")
    return f"{parts.scheme}://{parts.netloc}"


def _quoted(value: object) -> object:
    """YAML reads an unquoted 0123 as the number 83: such a key would be wrong without a word."""
    if isinstance(value, int | float):
        raise ValueError("is a number; put it in quotes")
    return value


Endpoint = Annotated[
    str, BeforeValidator(parse_endpoint), WithJsonSchema({"type": "string", "pattern": r"^https?://[^/@\s]+/?$"})
]
Text = Annotated[str, BeforeValidator(_quoted), Field(min_length=1)]
Secret = Annotated[SecretStr, BeforeValidator(_quoted), Field(min_length=1)]


class S3OriginSettings(Section):
    """An S3-compatible store, or AWS S3 when no endpoint is given."""

    type: Literal["s3"]
    endpoint: Endpoint | None = None
    """URL of the store; without it AWS S3 in `region`."""
    region: Text | None = None
    """Region to sign for; without it the credential chain's, else us-east-1."""
    access_key_id: Text | None = None
    """Key to sign with; without keys, a profile or `anonymous` the usual chain: environment, files, instance role."""
    secret_access_key: Secret | None = None
    """The secret of `access_key_id`."""
    session_token: Secret | None = None
    """The token of temporary credentials."""
    profile: Text | None = None
    """A profile of ~/.aws/config and ~/.aws/credentials."""
    anonymous: bool = False
    """Send unsigned requests: for public buckets."""
    addressing: Literal["auto", "path", "virtual"] = "auto"
    """Where the bucket's name goes: `path` (host/bucket), `virtual` (bucket.host); `auto`: virtual at AWS only."""
    verify: bool = True
    """Check the endpoint's certificate; switch it off only for tests."""
    ca_file: LocalPath | None = None
    """PEM file of the authorities that may have signed the endpoint's certificate; without it the system's."""

    @model_validator(mode="after")
    def _credentials_agree(self) -> S3OriginSettings:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            missing = "secret_access_key" if self.secret_access_key is None else "access_key_id"
            raise KeyProblem(missing, None, "is missing; the key and its secret belong together")
        if self.session_token is not None and self.access_key_id is None:
            raise KeyProblem("session_token", None, "has no key; add access_key_id and secret_access_key")
        if self.profile is not None and self.access_key_id is not None:
            raise KeyProblem("profile", self.profile, "is given together with access_key_id; keep one of them")
        if self.anonymous and (self.access_key_id is not None or self.profile is not None):
            raise KeyProblem("anonymous", True, "is given together with credentials; remove it or them")
        return self

    @model_validator(mode="after")
    def _authorities_can_be_read(self) -> S3OriginSettings:
        if self.ca_file is not None:
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(self.ca_file)
            except OSError:
                raise KeyProblem(
                    "ca_file", str(self.ca_file), "holds no certificates; give a PEM file's path"
                ) from None
        return self


class FileOriginSettings(Section):
    """A local directory: its sub-directories are the buckets."""

    type: Literal["file"]
    root: LocalPath
    """The directory that holds the buckets."""


OriginSettings = Annotated[S3OriginSettings | FileOriginSettings, Field(discriminator="type")]
