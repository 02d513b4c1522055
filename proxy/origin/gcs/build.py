"""The builder of GCS origins from their settings."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from proxy.http.headers import Headers
from proxy.origin import Origin
from proxy.origin.exchange import exchange_limits
from proxy.origin.gcs import AnonymousTokens, GcsOrigin, GcsSettings, GoogleTokens, load_credentials

if TYPE_CHECKING:
    from proxy.config.limits import LimitSettings
    from proxy.config.origins import GcsOriginSettings


def build(name: str, settings: GcsOriginSettings, limits: LimitSettings, marks: Callable[[], Headers]) -> Origin:
    found = GcsSettings(
        endpoint=settings.endpoint,
        project=settings.project,
        user_project=settings.user_project,
        ca_file=settings.ca_file,
        verify_tls=settings.verify,
        limits=exchange_limits(limits),
    )
    if settings.anonymous:
        return GcsOrigin(found, AnonymousTokens(), name=name, marks=marks)
    key_file = settings.credentials.service_account_file if settings.credentials is not None else None
    lender = settings.credentials.impersonate if settings.credentials is not None else None
    tokens = GoogleTokens(partial(load_credentials, key_file, lender))
    return GcsOrigin(found, tokens, name=name, marks=marks)


def load_later(settings: GcsOriginSettings) -> None:
    importlib.import_module("proxy.origin.transport")
