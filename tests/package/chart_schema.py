"""Makes the part of the chart's values.schema.json that the settings decide: what the value `config` may hold.

How it works. The value is warmstart.yaml without what the chart writes itself. Its schema is the settings' own, with
those keys left open, as the chart refuses them with a better sentence than a schema has. A choice among origins
becomes one condition for each type: a validator then names the key that is wrong, not every type that it might be.
All else in the file is written by hand and stays as it is.

After a change of the settings: `python -m tests.package.chart_schema`
"""

from __future__ import annotations

import json
from typing import Any

from proxy.config.schema import render_schema
from tests.tidy.sources import ROOT

SCHEMA = ROOT / "helm/warmstart/values.schema.json"
WRITTEN_BY_THE_CHART = {"Config": ("listen", "tls", "cluster"), "CacheSettings": ("disks",)}
WRITTEN_BY_THE_CHART |= {"LimitSettings": ("drain_timeout",)}
BY_HAND = {
    "Objects": {"type": "array", "items": {"type": "object"}},
    "Port": {"type": "integer", "minimum": 1024, "maximum": 65535},
    "PullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    "Strings": {"type": "object", "additionalProperties": {"type": "string"}},
}


def render() -> str:
    """The whole file, as it should be."""
    written = json.loads(SCHEMA.read_text("utf-8"))
    written["$defs"] = _needed(_definitions(), written["properties"])
    return json.dumps(written, indent=2, ensure_ascii=False) + "\n"


def _definitions() -> dict[str, Any]:
    settings = json.loads(render_schema())
    definitions: dict[str, Any] = settings["$defs"] | BY_HAND
    definitions["Config"] = {key: settings[key] for key in ("type", "additionalProperties", "properties")}
    for name, keys in WRITTEN_BY_THE_CHART.items():
        definitions[name]["properties"] |= {key: {} for key in keys}
    origins = definitions["Config"]["properties"]["origins"]
    (pattern, choice), *_ = origins["patternProperties"].items()
    origins["patternProperties"][pattern] = _conditions(choice["discriminator"])
    origins["additionalProperties"] = False
    return definitions


def _conditions(discriminator: dict[str, Any]) -> dict[str, Any]:
    key, mapping = discriminator["propertyName"], discriminator["mapping"]
    return {
        "type": "object",
        "required": [key],
        "properties": {key: {"enum": sorted(mapping)}},
        "allOf": [
            {"if": {"properties": {key: {"const": value}}, "required": [key]}, "then": {"$ref": place}}
            for value, place in sorted(mapping.items())
        ],
    }


def _needed(definitions: dict[str, Any], properties: Any) -> dict[str, Any]:
    """Those that something refers to, in the order of their names."""
    found: set[str] = set()
    queue = [properties]
    while queue:
        node = queue.pop()
        if isinstance(node, list):
            queue += node
        elif isinstance(node, dict):
            queue += [value for key, value in node.items() if key != "$ref"]
            name = str(node.get("$ref", "")).removeprefix("#/$defs/")
            if name and name not in found:
                found.add(name)
                queue.append(definitions[name])
    return {name: definitions[name] for name in sorted(found)}


if __name__ == "__main__":
    SCHEMA.write_text(render(), "utf-8")
