"""The JSON schema is the one of the settings, and agrees with them about the examples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from proxy.config.schema import SECTIONS, render_schema
from proxy.config.sources import load_configuration

CONFIGS = Path(__file__).parents[2] / "configs"
EXAMPLES = sorted(path for path in CONFIGS.glob("*.yaml") if path.name != "compose.yaml")
# The one thing that an example of a fleet must not hold.
FLEET = {"WARMSTART_CLUSTER__SECRET": "sixteen characters at least"}
SCHEMA: dict[str, Any] = json.loads(render_schema())


def test_the_committed_schema_is_fresh() -> None:
    committed = (CONFIGS / "warmstart.schema.json").read_text("utf-8")
    assert committed == render_schema(), "run: warmstart config schema > configs/warmstart.schema.json"


def test_the_schema_does_not_depend_on_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert "/elsewhere" not in render_schema()
    assert str(Path.home()) not in render_schema()


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_every_key_is_described() -> None:
    sections = {"Settings": SCHEMA, **SCHEMA["$defs"]}
    silent = [
        f"{section.__name__}.{key}"
        for section in SECTIONS
        for key, value in sections[section.__name__]["properties"].items()
        if "description" not in value and "$ref" not in value and key != "type"
    ]
    assert not silent


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_accepted_by_the_settings_and_by_the_schema(path: Path) -> None:
    load_configuration(path, FLEET if path.name.startswith("fleet-") else {})
    jsonschema.validate(yaml.safe_load(path.read_text("utf-8")), SCHEMA)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_opens_with_its_schema_and_its_purpose(path: Path) -> None:
    first, second = path.read_text("utf-8").splitlines()[:2]
    assert first == "# yaml-language-server: $schema=./warmstart.schema.json"
    assert second.startswith("# When " if path.name != "warmstart.yaml" else "#")


def test_the_commented_example_names_every_key() -> None:
    text = (CONFIGS / "warmstart.yaml").read_text("utf-8")
    missing = [key for section in SECTIONS for key in section.model_fields if f"{key}:" not in text and key != "mode"]
    assert not missing


@pytest.mark.parametrize(
    "text",
    [
        "listen: ['127.0.0.1:1', '[::1]:1']",
        "auth: {mode: none}",
        "auth: none",
        "cache: {disks: {path: /a, size: 1073741824}, high_watermark: 0.9, low_watermark: 80%, block_size: 64Ki}",
        "limits: {drain_timeout: 0}",
        "buckets: {a: {origin: o, consistency: ttl 5m, writes: through}}",
    ],
)
def test_the_schema_accepts_every_form_that_the_settings_accept(tmp_path: Path, text: str) -> None:
    text += "\norigins: {o: {type: file, root: /x}}\n"
    (tmp_path / "w.yaml").write_text(text)
    load_configuration(tmp_path / "w.yaml", {})
    jsonschema.validate(yaml.safe_load(text), SCHEMA)


@pytest.mark.parametrize(
    "text",
    [
        "listen: []",
        "workers: 0",
        "wokers: 1",
        "cache: {block_size: 8MX}",
        "cache: {disks: []}",
        "limits: {drain_timeout: 30}",
        "origins: {o: {type: s4}}",
        "origins: {o: {type: file, root: /x, region: y}}",
        "buckets: {a: {origin: o, consistency: lazy}}",
        "buckets: {a: {}}",
    ],
)
def test_the_schema_refuses_what_the_settings_refuse(text: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(text), SCHEMA)
