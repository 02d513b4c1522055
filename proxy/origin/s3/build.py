"""The builder of S3 origins from their settings."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from proxy.http.headers import Headers
from proxy.origin import Origin
from proxy.origin.exchange import exchange_limits
from proxy.origin.s3 import ChainCredentials, Credentials, CredentialSource, FixedCredentials, S3Origin, S3Settings

if TYPE_CHECKING:
    from proxy.config.limits import LimitSettings
    from proxy.config.origins import S3OriginSettings


def build(name: str, settings: S3OriginSettings, limits: LimitSettings, marks: Callable[[], Headers]) -> Origin:
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    return S3Origin(
        S3Settings(
            endpoint=settings.endpoint and settings.endpoint + (settings.base_path or ""),
            region=settings.region or region,
            addressing=settings.addressing,
            ca_file=settings.ca_file,
            verify_tls=settings.verify,
            user_agent=settings.user_agent,
            limits=exchange_limits(limits),
        ),
        build_credentials(settings),
        name=name,
        marks=marks,
    )


def load_later(settings: S3OriginSettings) -> None:
    importlib.import_module("proxy.origin.transport")
    if not settings.anonymous and settings.access_key_id is None:
        importlib.import_module("botocore.session")


def build_credentials(settings: S3OriginSettings) -> CredentialSource:
    if settings.anonymous:
        return FixedCredentials(None)
    if settings.access_key_id is None or settings.secret_access_key is None:
        return ChainCredentials(settings.profile)
    token = settings.session_token.get_secret_value() if settings.session_token is not None else None
    return FixedCredentials(Credentials(settings.access_key_id, settings.secret_access_key.get_secret_value(), token))
