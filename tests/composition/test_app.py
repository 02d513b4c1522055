"""The composition root: settings become origins, credentials and routes. It contacts nobody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from proxy.composition.app import build_origin, build_routes
from proxy.config.origins import S3OriginSettings
from proxy.config.settings import Settings
from proxy.config.sources import Layer, check_layers
from proxy.errors import NotFound
from proxy.gateway.routes import Consistency, Routes
from proxy.origin.s3 import ChainCredentials, FixedCredentials
from proxy.origin.s3.build import build_credentials
from proxy.origin.watched import WatchedOrigin


def settings_of(values: dict[str, Any]) -> Settings:
    return check_layers([Layer("test", values)]).settings


async def routes_of(values: dict[str, Any]) -> tuple[Routes, dict[str, WatchedOrigin]]:
    settings = settings_of(values)
    origins = {name: build_origin(name, rule, settings.limits) for name, rule in settings.origins.items()}
    return build_routes(settings, origins), origins


ORIGINS = {
    "lab": {"type": "s3", "endpoint": "http://127.0.0.1:5000", "anonymous": True},
    "shelf": {"type": "file", "root": "/data"},
}


async def test_buckets_lead_to_their_origins_under_their_real_names_and_rules() -> None:
    buckets = {
        "models": {"origin": "lab", "bucket": "real-name", "consistency": "immutable", "writes": "deny"},
        "fresh": {"origin": "lab", "consistency": "strong"},
        "*": {"origin": "shelf", "consistency": "ttl 5m", "stale_if_error": "1h", "negative_ttl": "3s"},
    }
    routes, origins = await routes_of({"origins": ORIGINS, "buckets": buckets})
    models = routes.route("models")
    assert (models.origin, models.real_bucket, models.writes_through) == (origins["lab"], "real-name", False)
    assert models.consistency is Consistency.IMMUTABLE
    fresh = routes.route("fresh")
    assert (fresh.real_bucket, fresh.writes_through, fresh.consistency) == ("fresh", True, Consistency.STRONG)
    other = routes.route("other")
    assert (other.origin, other.real_bucket, other.consistency) == (origins["shelf"], "other", Consistency.TTL)
    assert (other.ttl_s, other.stale_if_error_s, other.negative_ttl_s) == (300.0, 3600.0, 3.0)


async def test_without_a_wildcard_other_buckets_do_not_exist() -> None:
    routes, _ = await routes_of({"origins": ORIGINS, "buckets": {"models": {"origin": "lab"}}})
    with pytest.raises(NotFound):
        routes.route("other")


async def test_one_origin_without_buckets_serves_them_all() -> None:
    routes, origins = await routes_of({"origins": {"shelf": ORIGINS["shelf"]}})
    assert routes.route("anything").origin is origins["shelf"]


async def test_origins_are_named_by_kind_and_endpoint_and_never_by_alias() -> None:
    _, origins = await routes_of({"origins": ORIGINS, "buckets": {"*": {"origin": "lab"}}})
    assert [origin.id for origin in origins.values()] == ["s3://127.0.0.1:5000", "file:///data"]


def s3(**values: Any) -> S3OriginSettings:
    return S3OriginSettings(type="s3", **values)


async def test_credentials_are_fixed_none_or_the_usual_chain() -> None:
    fixed = build_credentials(s3(access_key_id="a", secret_access_key="b", session_token="c"))
    assert isinstance(fixed, FixedCredentials)
    keys = await fixed.get()
    assert keys is not None
    assert (keys.access_key_id, keys.secret_access_key, keys.session_token) == ("a", "b", "c")
    assert await build_credentials(s3(anonymous=True)).get() is None
    assert isinstance(build_credentials(s3()), ChainCredentials)
    assert isinstance(build_credentials(s3(profile="p")), ChainCredentials)


def test_a_directory_origin_that_does_not_exist_yet_does_not_stop_the_start(tmp_path: Path) -> None:
    settings = settings_of({"origins": {"o": {"type": "file", "root": str(tmp_path / "later")}}})
    assert build_origin("o", settings.origins["o"], settings.limits).dialect == "file"
