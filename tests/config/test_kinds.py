"""The kinds of origins stand in one list, and a new one touches nothing else but its settings and its builder."""

from __future__ import annotations

import ast
import json
from typing import Annotated, Any, cast

import pytest
from pydantic import Field, ValidationError

from proxy.composition.app import build_origin
from proxy.config.handover import parse_settings, render_settings
from proxy.config.origins import KINDS, OriginSettings
from proxy.config.problems import find_problem
from proxy.config.schema import SECTIONS, render_schema, sections_of
from proxy.config.settings import Settings
from tests.fakes.tape import TapeOriginSettings
from tests.tidy.sources import PRODUCT, ROOT, Module, modules, position


class TapedSettings(Settings):
    """The settings, with a kind more in the list."""

    origins: dict[str, Annotated[OriginSettings | TapeOriginSettings, Field(discriminator="type")]]  # type: ignore[assignment]


@pytest.fixture(autouse=True)
def _a_kind_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "tape", TapeOriginSettings)


def problem(origin: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as caught:
        TapedSettings.model_validate({"origins": {"old": origin}})
    return str(find_problem(caught.value))


def test_messages_know_a_new_kind() -> None:
    assert problem({"type": "taep"}).endswith("write type: s3 or gcs or file or gateway or tape")
    assert problem({}).endswith("has no type; add type: s3 or gcs or file or gateway or tape")
    assert problem({"type": "tape", "cellar": "c", "combinatoin": "x"}) == (
        "origins.old.combinatoin: is an unknown key; did you mean combination?"
    )
    assert problem({"type": "tape"}) == "origins.old.cellar: is missing; add it"
    assert "is a key of type tape, not of s3" in problem({"type": "s3", "cellar": "c"})
    assert problem({"type": "tape", "cellar": "c", "hedge": "50%"}) == (
        "origins.old.hedge: '50%' is out of range; write at most 10%"
    )


def test_the_schema_and_the_tests_of_the_docs_know_a_new_kind() -> None:
    schema = json.loads(render_schema(TapedSettings))
    assert schema["$defs"]["TapeOriginSettings"]["properties"]["cellar"]["description"] == "Where the tapes are."
    assert set(sections_of(TapedSettings)) - {TapedSettings} == {*SECTIONS, TapeOriginSettings} - {Settings}


async def test_a_worker_builds_a_new_kind_from_what_it_is_handed() -> None:
    values = {"origins": {"old": {"type": "tape", "cellar": "c:1", "combination": "hush"}}}
    settings = parse_settings(render_settings(TapedSettings.model_validate(values)))
    rule = cast("TapeOriginSettings", settings.origins["old"])
    assert (rule.by_http, rule.private, rule.secret_words) == (True, False, ("hush",))
    origin = build_origin("old", rule, settings.limits)
    assert (origin.name, origin.id) == ("old", "s3://c:1")
    await origin.aclose()


def test_the_page_of_the_settings_names_every_kind() -> None:
    page = (ROOT / "docs/configuration.md").read_text("utf-8")
    [row] = [line for line in page.splitlines() if line.startswith("| `origins.<name>.type`")]
    assert [kind for kind in KINDS if kind != "tape" and f"`{kind}`" not in row] == []


def test_every_section_of_the_settings_is_among_those_that_documents_are_compared_with() -> None:
    names = {section.__name__ for section in SECTIONS}
    assert {"ClusterSettings", "GatewayOriginSettings", "GcsCredentialSettings", "DiskSettings"} < names
    defined = json.loads(render_schema())["$defs"]
    assert {name for name in defined if name.endswith("Settings")} == names - {"Settings"}


def kinds_told_apart_in(module: Module) -> list[str]:
    """Where a module asks for an origin's type, or knows the settings of one kind."""
    own = {f"{section.__name__}" for section in KINDS.values()}
    found = []
    for node in ast.walk(module.tree):
        if (
            isinstance(node, ast.Compare)
            and isinstance(node.left, ast.Attribute)
            and node.left.attr == "type"
            and any(isinstance(each, ast.Constant) and each.value in KINDS for each in node.comparators)
        ):
            found.append(position(module.path, node.lineno))
        if isinstance(node, ast.ImportFrom) and own & {alias.name for alias in node.names}:
            found.append(position(module.path, node.lineno))
    return found


def test_only_the_list_and_a_kinds_own_builder_know_which_kinds_there_are() -> None:
    builders = {section.builder for section in KINDS.values()}
    others = [module for module in modules(*PRODUCT) if module.name not in {*builders, "proxy.config.origins"}]
    assert len(modules(*PRODUCT)) - len(others) == len(KINDS)  # the tape's is no module of the product
    assert not [line for module in others for line in kinds_told_apart_in(module)]
