"""Turns what pydantic found wrong into one line: where it was written, the key, its value, the fix.

Values are shown only where they can't be secret: never of an unknown key of an origin (a misspelt
`secret_acess_key`), never of a whole mapping.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_core import ErrorDetails

from proxy.config.buckets import BucketSettings
from proxy.config.origins import FileOriginSettings, GcsCredentialSettings, GcsOriginSettings, S3OriginSettings
from proxy.config.quantities import parse_duration, parse_size, render_duration, render_size
from proxy.config.section import KeyProblem
from proxy.config.settings import Settings

Path = tuple[str | int, ...]

_ORIGIN_KINDS: dict[str, type[BaseModel]] = {
    "s3": S3OriginSettings,
    "gcs": GcsOriginSettings,
    "file": FileOriginSettings,
}
_SECRET_WORDS = ("secret", "token", "password", "key_id", "credentials")
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
        value = None if cause.value is None else str(cause.value)
        return Problem((*path, *cause.key.split(".")), value, str(cause))
    text = _explain(details, path)
    return Problem(path, _shown(path, details), text)


def _without_tags(location: Sequence[str | int]) -> Path:
    """Pydantic puts the origin's type into the path to its fields: origins, lab, s3, endpoint."""
    if len(location) > 2 and location[0] == "origins" and location[2] in _ORIGIN_KINDS:
        location = (*location[:2], *location[3:])
    if location and location[-1] == "[key]":
        location = location[:-1]
    return tuple(location)


def _shown(path: Path, details: ErrorDetails) -> str | None:
    value = details["input"]
    if details["type"] in ("missing", "union_tag_not_found") or isinstance(value, Mapping | list | tuple | SecretStr):
        return None
    secret = any(word in str(path[-1]).lower() for word in _SECRET_WORDS) if path else False
    unknown = details["type"] == "extra_forbidden"
    carries_credentials = isinstance(value, str) and "@" in value
    if secret or carries_credentials or (path[:1] == ("origins",) and (unknown or len(path) < 3)):
        return None
    return str(value)[:_SHOWN_CHARACTERS]


def _explain(details: ErrorDetails, path: Path) -> str:
    context = details.get("ctx", {})
    value = details["input"]
    match details["type"]:
        case "value_error":
            return str(context["error"])
        case "extra_forbidden":
            return _unknown_key(path)
        case "missing":
            return "is missing; add it"
        case "union_tag_not_found":
            return f"has no type; add type: {' or '.join(_ORIGIN_KINDS)}"
        case "union_tag_invalid":
            return f"has the unknown type {context['tag']!r}; write type: {' or '.join(_ORIGIN_KINDS)}"
        case "literal_error" | "enum":
            return f"is not one of {context['expected']}; write one of them"
        case "bool_parsing" | "bool_type":
            return "is neither true nor false; write one of them"
        case "int_parsing" | "int_type" | "int_from_float":
            return "is not a whole number; write one, such as 2"
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal" as kind:
            return _out_of_bounds(kind, next(iter(context.values())), value)
        case "string_type" | "path_type":
            return "is not text; write text, in quotes where it looks like something else"
        case "string_too_short" | "too_short":
            return "is empty; write a value or leave the key out"
        case "model_type" | "dict_type" | "model_attributes_type":
            return "is not a mapping; write keys below it"
        case "tuple_type" | "list_type":
            return "is not a list; write [..]"
        case "string_pattern_mismatch":
            return "has characters that a name can't have; use letters, digits, '.', '_' and '-'"
    return f"is not valid ({details['msg']}); see docs/configuration.md"


def _out_of_bounds(kind: str, bound: float, value: object) -> str:
    relation = {
        "greater_than": "above",
        "greater_than_equal": "at least",
        "less_than": "below",
        "less_than_equal": "at most",
    }[kind]
    return f"is out of bounds; write {relation} {_like(value, bound)}"


def _like(value: object, bound: float) -> str:
    """`bound` in the unit of measure that `value` was written in."""
    for parse, render in ((parse_duration, render_duration), (parse_size, render_size)):
        try:
            if isinstance(value, str) and not value.strip().isdecimal() and parse(value) is not None:
                return render(int(bound))
        except ValueError:
            continue
    return f"{bound:g}" if bound < 1e6 else str(bound)


def _unknown_key(path: Path) -> str:
    known = _known_keys(path[:-1])
    close = difflib.get_close_matches(str(path[-1]), known, n=1)
    if close:
        return f"is an unknown key; did you mean {close[0]}?"
    return f"is an unknown key; remove it, or write one of: {', '.join(known)}"


def _known_keys(path: Path) -> list[str]:
    """The keys that the mapping at `path` may have."""
    match path:
        case ("origins", _):
            return sorted({key for kind in _ORIGIN_KINDS.values() for key in kind.model_fields})
        case ("origins", _, "credentials"):
            return list(GcsCredentialSettings.model_fields)
        case ("buckets", _):
            return list(BucketSettings.model_fields)
        case ():
            return list(Settings.model_fields)
    section: type[BaseModel] | None = Settings
    for step in path:
        if isinstance(step, str) and section is not None:
            section = _section_of(section.model_fields[step].annotation)
    return list(section.model_fields) if section is not None else []


def _section_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_section_of(argument) for argument in get_args(annotation))
    return next((section for section in found if section is not None), None)
