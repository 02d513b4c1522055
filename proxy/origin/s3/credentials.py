"""Credentials for an origin: a fixed key, botocore's chain, or none.

How it works. The chain (environment, shared files, SSO, container and instance roles) may block on the network, at
first use and whenever temporary keys run out, and botocore takes a while to load. So it runs in a thread, one call at
a time for all requests. Its result is used until botocore says that a refresh is due. While a refresh fails and the old
keys are still valid, those are used, and the chain is not asked again for a few seconds.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

from proxy.errors import AccessDenied, blame, fresh
from proxy.http.masking import is_sendable
from proxy.origin.s3.signing import Credentials
from proxy.rate_limited_log import RateLimitedLog

RETRY_PAUSE_S = 5.0

log = logging.getLogger("warmstart.origin")


class CredentialSource(Protocol):
    async def get(self) -> Credentials | None:
        """Return the current keys; None signs nothing. Raises AccessDenied if keys are expected but missing."""
        ...


class FixedCredentials:
    """Keys from the configuration, or None for an anonymous origin."""

    def __init__(self, credentials: Credentials | None) -> None:
        self._credentials = credentials

    async def get(self) -> Credentials | None:
        return self._credentials


def _checked(found: Credentials) -> Credentials:
    """Strip the line breaks of files and variables. Raises AccessDenied for keys that no header can carry."""
    token = found.session_token.strip() if found.session_token is not None else None
    keys = Credentials(found.access_key_id.strip(), found.secret_access_key.strip(), token)
    if not is_sendable(keys.access_key_id) or not is_sendable(token or ""):
        said = "the AWS credentials have a space or another character in the key id or the token that can't be sent"
        raise blame(AccessDenied(said), "credentials")
    return keys


class ChainCredentials:
    """Keys from botocore's credential chain. `session` and `clock` (monotonic seconds) are for tests."""

    def __init__(
        self,
        profile: str | None = None,
        *,
        session: Any = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._profile = profile
        self._session = session
        self._clock = clock
        self._provider: Any = None
        self._current: Credentials | None = None
        self._loading: asyncio.Task[Credentials] | None = None
        self._failed_at_s: float | None = None
        self._failure = AccessDenied("")
        self._not_renewed = RateLimitedLog(log)

    async def get(self) -> Credentials:
        if self._current is not None and not self._refresh_due():
            return self._current
        if self._failed_at_s is not None and self._clock() - self._failed_at_s < RETRY_PAUSE_S:
            if self._current is not None and not self._expired():
                return self._current
            raise fresh(self._failure)
        return await self._load_once()

    async def _load_once(self) -> Credentials:
        """Load in one thread for all waiters; a waiter's cancellation does not stop it."""
        if self._loading is None:
            self._loading = asyncio.get_running_loop().create_task(self._load())
            self._loading.add_done_callback(self._loaded)
        return await asyncio.shield(self._loading)

    def _loaded(self, task: asyncio.Task[Credentials]) -> None:
        self._loading = None
        if not task.cancelled():
            task.exception()  # retrieved, even if every waiter has gone

    async def _load(self) -> Credentials:
        try:
            self._current = await asyncio.to_thread(self._read_chain)
        except AccessDenied as error:
            self._failed_at_s, self._failure = self._clock(), error
            if self._current is not None and not self._expired():
                self._not_renewed.say(f"the AWS credentials can't be renewed; they are used until they expire: {error}")
                return self._current
            raise
        self._failed_at_s = None
        return self._current

    def _read_chain(self) -> Credentials:
        from botocore.exceptions import BotoCoreError
        from botocore.session import Session

        try:
            if self._session is None:
                self._session = Session(profile=self._profile)
            if self._provider is None:
                self._provider = self._session.get_credentials()
            if self._provider is None:
                missing = AccessDenied(
                    "no AWS credentials found (environment, shared files, instance role): "
                    "give the origin an access_key_id, or set anonymous: true"
                )
                raise blame(missing, "credentials")
            keys = self._provider.get_frozen_credentials()
        except BotoCoreError as error:
            raise blame(AccessDenied(f"the AWS credentials can't be used: {error}"), "credentials") from None
        return _checked(Credentials(keys.access_key, keys.secret_key, keys.token))

    def _refresh_due(self) -> bool:
        """Return whether botocore wants new keys; never for plain keys, or keys that don't expire."""
        refresh_needed = getattr(self._provider, "refresh_needed", None)
        return refresh_needed is not None and bool(refresh_needed())

    def _expired(self) -> bool:
        refresh_needed = getattr(self._provider, "refresh_needed", None)
        return refresh_needed is not None and bool(refresh_needed(refresh_in=0))
