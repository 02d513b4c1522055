"""Keys come from botocore's chain, in a thread, one call for all who wait."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import CredentialRetrievalError

from proxy.errors import AccessDenied
from proxy.origin.s3 import ChainCredentials, Credentials, FixedCredentials


@dataclass
class Provider:
    """Keys that expire, as botocore's RefreshableCredentials do."""

    due: bool = True
    expired: bool = False
    fails: bool = False
    calls: int = 0
    threads: set[int] = field(default_factory=set)
    release: threading.Event = field(default_factory=threading.Event)

    def refresh_needed(self, refresh_in: int | None = None) -> bool:
        return self.expired if refresh_in == 0 else self.due

    def get_frozen_credentials(self) -> Any:
        self.calls += 1
        self.threads.add(threading.get_ident())
        assert self.release.wait(10)
        if self.fails:
            raise CredentialRetrievalError(provider="test", error_msg="no route")
        self.due = self.expired = False
        return SimpleNamespace(access_key=f"AKID{self.calls}", secret_key="s", token="t")


def chain(provider: Provider | None, clock: list[float] | None = None) -> ChainCredentials:
    session = SimpleNamespace(get_credentials=lambda: provider)
    return ChainCredentials(session=session, clock=lambda: clock[0] if clock else 0.0)


async def test_fixed_keys_are_given_and_none_means_anonymous() -> None:
    assert await FixedCredentials(None).get() is None
    assert await FixedCredentials(Credentials("a", "b")).get() == Credentials("a", "b")


async def test_the_environments_keys_are_found() -> None:
    keys = await ChainCredentials().get()
    assert (keys.access_key_id, keys.session_token) == ("AKIATESTS", None)


async def test_a_profile_is_read_from_the_shared_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "credentials"
    path.write_text("[lab]\naws_access_key_id = AKIDLAB\naws_secret_access_key = x\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    assert (await ChainCredentials("lab").get()).access_key_id == "AKIDLAB"
    with pytest.raises(AccessDenied, match="nobody"):
        await ChainCredentials("nobody").get()


async def test_however_many_wait_the_chain_is_asked_once_and_not_on_the_loop() -> None:
    provider = Provider()
    source = chain(provider)
    waiting = [asyncio.ensure_future(source.get()) for _ in range(20)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    provider.release.set()
    found = await asyncio.gather(*waiting[1:])
    assert {keys.access_key_id for keys in found} == {"AKID1"}
    assert provider.calls == 1
    assert threading.get_ident() not in provider.threads
    assert (await source.get()).access_key_id == "AKID1"
    assert provider.calls == 1


async def test_keys_are_asked_for_again_when_due() -> None:
    provider = Provider()
    provider.release.set()
    source = chain(provider)
    await source.get()
    provider.due = True
    assert (await source.get()).access_key_id == "AKID2"


async def test_while_a_refresh_fails_living_keys_are_used_and_the_chain_is_left_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = [0.0]
    provider = Provider()
    provider.release.set()
    source = chain(provider, clock)
    await source.get()
    provider.due = provider.fails = True
    assert (await source.get()).access_key_id == "AKID1"
    assert (await source.get()).access_key_id == "AKID1"
    assert provider.calls == 2
    (line,) = caplog.messages
    assert line.startswith("the AWS credentials can't be renewed; they are used until they expire: ")
    assert "no route" in line
    clock[0] = 10.0
    provider.expired = True
    with pytest.raises(AccessDenied, match="no route"):
        await source.get()
    with pytest.raises(AccessDenied, match="no route"):
        await source.get()
    assert provider.calls == 3
    clock[0], provider.fails = 20.0, False
    assert (await source.get()).access_key_id == "AKID4"


async def test_no_keys_at_all_is_said_with_the_remedy() -> None:
    with pytest.raises(AccessDenied, match="anonymous: true"):
        await chain(None).get()
