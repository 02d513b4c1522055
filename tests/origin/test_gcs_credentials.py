"""Tokens come from google-auth, in a thread, one call for all who wait, ahead of the old one's end."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from google.auth.exceptions import DefaultCredentialsError, RefreshError, TransportError

from proxy.errors import AccessDenied, OriginUnavailable
from proxy.origin.gcs import AnonymousTokens, GoogleTokens, load_credentials
from proxy.origin.gcs.credentials import REFRESH_AHEAD_S, RETRY_PAUSE_S
from tests.fakes.identity import ACCOUNT, identity, write_federation_file, write_key_file
from tests.fakes.scripted import ScriptedServer, answer


@pytest.fixture(autouse=True)
def _nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No credentials of whoever runs the tests."""
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "gcloud"))
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)


async def test_a_service_accounts_key_is_exchanged_for_a_token(tmp_path: Path) -> None:
    async with ScriptedServer(identity()) as server:
        key_file = write_key_file(tmp_path, server.url)
        tokens = GoogleTokens(partial(load_credentials, key_file))
        assert await tokens.get() == "token-1"
        assert await tokens.get() == "token-1"
        [request] = server.requests
    assertion = parse_qs(request.body.decode())["assertion"][0].split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(assertion + "=" * (-len(assertion) % 4)))
    assert (claims["iss"], claims["aud"]) == (ACCOUNT, "https://oauth2.googleapis.com/token")
    assert claims["scope"].endswith("/devstorage.full_control")


async def test_a_file_named_in_the_environment_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with ScriptedServer(identity()) as server:
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(write_key_file(tmp_path, server.url)))
        assert await GoogleTokens(load_credentials).get() == "token-1"


async def test_workload_identity_federation_is_a_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with ScriptedServer(identity()) as server:
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(write_federation_file(tmp_path, server.url)))
        assert await GoogleTokens(load_credentials).get() == "token-1"
        [request] = server.requests
        exchanged = parse_qs(request.body.decode())
    assert exchanged["subject_token"] == ["issued-elsewhere"]


# google-auth reads where its metadata server is when it is imported, so a process of its own finds this one.
_FROM_METADATA = """
import asyncio, sys
import proxy.composition.app
assert "google.auth" not in sys.modules, "imported without need"
from proxy.origin.gcs import GoogleTokens, load_credentials
print(asyncio.run(GoogleTokens(load_credentials).get()))
"""


async def test_a_machines_metadata_server_is_the_default() -> None:
    async with ScriptedServer(identity()) as server:
        place = server.endpoint.authority
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            _FROM_METADATA,
            env={**os.environ, "GCE_METADATA_HOST": place, "GCE_METADATA_IP": place},
            stdout=asyncio.subprocess.PIPE,
        )
        printed, _ = await process.communicate()
        assert printed == b"token-1\n"
        assert all(request.get("metadata-flavor") == "Google" for request in server.requests)


async def test_a_service_account_lends_its_rights(tmp_path: Path) -> None:
    async with ScriptedServer(identity()) as server:
        key_file = write_key_file(tmp_path, server.url)
        lender = "reader@project.iam.gserviceaccount.com"
        endpoint = f"{server.url}/v1/projects/-/serviceAccounts/{lender}:generateAccessToken"
        tokens = GoogleTokens(partial(load_credentials, key_file, lender, iam_endpoint=endpoint))
        assert await tokens.get() == "lent-2"
        first, second = server.requests
        assert first.target == b"/token"
        assert second.get("authorization") == "Bearer token-1"
        assert json.loads(second.body)["scope"] == ["https://www.googleapis.com/auth/devstorage.full_control"]


async def test_no_credentials_at_all_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_GCE_CHECK", "true")

    def load() -> Any:
        raise DefaultCredentialsError("Your default credentials were not found.")  # type: ignore[no-untyped-call]

    with pytest.raises(AccessDenied, match="were not found"):
        await GoogleTokens(load).get()


async def test_a_token_server_that_refuses_is_said_without_its_whole_answer(tmp_path: Path) -> None:
    refusal = answer(400, b'{"error": "invalid_grant", "error_description": "Invalid JWT Signature."}')
    async with ScriptedServer(refusal) as server:
        tokens = GoogleTokens(partial(load_credentials, write_key_file(tmp_path, server.url)))
        with pytest.raises(AccessDenied, match=r"invalid_grant: Invalid JWT Signature\.$"):
            await tokens.get()


async def test_a_key_file_that_is_none_is_said(tmp_path: Path) -> None:
    (tmp_path / "key.json").write_text("{}")
    with pytest.raises(AccessDenied, match="can't be used"):
        await GoogleTokens(partial(load_credentials, tmp_path / "key.json")).get()
    with pytest.raises(AccessDenied, match="can't be used"):
        await GoogleTokens(partial(load_credentials, tmp_path / "nothing.json")).get()


