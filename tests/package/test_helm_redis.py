"""The chart's own Redis: a real server with its pod's file, asked by the URL that the gateways are given."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis.exceptions import AuthenticationError, NoPermissionError

from tests.fleet.redis_servers import RedisServer
from tests.package.charts import needs_helm, render
from tests.servers import free_port


@needs_helm
def test_the_gateways_url_opens_the_redis_of_the_chart_and_nothing_else_does(tmp_path: Path) -> None:
    release = render(redis={"enabled": True})
    url = urlsplit(release.secrets()["warmstart"]["redis-url"])
    service = release.one("Service", "warmstart-redis")
    assert url.hostname == f"{service['metadata']['name']}.models.svc"
    assert url.port == service["spec"]["ports"][0]["port"]

    (container,) = release.one("StatefulSet", "warmstart-redis")["spec"]["template"]["spec"]["containers"]
    assert container["args"] == ["/etc/redis/redis.conf"]
    file = tmp_path / "redis.conf"
    assert {"name": "data", "mountPath": "/data"} in container["volumeMounts"]
    file.write_text(release.secrets()["warmstart-redis"]["redis.conf"].replace("/data", str(tmp_path)))
    port = free_port()
    arguments = (str(file), "--port", str(port))
    with RedisServer(port, tmp_path, arguments, credentials=f"{url.username}:{url.password}") as server:
        server.start()
        client = server.client()
        assert client.ping()
        prefix = release.configuration()["cluster"]["prefix"]
        assert client.set(f"{prefix}:member:one", 1)
        assert client.info("memory")["maxmemory"] == 256 << 20
        for refused in (lambda: client.set("another:key", 1), lambda: client.config_get("save"), client.flushall):
            with pytest.raises(NoPermissionError):
                refused()
        for credentials in ("warmstart:another", f":{url.password}"):
            server.credentials = credentials
            with pytest.raises(AuthenticationError):
                server.client().ping()
