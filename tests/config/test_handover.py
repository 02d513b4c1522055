"""What a child process is given of the settings: the same values, under the same names, without pydantic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from proxy.config.handover import WILDCARD, Plain, parse_settings, render_settings
from proxy.config.origins import AnyOriginSettings
from proxy.config.settings import Settings
from proxy.config.sources import Layer, check_layers

WHOLE: dict[str, Any] = {
    "listen": ["127.0.0.1:0", "[::1]:0"],
    "log": {"level": "debug", "access": True},
    "cache": {"disks": [{"path": "/a", "size": "2GiB"}, {"path": "/b", "size": "3GiB"}], "low_watermark": "80%"},
    "origins": {
        "lab": {"type": "s3", "endpoint": "http://lab", "access_key_id": "a", "secret_access_key": "hush"},
        "google": {"type": "gcs", "credentials": {"impersonate": "me@project.iam.gserviceaccount.com"}},
        "shelf": {"type": "file", "root": "/shelf"},
    },
    "buckets": {
        "models": {"origin": "lab", "consistency": "ttl 5m", "writes": "deny"},
        "*": {"origin": "shelf", "consistency": "immutable"},
    },
    "limits": {"send_timeout": "7s"},
}


def checked(values: Mapping[str, Any]) -> Settings:
    return check_layers([Layer("test", dict(values))]).settings


def handed(settings: Settings) -> Settings:
    return parse_settings(render_settings(settings))


def names_below(value: Any, place: str = "") -> dict[str, Any]:
    """Every plain value by its dotted name."""
    if isinstance(value, BaseModel):
        value = {name: getattr(value, name) for name in type(value).model_fields}
    elif isinstance(value, Plain):
        value = vars(value)
    elif is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if hasattr(value, "get_secret_value"):
        return {place: value.get_secret_value()}
    items = enumerate(value) if isinstance(value, tuple) else value.items() if isinstance(value, dict) else ()
    found: dict[str, Any] = {} if isinstance(value, tuple | dict) else {place: value}
    for name, item in items:
        found |= names_below(item, f"{place}.{name}")
    return found


def test_a_child_gets_every_value_under_its_name() -> None:
    settings = checked(WHOLE)
    found, expected = names_below(handed(settings)), names_below(settings)
    resolved = {name for name in expected if name.endswith(".writes") and name != ".writes"}
    facts = {name for name in found if name.startswith(".origins.") and name.split(".")[3] in AnyOriginSettings.FACTS}
    assert len(facts) >= 3 * len(AnyOriginSettings.FACTS) - 2
    resolved |= facts
    assert len(expected) > 60
    assert {name: found[name] for name in found if name not in resolved} == {
        name: expected[name] for name in expected if name not in resolved
    }
    assert isinstance(handed(settings).cache.disks[0].path, Path)


def test_what_a_child_gets_needs_none_of_the_models() -> None:
    def walk(value: Any) -> None:
        assert not type(value).__module__.startswith("pydantic")
        assert not isinstance(value, BaseModel)
        for item in vars(value).values() if hasattr(value, "__dict__") else ():
            walk(item)
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else ():
            walk(item)

    walk(handed(checked(WHOLE)))


def test_who_may_write_is_decided_before_the_handing_over() -> None:
    settings = handed(checked(WHOLE))
    rules = settings.bucket_rules()
    assert (settings.writes_through(rules["models"]), settings.writes_through(rules[WILDCARD])) == (False, True)
    public = handed(checked(WHOLE | {"listen": "0.0.0.0:0", "auth": "none"}))
    assert public.writes_through(public.bucket_rules()[WILDCARD]) is False


def test_one_origin_without_buckets_stands_for_all_of_them_in_a_child_too() -> None:
    settings = handed(checked({"origins": {"shelf": {"type": "file", "root": "/shelf"}}}))
    assert [(name, rule.origin) for name, rule in settings.bucket_rules().items()] == [(WILDCARD, "shelf")]


def test_secrets_are_told_by_name_alone() -> None:
    settings = handed(checked(WHOLE))
    lab = settings.origins["lab"]
    assert lab.type == "s3"
    assert lab.secret_access_key is not None
    assert lab.secret_access_key.get_secret_value() == "hush"
    assert "hush" not in f"{settings!r} {settings} {lab!r} {lab.secret_access_key!r} {lab.secret_access_key}"


def test_handed_settings_can_not_be_changed() -> None:
    settings = handed(checked(WHOLE))
    with pytest.raises(AttributeError):
        settings.workers = 3
