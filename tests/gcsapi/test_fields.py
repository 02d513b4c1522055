"""Partial responses: what `fields` chooses, and what it can't mean."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcsapi.fields import OBJECT, OBJECTS, parse_fields, select
from proxy.errors import InvalidRequest

PAGE: dict[str, Any] = {
    "kind": "storage#objects",
    "nextPageToken": "t",
    "prefixes": ["d/"],
    "items": [{"name": "a", "size": "1", "metadata": {"x": "1", "y": "2"}}, {"name": "b", "size": "2"}],
}


@pytest.mark.parametrize(
    ("fields", "chosen"),
    [
        (None, PAGE),
        ("", PAGE),
        ("*", PAGE),
        ("kind", {"kind": "storage#objects"}),
        ("items/name", {"items": [{"name": "a"}, {"name": "b"}]}),
        ("items(name)", {"items": [{"name": "a"}, {"name": "b"}]}),
        (
            "items(name, size),nextPageToken",
            {"items": [{"name": "a", "size": "1"}, {"name": "b", "size": "2"}], "nextPageToken": "t"},
        ),
        ("items/metadata/x", {"items": [{"metadata": {"x": "1"}}, {}]}),
        ("items/name,items/size", {"items": [{"name": "a", "size": "1"}, {"name": "b", "size": "2"}]}),
        ("items,items/name", {"items": PAGE["items"]}),
        ("items/*", {"items": PAGE["items"]}),
        (
            "*/name",
            {"items": [{"name": "a"}, {"name": "b"}], "kind": PAGE["kind"], "nextPageToken": "t", "prefixes": ["d/"]},
        ),
    ],
)
def test_fields_choose(fields: str | None, chosen: dict[str, Any]) -> None:
    assert select(PAGE, fields, OBJECTS) == chosen


@pytest.mark.parametrize(
    "fields",
    ["(", "items(", "items)", "a,,b", ",", "items(name))", "items/", "it ems(", "ü", "size", "items/nme", "(" * 50],
)
def test_what_can_never_be_chosen_is_refused(fields: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        select(PAGE, fields, OBJECTS)
    assert caught.value.code == "invalidParameter"


def test_nested_metadata_may_have_any_name() -> None:
    assert select({"metadata": {"any": "1"}}, "metadata/any", OBJECT) == {"metadata": {"any": "1"}}


@given(st.text(alphabet="ab(),/* ", max_size=30))
def test_any_text_is_a_selection_or_refused(text: str) -> None:
    with suppress(InvalidRequest):
        parse_fields(text)
