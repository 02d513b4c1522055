"""Names: one word for one thing, and no word that the glossary has replaced by another."""

from __future__ import annotations

import ast
import re
from collections import defaultdict

from tests.tidy.sources import PRODUCT, Module, functions, modules, position

TOP_LEVEL_MAX = 12

# Two surfaces, or two kinds of origin, call the same idea by the same name; nobody imports both.
PAIRS = [
    {"s3api", "gcsapi"},
    {"proxy.origin.s3", "proxy.origin.gcs"},
]

# What docs/glossary.md calls otherwise. A name may not have one of these among its words.
RETIRED = {
    "birth": "bootstrap",
    "board": "fleet state",
    "bulletin": "invalidation channel",
    "colony": "simulated fleet",
    "company": "member registry",
    "course": "streams, route",
    "crowd": "what it fakes",
    "desk": "block directory",
    "door": "endpoint, dispatch",
    "doors": "dispatch",
    "elsewhere": "fallback",
    "families": "header translation",
    "gate": "throttle, barrier",
    "gates": "throttles",
    "greetings": "hello discovery",
    "guarded": "unverified",
    "hops": "hop-by-hop headers",
    "ledger": "limiter",
    "notice": "rate-limited log",
    "notices": "rate-limited logs",
    "paper": "launch spec",
    "place": "hash, token, address, offset, index, path, position",
    "places": "hashes, tokens, addresses, offsets, indexes, paths, positions",
    "presence": "coverage",
    "reception": "control API",
    "remainders": "background fills",
    "rig": "what it fakes",
    "shelf": "what it fakes",
    "sighting": "node status",
    "soundness": "verify",
    "spoilt": "discarded",
    "station": "what it fakes",
    "street": "what it fakes",
    "supplied": "block handle",
    "wording": "dialect hooks",
}
# Sockets that a test shuts like doors; a door is nothing else.
ALLOWED = {("tests.fleet.doors", "doors"), ("tests.fleet.doors", "Door")}


def words(name: str) -> set[str]:
    """`DoorsOf_old` has the words doors, of and old."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


def named(module: Module) -> list[tuple[int, str]]:
    """The names that a module gives: its own, its classes', and, but for tests, its functions'."""
    found = [(1, module.parts[-1])]
    found += [(node.lineno, node.name) for node in ast.walk(module.tree) if isinstance(node, ast.ClassDef)]
    if module.parts[0] != "tests":
        found += [(function.lineno, function.name) for function in functions(module)]
    return found


def test_no_name_has_a_word_that_the_glossary_has_replaced() -> None:
    old = [
        f"{position(module.path, line)} {name}: say {', '.join(RETIRED[word] for word in words(name) & set(RETIRED))}"
        for module in modules(*PRODUCT, "tests", "bench")
        for line, name in named(module)
        if words(name) & set(RETIRED) and (module.name, name) not in ALLOWED
    ]
    assert not old


def package(module: Module) -> str:
    """The side of a pair that a module is on, else the module itself."""
    sides = [side for pair in PAIRS for side in pair if module.name == side or module.name.startswith(side + ".")]
    return sides[0] if sides else module.name


def test_no_two_public_classes_have_one_name() -> None:
    homes = defaultdict[str, list[Module]](list)
    for module in modules(*PRODUCT):
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(module)
    doubled = {name: [module.name for module in found] for name, found in homes.items() if len(found) > 1}
    allowed = {name for name in doubled if {package(module) for module in homes[name]} in PAIRS}
    assert not {name: found for name, found in doubled.items() if name not in allowed}


def test_the_top_level_of_the_engine_has_words_only() -> None:
    top = [module.name for module in modules("proxy") if len(module.parts) == 2 and module.path.name != "__init__.py"]
    assert len(top) + 1 <= TOP_LEVEL_MAX, f"find the package for one of {top}"
