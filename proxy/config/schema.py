"""The JSON schema of the YAML file, by which editors complete and check it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel

from proxy.config.section import Section
from proxy.config.settings import Settings


def sections_of(settings: type[BaseModel]) -> tuple[type[BaseModel], ...]:
    """A section and all that stand below it, each once."""
    found: list[type[BaseModel]] = [settings]
    for section in found:
        below = (part for field in section.model_fields.values() for part in _sections_in(field.annotation))
        found += dict.fromkeys(part for part in below if part not in found)
    return tuple(found)


def _sections_in(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for part in get_args(annotation):
        yield from _sections_in(part)


SECTIONS = sections_of(Settings)
"""Every section that there is: documents are compared with them."""


def render_schema(settings: type[BaseModel] = Settings) -> str:
    """The schema as indented JSON with a final newline."""
    schema = settings.model_json_schema()
    for section in sections_of(settings):
        below = schema if section is settings else schema["$defs"][section.__name__]
        _write_defaults(below["properties"], section)
    _accept_short_forms(schema)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "warmstart configuration"}
    return json.dumps(head | _without_noise(schema), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _write_defaults(properties: dict[str, Any], section: type[BaseModel]) -> None:
    """Defaults as people write them (8MiB); none for what depends on the machine."""
    written = section.model_construct().model_dump(mode="json", warnings=False)
    for name, field in section.model_fields.items():
        properties[name].pop("default", None)
        fixed = not field.is_required() and field.default_factory is None
        if fixed and written[name] is not None and written[name] != [] and not isinstance(written[name], dict):
            properties[name]["default"] = written[name]


def _accept_short_forms(schema: dict[str, Any]) -> None:
    """One address or disk instead of a list, lists by dialect, a word instead of a mapping."""
    for properties, name in (
        (schema["properties"], "listen"),
        (schema["$defs"]["CacheSettings"]["properties"], "disks"),
    ):
        listed = properties[name]
        form = {key: listed.pop(key) for key in ("type", "items", "minItems", "minLength") if key in listed}
        form.pop("minLength", None)
        listed["anyOf"] = [form["items"], form | {"minItems": 1}]
    for name in ("listen", "host_suffixes"):
        listed = schema["properties"][name]
        if "anyOf" not in listed:
            listed["anyOf"] = [{key: listed.pop(key) for key in ("type", "items")}]
        item = listed["anyOf"][-1]["items"]
        many = {"anyOf": [item, {"type": "array", "items": item}]}
        dialects = {"type": "object", "minProperties": 1, "additionalProperties": False}
        listed["anyOf"].append(dialects | {"properties": {"s3": many, "gcs": many}})
    schema["properties"]["auth"]["anyOf"].insert(0, {"const": "none"})


def _without_noise(node: Any) -> Any:
    """No titles that repeat the key, no null where a key may be left out."""
    if isinstance(node, list):
        return [_without_noise(item) for item in node if item != {"type": "null"}]
    if not isinstance(node, dict):
        return node
    kept = {
        key: _without_noise(value) for key, value in node.items() if not (key == "title" and isinstance(value, str))
    }
    if len(kept.get("anyOf", ())) == 1:
        kept |= kept.pop("anyOf")[0]
    return kept
