"""Credentials for GCS: application default credentials, a service account's key, impersonation, or none.

How it works. google-auth finds the credentials and fetches tokens. That blocks on files and networks, so it runs in a
thread, one call at a time for all requests. A new token is fetched some minutes before the old one expires, while
requests continue with the old one; a request waits only if there is no valid token. When GCS answers 401, the token is
taken for revoked and a new one is fetched, once. google-auth is imported in that thread when it is first needed:
a gateway without GCS never loads it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

from proxy.errors import AccessDenied, OriginUnavailable, WarmstartError, blame, fresh
from proxy.rate_limited_log import RateLimitedLog

REFRESH_AHEAD_S = 225.0  # as google-auth does: a metadata server gives a new token only in the last 5 minutes
RETRY_PAUSE_S = 5.0
TOKEN_TIMEOUT_S = 20.0
SCOPES = ("https://www.googleapis.com/auth/devstorage.full_control",)
SOURCE_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)  # of the account that impersonates

log = logging.getLogger("warmstart.origin")


class TokenSource(Protocol):
    async def get(self) -> str | None:
        """Return the current token; None sends none. Raises AccessDenied if one is expected, and OriginUnavailable."""
        ...

    async def renew(self, refused: str) -> str | None:
        """Return a token to replace a refused one, or the same one if there is no better. Raises as `get`."""
        ...


class AnonymousTokens:
    """No token: for public buckets and emulators."""

    async def get(self) -> str | None:
        return None

    async def renew(self, refused: str) -> str | None:
        return None


class GoogleTokens:
    """Tokens of google-auth credentials. `load` (blocking) finds them; `clock` is Unix time in seconds."""

    def __init__(self, load: Callable[[], Any], *, clock: Callable[[], float] = time.time) -> None:
        self._load = load
        self._clock = clock
        self._credentials: Any = None
        self._token: str | None = None
        self._ends_at_s = 0.0
        self._asked_at_s: float | None = None
        self._failure: WarmstartError | None = None
        self._asking: asyncio.Task[None] | None = None
        self._not_renewed = RateLimitedLog(log)

    async def get(self) -> str | None:
        if self._alive():
            if self._clock() > self._ends_at_s - REFRESH_AHEAD_S and not self._paused():
                self._ask()
            return self._token
        return await self._wait()

    async def renew(self, refused: str) -> str | None:
        if self._token != refused:
            return await self.get()
        if self._paused() and self._asking is None:
            return self._token
        return await self._wait()

    def _alive(self) -> bool:
        return self._token is not None and self._clock() < self._ends_at_s

    def _paused(self) -> bool:
        """Return whether Google was asked a moment ago: the answer would be the same."""
        return self._asked_at_s is not None and 0 <= self._clock() - self._asked_at_s < RETRY_PAUSE_S

    async def _wait(self) -> str | None:
        if self._failure is not None and self._paused() and self._asking is None:
            raise fresh(self._failure)
        await asyncio.shield(self._ask())
        if self._failure is not None and not self._alive():
            raise fresh(self._failure)
        return self._token

    def _ask(self) -> asyncio.Task[None]:
        """Refresh in one thread for all waiters; a waiter's cancellation does not stop it."""
        if self._asking is None:
            self._asked_at_s = self._clock()
            self._asking = asyncio.get_running_loop().create_task(self._refresh())
            self._asking.add_done_callback(self._asked)
        return self._asking

    def _asked(self, task: asyncio.Task[None]) -> None:
        self._asking = None

    async def _refresh(self) -> None:
        try:
            self._token, self._ends_at_s = await asyncio.to_thread(self._fetch)
        except WarmstartError as error:
            self._failure = error
            if self._alive():
                self._not_renewed.say(f"the Google token can't be renewed; it is used until it expires: {error}")
        else:
            self._failure = None

    def _fetch(self) -> tuple[str, float]:
        """Return a new token and when it expires. Blocking."""
        from google.auth import exceptions
        from google.auth.transport.requests import Request

        request = Request()

        def call(*arguments: Any, **named: Any) -> Any:
            return request(*arguments, **{**named, "timeout": named.get("timeout") or TOKEN_TIMEOUT_S})

        try:
            loaded = self._credentials is None
            if loaded:
                self._credentials = self._load()
            if not (loaded and self._credentials.valid):  # finding some kinds already fetches a token
                self._credentials.refresh(call)
        except (exceptions.GoogleAuthError, OSError, ValueError) as error:
            said = f"the Google credentials can't be used: {_sentence(error)}"
            if isinstance(error, exceptions.TransportError) or getattr(error, "retryable", False):
                raise blame(OriginUnavailable(said), "credentials") from None
            raise blame(AccessDenied(said), "credentials") from None
        token, expiry = self._credentials.token, self._credentials.expiry
        ends_at_s = expiry.replace(tzinfo=UTC).timestamp() if expiry is not None else self._clock() + 3600
        return token, ends_at_s


def _sentence(error: BaseException) -> str:
    """Return an error's sentence, without the token server's whole answer, which google-auth puts behind it."""
    first = error.args[0] if error.args else error
    return " ".join(str(first).split())[:300] or type(error).__name__


def load_credentials(
    key_file: Path | None = None, impersonate: str | None = None, *, iam_endpoint: str | None = None
) -> Any:
    """Return google-auth credentials. Blocking; raises what google-auth raises.

    `key_file` is that of a service account. Without it, the application default credentials are used (the file named by
    GOOGLE_APPLICATION_CREDENTIALS, gcloud's, workload identity, the metadata server). `impersonate` is the address of
    a service account to impersonate. `iam_endpoint` is for tests.
    """
    import google.auth
    from google.auth import impersonated_credentials
    from google.auth.transport.requests import Request
    from google.oauth2 import service_account

    scopes = list(SCOPES if impersonate is None else SOURCE_SCOPES)
    if key_file is not None:
        found: Any = service_account.Credentials.from_service_account_file(str(key_file), scopes=scopes)  # type: ignore[no-untyped-call]
    else:
        found, _ = google.auth.default(scopes=scopes, request=_without_projects(Request()))
    if impersonate is None:
        return found
    return impersonated_credentials.Credentials(  # type: ignore[no-untyped-call]
        found, target_principal=impersonate, target_scopes=list(SCOPES), iam_endpoint_override=iam_endpoint
    )


def _without_projects(request: Any) -> Any:
    """Skip google-auth's request for a federation's project: it is not needed, and its service may be unreachable."""

    def call(url: str, *arguments: Any, **named: Any) -> Any:
        if url.startswith("https://cloudresourcemanager."):
            return SimpleNamespace(status=404, headers={}, data=b"{}")
        return request(url, *arguments, **named)

    return call
