"""What every section of the settings is built on, and the error that names a key."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A mapping of the configuration: immutable, and an unknown key in it is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, use_attribute_docstrings=True)


class KeyProblem(ValueError):
    """Raised by a section's own check: `key` is the dotted path below that section, `value` what to show of it."""

    def __init__(self, key: str, value: object, problem: str) -> None:
        super().__init__(problem)
        self.key = key
        self.value = value
