"""Settings of the origins: where the objects are, and with which credentials to read them."""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, WithJsonSchema, field_validator, model_validator

from proxy.config.quantities import KIB, LocalPath, Share, Size
from proxy.config.section import KeyProblem, Section
from proxy.http.masking import is_sendable


def parse_endpoint(value: object) -> str:
    """Return an http(s) URL without its trailing slash. Raises ValueError with the fix."""
    fix = "is not an endpoint; write http://host:port or https://host"
    if not isinstance(value, str):
        raise ValueError(fix)
    try:
        parts = urlsplit(value.strip())
        port = parts.port
    except ValueError:
        raise ValueError(fix) from None
    if "@" in parts.netloc:
        raise ValueError("contains credentials; set them with their own keys, not in the URL")
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or any(map(str.isspace, value.strip())):
        raise ValueError(fix)
    if parts.query or parts.fragment or parts.path.strip("/"):
        raise ValueError(f"has a path or query; write only {parts.scheme}://{parts.netloc} (clients name the bucket)")
    return f"{parts.scheme}://{parts.netloc}"


def _quoted(value: object) -> object:
    """YAML reads an unquoted 0123 as the number 83: such a key would be silently wrong."""
    if isinstance(value, int | float):
        raise ValueError("is a number; put it in quotes")
    return value


def _one_line(value: object) -> object:
    """Without the line break that a file's content ends with; raises ValueError for one elsewhere."""
    value = _quoted(value)
    if isinstance(value, str):
        value = value.strip()
        if not value.isprintable():
            raise ValueError("has a line break or another control character; remove it")
    return value


def _one_word(value: object) -> object:
    """Without the line break that a file's content ends with; raises ValueError for what no header can carry."""
    value = _quoted(value)
    if not isinstance(value, str):
        return value
    word = value.strip()
    if not is_sendable(word):
        raise ValueError("has a space, a line break or another character that can't be sent; remove it")
    return word


Endpoint = Annotated[
    str, BeforeValidator(parse_endpoint), WithJsonSchema({"type": "string", "pattern": r"^https?://[^/@\s]+/?$"})
]
Text = Annotated[str, BeforeValidator(_quoted), Field(min_length=1)]
Passphrase = Annotated[SecretStr, BeforeValidator(_one_line), Field(min_length=1)]
Word = Annotated[str, BeforeValidator(_one_word), Field(min_length=1)]
Token = Annotated[SecretStr, BeforeValidator(_one_word), Field(min_length=1)]


def parse_project(value: object) -> object:
    """A project's id, or its number, which YAML reads as one; raises ValueError with the fix."""
    text = str(value) if type(value) is int else value
    if isinstance(text, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.:_-]*", text) is None:
        raise ValueError("is not a project id or number; write one, such as my-project-1")
    return text


Project = Annotated[str, BeforeValidator(parse_project)]


class AnyOriginSettings(Section):
    """What the other parts ask of an origin, whatever its kind. `FACTS` are handed over beside the keys."""

    FACTS: ClassVar = ("builder", "by_http", "private", "secret_words")

    builder: ClassVar[str]
    """The module that makes the origin: see `proxy.origin.Builder`."""
    by_http: ClassVar[bool]
    """Whether it is a server, which may be asked so much at once; else a directory."""

    @property
    def private(self) -> bool:
        """Whether only this node has it: its blocks never travel to other nodes."""
        return False

    @property
    def secret_words(self) -> tuple[str, ...]:
        """What no line of the log may show."""
        values = (getattr(self, name) for name in type(self).model_fields)
        return tuple(value.get_secret_value() for value in values if isinstance(value, SecretStr))

    def doubts(self) -> Iterator[tuple[str, str]]:
        """Keys whose values can't be used as things stand, with what that means: no reason not to start."""
        yield from ()


class RemoteOriginSettings(AnyOriginSettings):
    """What all origins that are reached by HTTP have in common."""

    by_http = True
    endpoint_variables: ClassVar[tuple[str, ...]] = ()
    """Variables of the environment that say where it is when `endpoint` does not; the first one that is set wins."""

    bandwidth: Annotated[Size, Field(ge=64 * KIB)] | None = None
    """Limit on bytes per second from this origin, for all workers of all nodes together. Default: none."""
    hedge: Annotated[Share, Field(le=0.1)] | None = None
    """Share of read requests that may be sent twice when they are late. Each costs a copy. Default: none."""
    verify: bool = True
    """Check the endpoint's certificate. Turn this off only for tests."""
    ca_file: LocalPath | None = None
    """PEM file of the authorities that sign the endpoint's certificate. Default: the system's."""

    @model_validator(mode="after")
    def _authorities_can_be_read(self) -> Self:
        if self.ca_file is not None:
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(self.ca_file)
            except OSError:
                raise KeyProblem(
                    "ca_file", str(self.ca_file), "holds no certificates; give the path of a PEM file"
                ) from None
        return self


