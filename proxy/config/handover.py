"""Checked settings on their way to a child process, which need not check them again.

How it works. Loading pydantic and building its models takes a process a quarter of a second, more than all that a
worker needs to serve. The supervisor pays for it once, checks, and hands the result over: `render_settings` turns
every section into a `Plain` object with the same names, and answers what only a model's own methods know; a child
gets them by `parse_settings`, with nothing but the standard library. What it gets is typed as what it stands for.

The text is pickled: it comes from the parent by an inherited descriptor and from nobody else.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from pydantic import BaseModel

    from proxy.config.settings import Settings


WILDCARD = "*"  # the rule of all buckets that have none of their own


class Plain:
    """A section: its values under their own names, never changed. Repr shows no value, as some are secret."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.__dict__.update(values)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"settings can't be changed: {name}")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {', '.join(self.__dict__)}>"


class PlainSettings(Plain):
    """The whole; what the model computes was computed before it was handed over."""

    buckets: dict[str, Any]

    def bucket_rules(self) -> dict[str, Any]:
        return self.buckets

    def writes_through(self, rule: Any) -> bool:
        return bool(rule.writes == "through")


class PlainCluster(Plain):
    """The fleet's section, its secrets read."""

    def secrets(self) -> tuple[bytes, ...]:
        found: tuple[bytes, ...] = self.__dict__["secret"]
        return found


class PlainSecret:
    """Told only to who asks for it by name."""

    def __init__(self, value: str) -> None:
        self._value = value

    def get_secret_value(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "**********"


def render_settings(settings: Settings) -> bytes:
    """What a child is given."""
    values = _section_values(settings)
    values["buckets"] = {
        name: Plain(_section_values(rule) | {"writes": "through" if settings.writes_through(rule) else "deny"})
        for name, rule in settings.bucket_rules().items()
    }
    values["origins"] = {
        name: Plain(_section_values(origin) | {fact: getattr(origin, fact) for fact in origin.FACTS})
        for name, origin in settings.origins.items()
    }
    if settings.cluster is not None:
        cluster = _section_values(settings.cluster)
        values["cluster"] = PlainCluster(cluster | {"secret": settings.cluster.secrets()})
    return pickle.dumps(PlainSettings(values))


def parse_settings(text: bytes) -> Settings:
    """The attributes and methods of `Settings` that processes of a run use."""
    return cast("Settings", pickle.loads(text))


def _section_values(section: BaseModel) -> dict[str, Any]:
    return {name: _plain(getattr(section, name)) for name in type(section).model_fields}


def _plain(value: Any) -> Any:
    if hasattr(type(value), "model_fields"):
        return Plain(_section_values(value))
    if hasattr(value, "get_secret_value"):
        return PlainSecret(value.get_secret_value())
    if is_dataclass(value) and not isinstance(value, type):
        return Plain({field.name: _plain(getattr(value, field.name)) for field in fields(value)})
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return tuple(_plain(item) for item in value)
    return value
