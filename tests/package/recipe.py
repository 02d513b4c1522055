"""The Dockerfile, read: its stages, and in each the instructions in their order."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from tests.package.locks import ROOT

DOCKERFILE = ROOT / "Dockerfile"


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction: `RUN`, and what it says, on one line."""

    word: str
    text: str

    def words(self) -> list[str]:
        """The parts of the exec form, or of `KEY=value` pairs and paths."""
        return list(json.loads(self.text)) if self.text.startswith("[") else shlex.split(self.text)


@dataclass(frozen=True, slots=True)
class Stage:
    base: str
    name: str
    steps: tuple[Step, ...]

    def all(self, word: str) -> list[Step]:
        return [step for step in self.steps if step.word == word]

    def last(self, word: str) -> Step:
        return self.all(word)[-1]

    def pairs(self, word: str) -> dict[str, str]:
        """What ENV, LABEL or ARG give."""
        found = (part.partition("=") for step in self.all(word) for part in step.words())
        return {key: value for key, _, value in found}

    def copies(self) -> list[str]:
        """What is copied from the build's context."""
        return [source for step in self.all("COPY") if "--from" not in step.text for source in step.words()[:-1]]


def read_steps() -> Iterator[Step]:
    lines = [line for line in DOCKERFILE.read_text("utf-8").splitlines() if not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines():
        if line.strip():
            word, _, text = line.strip().partition(" ")
            yield Step(word, text.strip())


def read_stages() -> tuple[dict[str, str], list[Stage]]:
    """The arguments that stand before the first stage, and the stages."""
    before: list[Step] = []
    stages: list[Stage] = []
    for step in read_steps():
        if step.word == "FROM":
            base, _, name = step.text.partition(" AS ")
            stages.append(Stage(base, name, ()))
        elif stages:
            stages[-1] = Stage(stages[-1].base, stages[-1].name, (*stages[-1].steps, step))
        else:
            before.append(step)
    return Stage("", "", tuple(before)).pairs("ARG"), stages


def in_context(path: str) -> bool:
    """Whether .dockerignore lets the build see this path; the last line that fits decides."""
    seen = True
    for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        wanted = pattern.removeprefix("!")
        steps = Path(path).parts
        upper = ("/".join(steps[:count]) for count in range(1, len(steps) + 1))
        if any(fnmatch(part, wanted) or fnmatch(part, wanted.removeprefix("**/")) for part in upper):
            seen = pattern.startswith("!")
    return seen
