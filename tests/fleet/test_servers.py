"""The Redis servers of the tests are what they say: they answer, refuse strangers, die, come back, fail over."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import redis

from tests.fleet.redis_servers import start_redis


def test_a_killed_redis_is_gone_and_a_restarted_one_is_empty(tmp_path: Path) -> None:
    with start_redis(tmp_path) as server:
        with contextlib.closing(server.client()) as client:
            client.set("a", "b")
        server.kill()
        with contextlib.closing(server.client()) as client, pytest.raises(redis.ConnectionError):
            client.get("a")
        server.restart()
        with contextlib.closing(server.client()) as client:
            assert client.get("a") is None


def test_a_redis_with_a_user_refuses_who_has_no_password(tmp_path: Path) -> None:
    with start_redis(tmp_path, user="fleet", password="s3cret") as server:
        with contextlib.closing(server.client()) as client:
            assert client.ping()
        with (
            contextlib.closing(redis.Redis(port=server.port)) as stranger,
            pytest.raises(redis.AuthenticationError),
        ):
            stranger.ping()
