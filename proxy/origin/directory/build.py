"""The builder of directory origins from their settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from proxy.http.headers import Headers
from proxy.origin import Origin
from proxy.origin.directory import DirectoryOrigin

if TYPE_CHECKING:
    from proxy.config.limits import LimitSettings
    from proxy.config.origins import FileOriginSettings


def build(name: str, settings: FileOriginSettings, limits: LimitSettings, marks: Callable[[], Headers]) -> Origin:
    return DirectoryOrigin(settings.root, name=name)


def load_later(settings: FileOriginSettings) -> None:
    """Do nothing: a directory needs no further modules."""