async def test_nobodys_requests_carry_no_token() -> None:
    assert await AnonymousTokens().get() is None
    assert await AnonymousTokens().renew("x") is None


@dataclass
class Source:
    """Credentials as google-auth's, under a test's control."""

    clock: list[float] = field(default_factory=lambda: [1_800_000_000.0])
    lifetime_s: float = 3600.0
    error: Exception | None = None
    token: str | None = None
    expiry: datetime | None = None
    valid: bool = False
    calls: int = 0
    threads: set[int] = field(default_factory=set)
    release: threading.Event = field(default_factory=threading.Event)

    def refresh(self, request: Callable[..., Any]) -> None:
        self.calls += 1
        self.threads.add(threading.get_ident())
        assert self.release.wait(10)
        if self.error is not None:
            raise self.error
        self.token = f"token-{self.calls}"
        self.expiry = datetime.fromtimestamp(self.clock[0] + self.lifetime_s, UTC).replace(tzinfo=None)

    def tokens(self) -> GoogleTokens:
        return GoogleTokens(lambda: self, clock=lambda: self.clock[0])


def ready(source: Source) -> Source:
    source.release.set()
    return source


async def settle(source: Source, calls: int) -> None:
    """Until the source was asked that often, and the loop has heard its answer."""
    while source.calls < calls or len(asyncio.all_tasks()) > 1:
        await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_however_many_wait_google_is_asked_once_and_not_on_the_loop() -> None:
    source = Source()
    tokens = source.tokens()
    waiting = [asyncio.ensure_future(tokens.get()) for _ in range(20)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    source.release.set()
    assert set(await asyncio.gather(*waiting[1:])) == {"token-1"}
    assert source.calls == 1
    assert threading.get_ident() not in source.threads


async def test_a_token_is_renewed_ahead_of_its_end_while_requests_go_on() -> None:
    source = ready(Source())
    tokens = source.tokens()
    await tokens.get()
    source.clock[0] += 3600 - REFRESH_AHEAD_S - 1
    assert await tokens.get() == "token-1"
    assert source.calls == 1
    source.clock[0] += 2
    source.release.clear()
    assert await tokens.get() == "token-1"
    assert await tokens.get() == "token-1"
    source.release.set()
    await settle(source, 2)
    assert await tokens.get() == "token-2"
    assert source.calls == 2


async def test_an_ended_token_is_waited_for() -> None:
    source = ready(Source())
    tokens = source.tokens()
    await tokens.get()
    source.clock[0] += 3601
    assert await tokens.get() == "token-2"


async def test_while_google_is_down_a_living_token_serves_and_google_is_left_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = ready(Source())
    tokens = source.tokens()
    await tokens.get()
    source.clock[0] += 3600 - 10
    source.error = TransportError("no route")  # type: ignore[no-untyped-call]
    assert await tokens.get() == "token-1"
    await settle(source, 2)
    assert await tokens.get() == "token-1"
    assert source.calls == 2
    (line,) = caplog.messages
    assert line.startswith("the Google token can't be renewed; it is used until it expires: ")
    assert "no route" in line
    source.clock[0] += 11
    with pytest.raises(OriginUnavailable, match="no route"):
        await tokens.get()
    with pytest.raises(OriginUnavailable, match="no route"):
        await tokens.get()
    assert source.calls == 3
    source.clock[0] += RETRY_PAUSE_S
    source.error = None
    assert await tokens.get() == "token-4"


async def test_a_refused_token_is_replaced_once_for_all_who_used_it() -> None:
    source = ready(Source())
    tokens = source.tokens()
    await tokens.get()
    source.clock[0] += RETRY_PAUSE_S
    assert await asyncio.gather(*(tokens.renew("token-1") for _ in range(5))) == ["token-2"] * 5
    assert source.calls == 2
    assert await tokens.renew("token-1") == "token-2"  # it has been replaced already
    assert await tokens.renew("token-2") == "token-2"  # it came just now: no better one is to be had
    assert source.calls == 2


async def test_rights_that_were_withdrawn_are_said() -> None:
    source = ready(Source())
    source.error = RefreshError("invalid_grant: Account disabled", {"error": "invalid_grant"})  # type: ignore[no-untyped-call]
    with pytest.raises(AccessDenied, match=r"Account disabled$"):
        await source.tokens().get()


async def test_credentials_that_name_no_end_are_used_for_an_hour() -> None:
    source = ready(Source())
    source.refresh = lambda request: setattr(source, "token", "t")  # type: ignore[method-assign]
    tokens = source.tokens()
    assert await tokens.get() == "t"
    assert tokens._ends_at_s == source.clock[0] + 3600
