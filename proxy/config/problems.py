"""Turns what pydantic found wrong into one line: where it was written, the key, its value, the fix.

Values are shown only where they can't be secret: never of an unknown key (a misspelt `secret_acess_key`), never of a
whole mapping.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, BeforeValidator, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from proxy.config.buckets import BucketSettings
from proxy.config.origins import KINDS, RemoteOriginSettings
from proxy.config.quantities import (
    parse_duration,
    parse_share,
    parse_size,
    render_duration,
    render_share,
    render_size,
)
from proxy.config.section import KeyProblem
from proxy.config.settings import Settings
from proxy.http.masking import mask_url

Path = tuple[str | int, ...]

_RENDERERS: dict[Any, Callable[[Any], str]] = {
    parse_size: render_size,
    parse_duration: render_duration,
    parse_share: render_share,
}
_SECRET_WORDS = ("secret", "token", "password", "key_id", "credentials", "redis")
_SHOWN_CHARACTERS = 80


@dataclass(frozen=True, slots=True)
class Problem:
    """`path` leads to the key; `value` is text that may be shown, or None."""

    path: Path
    value: str | None
    text: str

    @property
    def key(self) -> str:
        return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in self.path).lstrip(".")

    def __str__(self) -> str:
        value = "" if self.value is None else f"{self.value!r} "
        return f"{self.key}: {value}{self.text}"


def find_problem(error: ValidationError) -> Problem:
    """The first of the errors, in the words of this project."""
    details = error.errors(include_url=False)[0]
    path = _without_tags(details["loc"])
    cause = details.get("ctx", {}).get("error")
    if isinstance(cause, KeyProblem):
        whole = (*path, *cause.key.split("."))
        return Problem(whole, None if cause.value is None else _showable(whole, str(cause.value)), str(cause))
    text = _explain(details, path, _kind(details["loc"]))
    return Problem(path, _shown(path, details), text)


def _without_tags(location: Sequence[str | int]) -> Path:
    """Pydantic puts the origin's type into the path to its fields: origins, lab, s3, endpoint."""
    if _kind(location) is not None:
        location = (*location[:2], *location[3:])
    if location and location[-1] == "[key]":
        location = location[:-1]
    return tuple(location)


def _kind(location: Sequence[str | int]) -> str | None:
    """The type of the origin that the problem is in, which pydantic writes into the path to its fields."""
    if len(location) > 2 and location[0] == "origins" and location[2] in KINDS:
        return str(location[2])
    return None


def _shown(path: Path, details: ErrorDetails) -> str | None:
    value = details["input"]
    if details["type"] in ("missing", "union_tag_not_found") or isinstance(value, Mapping | list | tuple | SecretStr):
        return None
    if details["type"] == "extra_forbidden" or (path[:1] == ("origins",) and len(path) < 3):
        return None  # of an unknown key nobody can tell what it holds
    return _showable(path, str(value))


def _showable(path: Path, value: str) -> str | None:
    """The value as it may be shown: nothing where a secret is expected, or may have been written by mistake."""
    names = [step for step in path if isinstance(step, str)]
    key = names[-1].lower() if names else ""
    if "://" in value and "@" not in value:
        return mask_url(value)
    if "@" in value or not value.isprintable() or len(value) > _SHOWN_CHARACTERS:
        return None
    if key.endswith("_file") and key != "secret_file":
        return value if value.startswith(("/", "./", "../", "~")) else None
    return None if any(word in key for word in _SECRET_WORDS) else value


