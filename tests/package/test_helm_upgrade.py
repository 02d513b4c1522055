"""What the chart made up at its first install is found again by every upgrade: helm asks a cluster, here a fake one."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import yaml

from tests.package.charts import CHART, Release, needs_helm, run_helm

pytestmark = needs_helm

SECRETS = {"name": "secrets", "kind": "Secret", "namespaced": True, "singularName": "secret", "verbs": ["get"]}
DISCOVERY: dict[str, Any] = {
    "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.0"},
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
    "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": [SECRETS]},
}


class Cluster:
    """As much of an API server as a look-up asks for: `answers` by path."""

    def __init__(self) -> None:
        self.answers = dict(DISCOVERY)
        answers = self.answers

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = answers.get(self.path.partition("?")[0])
                missing = {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}
                body = json.dumps(found or missing).encode()
                self.send_response(200 if found else 404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True

    def keep(self, name: str, **values: str) -> None:
        """A Secret of an earlier install."""
        data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data}
        self.answers[f"/api/v1/namespaces/models/secrets/{name}"] = secret

    def upgrade(self, *arguments: str) -> dict[str, str]:
        """The chart's own Secret as an upgrade would write it."""
        place = ("--namespace", "models", "--kube-version", "1.34.0", "--dry-run=server")
        api = ("--kubeconfig", "/dev/null", "--kube-apiserver", f"http://127.0.0.1:{self.server.server_port}")
        rendered = run_helm("template", "warmstart", str(CHART), *place, *api, *arguments)
        manifests = [manifest for manifest in yaml.safe_load_all(rendered) if manifest is not None]
        return Release(tuple(manifests)).secrets()["warmstart"]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster()
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def test_an_upgrade_keeps_what_the_first_install_made_up(cluster: Cluster) -> None:
    cluster.keep("warmstart", **{"cluster-secret": "kept-kept-kept-kept", "redis-password": "kept-too"})
    secret = cluster.upgrade("--set", "redis.enabled=true")
    assert secret["cluster-secret"] == "kept-kept-kept-kept"
    assert secret["redis-url"] == "redis://warmstart:kept-too@warmstart-redis.models.svc:6379/0"


def test_a_secret_that_is_given_later_replaces_the_one_that_was_made_up(cluster: Cluster) -> None:
    cluster.keep("warmstart", **{"cluster-secret": "kept-kept-kept-kept"})
    assert cluster.upgrade("--set", f"cluster.secret={'g' * 16}")["cluster-secret"] == "g" * 16


def test_a_redis_that_is_switched_on_later_gets_a_password_of_its_own(cluster: Cluster) -> None:
    cluster.keep("warmstart", **{"cluster-secret": "kept-kept-kept-kept"})
    secret = cluster.upgrade("--set", "redis.enabled=true")
    assert secret["cluster-secret"] == "kept-kept-kept-kept"
    assert len(secret["redis-password"]) == 40


def test_a_first_install_makes_up_both(cluster: Cluster) -> None:
    secret = cluster.upgrade("--set", "redis.enabled=true")
    assert len(secret["cluster-secret"]) == len(secret["redis-password"]) == 40
