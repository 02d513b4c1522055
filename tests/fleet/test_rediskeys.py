"""One module names the keys in Redis, and docs/fleet.md lists them all."""

from __future__ import annotations

import ast
import inspect
import re

from proxy.fleet.rediskeys import RedisKeys
from tests.tidy.sources import PRODUCT, ROOT, Module, modules, position

NAMES = {name: method for name, method in inspect.getmembers(RedisKeys, inspect.isfunction) if not name.startswith("_")}
FIRST_WORDS = {"members", "member", "news", "waiting", "told", "lease", "limits"}
BUILT_HERE = re.compile(rf"(?:warmstart)?:(?:{'|'.join(FIRST_WORDS)})\b")


def rendered(name: str) -> str:
    """A key with the names of its parts in their places, as the page writes it."""
    _, *parts = inspect.signature(NAMES[name]).parameters
    return str(NAMES[name](RedisKeys("warmstart"), *(f"<{part}>" for part in parts)))


def test_the_page_about_fleets_lists_exactly_the_keys_there_are() -> None:
    page = (ROOT / "docs/fleet.md").read_text("utf-8")
    listed = re.findall(r"^\| `(warmstart:[^`]*)` \|", page, re.MULTILINE)
    assert sorted(listed) == sorted(map(rendered, NAMES))


def test_each_key_has_a_name_of_its_own_below_the_prefix() -> None:
    names = [rendered(name) for name in NAMES]
    assert len(set(names)) == len(names)
    assert {re.split(r"[:-]", name)[1] for name in names} == FIRST_WORDS


def keys_built_in(module: Module) -> list[str]:
    """Where a module writes the name of a key itself: a text that begins like one, or follows a `prefix`."""
    found = []
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and BUILT_HERE.match(node.value):
            found.append(position(module.path, node.lineno))
        if isinstance(node, ast.JoinedStr):
            text = ast.unparse(node)
            if re.search(r"\{[^}]*prefix\}:", text):
                found.append(position(module.path, node.lineno))
    return found


def test_no_other_module_of_the_product_builds_the_name_of_a_key() -> None:
    built = {module.name: keys_built_in(module) for module in modules(*PRODUCT)}
    assert built.pop("proxy.fleet.rediskeys"), "the rule finds nothing"
    assert not [line for lines in built.values() for line in lines]
