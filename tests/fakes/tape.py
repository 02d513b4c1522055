"""A kind of origin that does not exist: what one consists of, beside its place in the list of kinds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from proxy.config.limits import LimitSettings
from proxy.config.origins import RemoteOriginSettings, Token
from proxy.http.headers import Headers
from proxy.origin import Origin
from proxy.origin.s3 import FixedCredentials, S3Origin, S3Settings


class TapeOriginSettings(RemoteOriginSettings):
    """Tapes in a cellar."""

    builder = "tests.fakes.tape"

    type: Literal["tape"]
    cellar: str
    """Where the tapes are."""
    combination: Token | None = None
    """Opens the cellar's door."""


def build(name: str, settings: TapeOriginSettings, limits: LimitSettings, marks: Callable[[], Headers]) -> Origin:
    return S3Origin(S3Settings(f"http://{settings.cellar}"), FixedCredentials(None), name=name, marks=marks)


def load_later(settings: TapeOriginSettings) -> None:
    """Nothing."""