class S3OriginSettings(RemoteOriginSettings):
    """An S3-compatible store, or AWS S3 when no endpoint is given."""

    builder = "proxy.origin.s3.build"
    endpoint_variables = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")

    type: Literal["s3"]
    endpoint: Endpoint | None = None
    """URL of the store. Default: AWS S3 in `region`."""
    region: Word | None = None
    """Region to sign for. Default: the credential chain's, else us-east-1."""
    access_key_id: Word | None = None
    """Key to sign with. Without keys, profile or `anonymous`: the usual chain of environment, files, instance role."""
    secret_access_key: Passphrase | None = None
    """The secret of `access_key_id`."""
    session_token: Token | None = None
    """The token of temporary credentials."""
    profile: Text | None = None
    """A profile of ~/.aws/config and ~/.aws/credentials."""
    anonymous: bool = False
    """Send unsigned requests, for public buckets."""
    addressing: Literal["auto", "path", "virtual"] = "auto"
    """Where the bucket's name goes: `path` (host/bucket), `virtual` (bucket.host); `auto`: virtual at AWS only."""
    base_path: Annotated[str, Field(pattern=r"^(/[A-Za-z0-9._~-]+)+$")] | None = None
    """Path that the store expects before the bucket's name, such as a namespace: /my-org."""
    user_agent: Annotated[Text, Field(pattern=r"^[ -~]+$")] | None = None
    """User-Agent header to send, if any. Some stores redirect clients that they don't know."""

    @property
    def secret_words(self) -> tuple[str, ...]:
        return (*super().secret_words, *([self.access_key_id] if self.access_key_id else []))

    @model_validator(mode="after")
    def _a_path_has_an_endpoint(self) -> Self:
        if self.base_path is not None and self.endpoint is None:
            raise KeyProblem(
                "base_path",
                self.base_path,
                "only works with a store of your own; add its endpoint, or remove base_path",
            )
        return self

    @model_validator(mode="after")
    def _credentials_agree(self) -> Self:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            missing = "secret_access_key" if self.secret_access_key is None else "access_key_id"
            raise KeyProblem(missing, None, "is missing; access_key_id and secret_access_key belong together")
        if self.session_token is not None and self.access_key_id is None:
            raise KeyProblem("session_token", None, "has no key with it; add access_key_id and secret_access_key")
        if self.profile is not None and self.access_key_id is not None:
            raise KeyProblem("profile", self.profile, "is given together with access_key_id; keep one of them")
        if self.anonymous and (self.access_key_id is not None or self.profile is not None):
            raise KeyProblem("anonymous", True, "is given together with credentials; remove one of them")
        return self


class GcsCredentialSettings(Section):
    """Credentials for Google Cloud Storage. With neither key set, the application default credentials."""

    service_account_file: LocalPath | None = None
    """The JSON key file of a service account."""
    impersonate: Text | None = None
    """E-mail address of a service account to impersonate with the key file's, or the default, credentials."""

    @field_validator("service_account_file")
    @classmethod
    def _is_a_key_file(cls, path: Path | None) -> Path | None:
        if path is not None:
            try:
                kind = json.loads(path.read_bytes()).get("type")
            except (OSError, ValueError, AttributeError):
                kind = None
            if kind != "service_account":
                raise ValueError(
                    "is not a service account's JSON key file; give the path of one. For other kinds of files, "
                    "write credentials: default and set GOOGLE_APPLICATION_CREDENTIALS"
                )
        return path

    @field_validator("impersonate")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        if value is not None and re.fullmatch(r"[^@\s/]+@[^@\s/]+", value) is None:
            raise ValueError("is not a service account's address; write NAME@PROJECT.iam.gserviceaccount.com")
        return value


def _spell_out(value: object) -> object:
    if value == "default":
        return {}
    if isinstance(value, str):
        raise ValueError("is not valid; write default, {service_account_file: PATH} or {impersonate: ADDRESS}")
    return value


def _or_default(schema: dict[str, Any]) -> None:
    schema["anyOf"].insert(0, {"const": "default"})


class GcsOriginSettings(RemoteOriginSettings):
    """Google Cloud Storage, or a server that speaks its API at `endpoint`."""

    builder = "proxy.origin.gcs.build"

    type: Literal["gcs"]
    endpoint: Endpoint | None = None
    """URL of a private endpoint or an emulator. Default: https://storage.googleapis.com."""
    credentials: Annotated[
        GcsCredentialSettings | None, BeforeValidator(_spell_out), Field(json_schema_extra=_or_default)
    ] = None
    """`default` (same as leaving it out): application default credentials. Else a key file or an account."""
    anonymous: bool = False
    """Send requests without credentials, for public buckets and emulators."""
    project: Project | None = None
    """The project whose buckets are listed when a client lists all buckets."""
    user_project: Project | None = None
    """The project to bill, for requester-pays buckets."""

    @model_validator(mode="after")
    def _credentials_agree(self) -> Self:
        if self.anonymous and self.credentials is not None:
            raise KeyProblem("anonymous", True, "is given together with credentials; remove one of them")
        return self


class FileOriginSettings(AnyOriginSettings):
    """A local directory: its sub-directories are the buckets."""

    builder = "proxy.origin.directory.build"
    by_http = False

    type: Literal["file"]
    root: LocalPath
    """The directory that holds the buckets."""
    shared: bool = False
    """Whether every node of a fleet has the same directory there. If not, it is local to this node and not shared with
    others."""

    @property
    def private(self) -> bool:
        return not self.shared

    def doubts(self) -> Iterator[tuple[str, str]]:
        if not self.root.is_dir():
            yield "root", f"{str(self.root)!r} is not a directory; reads fail until it is one"


class GatewayOriginSettings(RemoteOriginSettings):
    """Another gateway, or a service of several, as the origin. A region pulls each block once over its wide link."""

    builder = "proxy.origin.gateway"

    type: Literal["gateway"]
    endpoint: Endpoint
    """URL of that gateway, which decides which buckets exist."""


OriginSettings = Annotated[
    S3OriginSettings | GcsOriginSettings | FileOriginSettings | GatewayOriginSettings, Field(discriminator="type")
]

KINDS: dict[str, type[AnyOriginSettings]] = {
    kind: section
    for section in get_args(get_args(OriginSettings)[0])
    for kind in get_args(section.model_fields["type"].annotation)
}
"""Every kind of origin, by what is written as its `type`. A new kind is a class above, named in `OriginSettings`, and
the module that the class names as its builder; messages, the schema, the tests of the docs and `serve` follow."""
