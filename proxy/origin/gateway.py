"""Another gateway as an origin: an S3 store that is addressed by path and without credentials."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from proxy.http.headers import Headers
from proxy.origin import Origin
from proxy.origin.exchange import exchange_limits
from proxy.origin.s3 import FixedCredentials, S3Origin, S3Settings

if TYPE_CHECKING:
    from proxy.config.limits import LimitSettings
    from proxy.config.origins import GatewayOriginSettings


def build(name: str, settings: GatewayOriginSettings, limits: LimitSettings, marks: Callable[[], Headers]) -> Origin:
    below = S3Settings(
        endpoint=settings.endpoint,
        region="us-east-1",
        addressing="path",
        ca_file=settings.ca_file,
        verify_tls=settings.verify,
        limits=exchange_limits(limits),
    )
    return S3Origin(below, FixedCredentials(None), name=name, marks=marks)


def load_later(settings: GatewayOriginSettings) -> None:
    importlib.import_module("proxy.origin.transport")