def _explain(details: ErrorDetails, path: Path, kind: str | None) -> str:
    context = details.get("ctx", {})
    match details["type"]:
        case "value_error":
            return str(context["error"])
        case "extra_forbidden":
            return _unknown_key(path, kind)
        case "missing":
            return "is missing; add it"
        case "union_tag_not_found":
            return f"has no type; add type: {' or '.join(KINDS)}"
        case "union_tag_invalid":
            return f"has the unknown type {context['tag']!r}; write type: {' or '.join(KINDS)}"
        case "literal_error" | "enum":
            return f"is not one of {context['expected']}; write one of them"
        case "bool_parsing" | "bool_type":
            return "is neither true nor false; write true or false"
        case "int_parsing" | "int_type" | "int_from_float":
            return "is not a whole number; write one, such as 2"
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal" as relation:
            return _out_of_bounds(relation, next(iter(context.values())), _field(path, kind))
        case "string_type" | "path_type":
            return "is not text; put it in quotes"
        case "string_too_short" | "too_short":
            return "is empty; write a value or leave the key out"
        case "model_type" | "dict_type" | "model_attributes_type":
            return "is not a mapping; write keys below it"
        case "tuple_type" | "list_type":
            return "is not a list; write [...]"
        case "string_pattern_mismatch":
            return "has characters that are not allowed in a name; use letters, digits, '.', '_' and '-'"
    return f"is not valid ({details['msg']}); see docs/configuration.md"


def _out_of_bounds(relation: str, bound: float, field: FieldInfo | None) -> str:
    words = {
        "greater_than": "more than",
        "greater_than_equal": "at least",
        "less_than": "less than",
        "less_than_equal": "at most",
    }[relation]
    return f"is out of range; write {words} {_in_its_unit(bound, field)}"


def _in_its_unit(bound: float, field: FieldInfo | None) -> str:
    """The bound as people write values of that field: sizes, durations and shares have units."""
    parsers = _parsers(field) if field is not None else set()
    for parse, render in _RENDERERS.items():
        if parse in parsers:
            return render(int(bound) if parse is parse_size else bound)
    return f"{bound:g}" if bound < 1e6 else str(bound)


def _parsers(field: FieldInfo) -> set[Any]:
    """What reads the values of a field before they are checked."""
    found, left = list(field.metadata), [field.annotation]
    while left:
        annotation = left.pop()
        found += getattr(annotation, "__metadata__", ())
        left += get_args(annotation)
    return {item.func for item in found if isinstance(item, BeforeValidator)}


def _unknown_key(path: Path, kind: str | None) -> str:
    key = str(path[-1])
    known = _known_keys(path[:-1], kind)
    others = [other for other, section in KINDS.items() if len(path) == 3 and kind and key in section.model_fields]
    if others:
        return f"is a key of type {' and '.join(others)}, not of {kind}; remove it, or write one of: {', '.join(known)}"
    close = difflib.get_close_matches(key, known, n=1)
    if close:
        return f"is an unknown key; did you mean {close[0]}?"
    return f"is an unknown key; remove it, or write one of: {', '.join(known)}"


def _known_keys(path: Path, kind: str | None) -> list[str]:
    """The keys that the mapping at `path` may have; `kind`: of the origin that it is in."""
    section = _section(path, kind)
    return list(section.model_fields) if section is not None else []


def _field(path: Path, kind: str | None) -> FieldInfo | None:
    """The field at the end of `path`; `kind`: of the origin that it is in."""
    section = _section(path[:-1], kind)
    return section.model_fields.get(str(path[-1])) if section is not None and path else None


def _section(path: Path, kind: str | None) -> type[BaseModel] | None:
    """What the mapping at `path` is checked by; None: none of ours."""
    section: type[BaseModel] | None = Settings
    if len(path) > 1 and path[0] in ("origins", "buckets"):  # mappings of names to sections
        section = BucketSettings if path[0] == "buckets" else KINDS.get(kind or "", RemoteOriginSettings)
        path = path[2:]
    for step in path:
        if isinstance(step, str) and section is not None:
            field = section.model_fields.get(step)
            section = _section_of(field.annotation) if field is not None else None
    return section


def _section_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_section_of(argument) for argument in get_args(annotation))
    return next((section for section in found if section is not None), None)
