"""Where settings are written: a YAML file, the environment, the command line.

How it works. Each place becomes a `Layer`, a nested mapping with a name for messages. A variable names a key with
`__` between the steps (`WARMSTART_CACHE__BLOCK_SIZE`); a value that begins with `{` or `[` is YAML (so JSON too).
The flags that stand for more than one key, and their twins in the environment (`--origin`, `WARMSTART_ORIGIN`), are
`Shorthands`. A single disk is written as a mapping in every layer, so that `--cache-size` changes the size of the
file's disk and keeps its path. Nothing is ignored: an unknown variable or a key written twice is an error.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import yaml
from pydantic import ValidationError

from proxy.config.problems import Problem, find_problem
from proxy.config.settings import Settings
from proxy.config.surroundings import look_around
from proxy.errors import ConfigInvalid
from proxy.http.masking import mask_url

PREFIX = "WARMSTART_"
CONFIG_VARIABLE = "WARMSTART_CONFIG"
FLAG_ORIGIN = "command-line"  # what the origin of --origin is called

# Kubernetes puts these into every pod when a Service is named warmstart or warmstart-something.
_KUBERNETES = re.compile(
    r"WARMSTART(_[A-Z0-9]+)*_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)

_KEY = re.compile(r"[A-Za-z_]{1,40}")  # of the top level

Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Layer:
    """Settings of one place. `name` opens messages about them."""

    name: str
    values: Values
    is_file: bool = False

    def position(self, path: Sequence[str | int]) -> str | None:
        """How messages call what is written at `path` here; None where nothing is."""
        found: Any = self.values
        for step in path:
            if isinstance(found, Mapping) and isinstance(step, int):
                continue  # the one disk, or the one address
            try:
                found = found[step]
            except (KeyError, IndexError, TypeError):
                return None
        if self.name != PREFIX:
            return self.name
        return PREFIX + "__".join(str(step).upper() for step in path if isinstance(step, str))


@dataclass(frozen=True, slots=True)
class Shorthands:
    """Flags that stand for keys further down, and the variables of the same name."""

    origin: str | None = None
    region: str | None = None
    anonymous: bool | None = None
    cache_dir: str | None = None
    cache_size: str | None = None
    log_level: str | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        found: dict[str, Any] = {
            field.name: environment[PREFIX + field.name.upper()]
            for field in fields(cls)
            if environment.get(PREFIX + field.name.upper())
        }
        if "anonymous" in found:
            found["anonymous"] = _parse_truth(PREFIX + "ANONYMOUS", found["anonymous"])
        return cls(**found)

    def over(self, below: Shorthands) -> Shorthands:
        """These, and from `below` what these leave open."""
        mine = {field.name: getattr(self, field.name) for field in fields(self)}
        return Shorthands(**{name: getattr(below, name) if value is None else value for name, value in mine.items()})

    def expand(self) -> Values:
        values: Values = {}
        disk = {"path": self.cache_dir, "size": self.cache_size}
        if any(disk.values()):
            values["cache"] = {"disks": {key: value for key, value in disk.items() if value is not None}}
        if self.log_level is not None:
            values["log"] = {"level": self.log_level}
        if self.origin is not None:
            values["origins"] = {FLAG_ORIGIN: self._origin(self.origin)}
            values["buckets"] = {"*": {"origin": FLAG_ORIGIN}}
        elif self.region is not None or self.anonymous is not None:
            flag = "--region" if self.region is not None else "--anonymous"
            raise ConfigInvalid(
                f"{flag}: applies only to --origin, which is not given; set it with the origin's other keys"
            )
        return values

    def _origin(self, url: str) -> Values:
        fix = "write s3:// (AWS), gs:// (Google), http://host:port, https://host or file:///directory"
        shown = mask_url(url)
        match urlsplit(url).scheme:
            case "file" if self.region is not None or self.anonymous is not None:
                raise ConfigInvalid(
                    "--origin: a directory has no region or credentials; remove --region and --anonymous"
                )
            case "file":
                return {"type": "file", "root": unquote(urlsplit(url).path)}
            case "s3" | "gs" as scheme if url.rstrip("/") != f"{scheme}:":
                raise ConfigInvalid(f"--origin: {shown!r} names a bucket; write {scheme}:// (clients name the bucket)")
            case "gs" if self.region is not None:
                raise ConfigInvalid("--region: Google Cloud Storage needs no region; remove the flag")
            case "gs":
                origin: Values = {"type": "gcs"}
            case "s3":
                origin = {"type": "s3"}
            case "http" | "https":
                origin = {"type": "s3", "endpoint": url}
            case _:
                raise ConfigInvalid(f"--origin: {shown!r} is not an origin; {fix}")
        asked = {"region": self.region, "anonymous": self.anonymous}
        return origin | {key: value for key, value in asked.items() if value is not None}


_SHORTHAND_VARIABLES = {PREFIX + field.name.upper() for field in fields(Shorthands)} | {CONFIG_VARIABLE}


@dataclass(frozen=True, slots=True)
class Configuration:
    """Checked settings and the layers they came from. `notes` are shown when the gateway starts."""

    settings: Settings
    layers: tuple[Layer, ...]
    notes: tuple[str, ...] = ()


def load_configuration(
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
    shorthands: Shorthands | None = None,
) -> Configuration:
    """Read, merge and check all places; `flags` are top-level keys. Raises ConfigInvalid with one line."""
    environment = os.environ if environment is None else environment
    if file is None and environment.get(CONFIG_VARIABLE):
        file = Path(environment[CONFIG_VARIABLE])
    short = (shorthands or Shorthands()).over(Shorthands.from_environment(environment))
    layers = [Layer("command line", short.expand() | dict(flags or {})), Layer(PREFIX, read_environment(environment))]
    if file is not None:
        layers.append(Layer(str(file), read_file(file), is_file=True))
    checked = check_layers(layers)
    settings, notes = look_around(checked.settings, environment)
    return Configuration(settings, checked.layers, notes)


def check_layers(layers: Sequence[Layer]) -> Configuration:
    """Merge, the first layer winning, and check; raises ConfigInvalid."""
    for layer in layers:
        _write_one_disk_as_mapping(layer.values)
    try:
        return Configuration(Settings.from_layers([layer.values for layer in layers]), tuple(layers))
    except ValidationError as error:
        problem = find_problem(error)
    raise ConfigInvalid(f"{_origin_of(problem, layers)}{problem}") from None


def read_file(path: Path) -> Values:
    """A YAML file's mapping; raises ConfigInvalid with the line where it can't be read."""
    try:
        loaded = yaml.load(path.read_text("utf-8"), _Loader)
    except OSError as error:
        raise ConfigInvalid(f"{path}: can't be read ({error.strerror}); give the path of a YAML file") from None
    except UnicodeDecodeError:
        raise ConfigInvalid(f"{path}: is not UTF-8 text; give the path of a YAML file") from None
    except yaml.YAMLError as error:
        raise ConfigInvalid(f"{path}: {_explain_yaml(error)}") from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict) or not all(_KEY.fullmatch(str(key)) for key in loaded):
        # Nothing of it is shown: the path of a file with secrets may have been given by mistake.
        raise ConfigInvalid(f"{path}: is not a mapping of keys; see configs/warmstart.yaml")
    return loaded


def read_environment(environment: Mapping[str, str]) -> Values:
    """The variables that name keys, as nested mappings; raises ConfigInvalid for one that names none."""
    values: Values = {}
    for name in sorted(environment):
        if not name.startswith(PREFIX) or name in _SHORTHAND_VARIABLES or _KUBERNETES.fullmatch(name):
            continue
        steps = name.removeprefix(PREFIX).lower().split("__")
        if steps[0] not in Settings.model_fields or not all(steps):
            raise ConfigInvalid(f"{name}: {_explain_variable(steps[0])}")
        _put(values, name, steps, _parse_variable(name, environment[name]))
    return values


def _explain_variable(first: str) -> str:
    """Of a variable that names no key, by its first step."""
    known = [*Settings.model_fields, *(name.removeprefix(PREFIX).lower() for name in _SHORTHAND_VARIABLES)]
    close = difflib.get_close_matches(first, known, n=1)
    if close and close[0] != first:
        return f"is not a setting; did you mean {PREFIX}{close[0].upper()}?"
    fix = "WARMSTART_ and the key in capitals, with __ between levels: WARMSTART_CACHE__BLOCK_SIZE"
    return f"is not a setting; remove it, or write {fix}"


def _put(values: Values, name: str, steps: Sequence[str], value: Any) -> None:
    for step in steps[:-1]:
        values = values.setdefault(step, {})
        if not isinstance(values, dict):
            raise ConfigInvalid(f"{name}: another variable sets the whole section; keep one of them")
    values[steps[-1]] = value


def _parse_variable(name: str, text: str) -> Any:
    if not text.lstrip().startswith(("{", "[")):
        return text
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError:
        if text.lstrip().startswith("[") and re.match(r"\s*\[[0-9a-fA-F:.]*\]:", text):
            return text  # [::1]:9000
    raise ConfigInvalid(f"{name}: is neither JSON nor YAML; check brackets and quotes")


def _parse_truth(name: str, text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0", "yes", "no"):
        raise ConfigInvalid(f"{name}: {text!r} is neither true nor false; write true or false")
    return text.lower() in ("true", "1", "yes")


def _write_one_disk_as_mapping(values: Values) -> None:
    cache = values.get("cache")
    if isinstance(cache, dict) and isinstance(cache.get("disks"), list) and len(cache["disks"]) == 1:
        cache["disks"] = cache["disks"][0]


def _origin_of(problem: Problem, layers: Sequence[Layer]) -> str:
    """The place where the key of a problem is written, as the beginning of a message."""
    steps: list[str | int] = []
    for step in problem.path:
        steps += [int(part) if part.isdigit() else part for part in re.split(r"[\[\].]+", str(step)) if part]
    while steps:
        for layer in layers:
            position = layer.position(steps)
            if position is not None:
                return f"{position}: "
        steps.pop()  # what is missing was left out beside its neighbours
    files = [layer.name for layer in layers if layer.is_file]
    return f"{files[0]}: " if files else ""


def _explain_yaml(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    position = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
    context = str(getattr(error, "context", "") or "")
    problem = str(getattr(error, "problem", "") or error).splitlines()[0]
    if "alias" in problem or "tag" in problem:  # *word or !word: the word may be a secret
        problem = re.sub(r"'.*'", "'…'", problem)
    if "alias" in context:
        return f'{position}* is not in quotes; write "*"'
    if isinstance(error, _TwiceError):
        return f"{position}{problem}; keep one of them"
    return f'{position}is not YAML ({problem}); check the indentation, and put values such as "[::1]:9000" in quotes'


class _TwiceError(yaml.constructor.ConstructorError):
    """A key is written twice in one mapping."""


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which would take the last of two equal keys without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key_node.tag != "tag:yaml.org,2002:merge" and isinstance(key, Hashable) and key in seen:
                raise _TwiceError(None, None, f"the key {key} is written twice", key_node.start_mark)
            if isinstance(key, Hashable):
                seen.add(key)
        return super().construct_mapping(node, deep)
