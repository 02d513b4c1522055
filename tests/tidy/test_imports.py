"""Imports run downhill, strangers stay strangers, and each foreign library has a home."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator

from tests.tidy.sources import PRODUCT, PYTHON_FOLDERS, Module, modules, place

WORDS = {"config", "metrics", "blocks", "objects", "ranges", "conditions", "errors", "threads", "notices", "masking"}
WORDS |= {"admission", "dialects", "families", "generations", "hops", "targets", "trail", "xml"}
# The process around the engine: what is started, locked, listened on and logged.
ENTRY = {"__main__", "cli", "serve", "serving", "supervisor", "worker", "control", "housekeeping"}
ENTRY |= {
    "birth",
    "children",
    "disklock",
    "doors",
    "gates",
    "listeners",
    "logs",
    "rows",
    "relays",
    "runtime",
    "storage",
    "watchdog",
}

# layer -> the layers below it that it may import; its own is always allowed
MAY_IMPORT: dict[str, set[str]] = {
    "words": set(),
    "wire": {"words"},
    "fleet": {"wire", "words"},
    "lanes": {"words"},
    "cache": {"words"},
    "origin": {"wire", "fleet", "words"},
    "fetch": {"origin", "fleet", "words"},
    "gateway": {"cache", "fetch", "origin", "fleet", "words"},
    "jobs": {"gateway", "cache", "words"},
    "admin": {"jobs", "gateway", "lanes", "words"},
    "peering": {"gateway", "cache", "fetch", "origin", "fleet", "lanes", "words"},
    "surface": {"gateway", "lanes", "words"},
    "s3api": {"surface", "gateway", "lanes", "words"},
    "gcsapi": {"surface", "gateway", "lanes", "words"},
}
MAY_IMPORT["entry"] = set(MAY_IMPORT)

# foreign library -> the modules and packages where it lives
HOMES: dict[str, tuple[str, ...]] = {
    "aiofiles": ("proxy.origin.directory", "proxy.jobs", "proxy.cli"),
    "awscrt": ("proxy.blocks", "proxy.wire"),
    "botocore": ("proxy.origin.s3",),
    "cachetools": ("proxy.gateway", "proxy.wire", "s3api.auth", "gcsapi.auth"),
    "cryptography": ("proxy.fetch.digests",),
    "google": ("proxy.origin.gcs",),
    "httpcore": ("proxy.origin.network",),
    "httptools": ("proxy.wire", "proxy.lanes"),
    "httpx": ("proxy.origin", "proxy.cli", "proxy.__main__"),
    "obstore": ("proxy.cli",),
    "prometheus_client": ("proxy.metrics", "proxy.admin", "proxy.lanes.asgi", "proxy.rows"),
    "pydantic": ("proxy.config",),
    "pydantic_core": ("proxy.config",),
    "redis": ("proxy.fetch.lease", "proxy.fetch.limiter", "proxy.fleet", "proxy.control", "proxy.relays"),
    "rich": ("proxy.cli",),
    "starlette": ("proxy.lanes.asgi", "proxy.admin", "s3api.app", "gcsapi.app"),
    "uvicorn": (
        "proxy.lanes.express",
        "proxy.lanes.connection",
        "proxy.lanes.intake",
        "proxy.serving",
        "proxy.worker",
        "proxy.control",
        "proxy.cli.demo",
    ),
    "uvloop": ("proxy.worker", "proxy.control"),
    "yaml": ("proxy.config",),
}


def layer(name: str) -> str:
    """The layer of a module of ours, by its dotted name."""
    top, *rest = name.split(".")
    if top != "proxy" or not rest:
        return top if rest or top in MAY_IMPORT else "words"
    if rest[0] in WORDS:
        return "words"
    return "entry" if rest[0] in ENTRY else rest[0]


def is_at(name: str, home: str) -> bool:
    return name == home or name.startswith(home + ".")


def uphill_imports(module: Module) -> Iterator[str]:
    here = layer(module.name)
    for line, name in dict.fromkeys(module.imports()):
        ours = name.split(".")[0] in (*PRODUCT, "gcsapi", "tests", "bench")
        if ours and layer(name) != here and layer(name) not in MAY_IMPORT[here]:
            yield f"{place(module.path, line)} ({here}) imports {name}"


def strangers(module: Module) -> Iterator[str]:
    for line, name in dict.fromkeys(module.imports()):
        library = name.split(".")[0]
        if library in sys.stdlib_module_names or library in (*PRODUCT, "gcsapi"):
            continue
        if not any(is_at(module.name, home) for home in HOMES.get(library, ())):
            yield f"{place(module.path, line)} imports {library}, at home in {HOMES.get(library)}"


def test_every_module_has_a_place_in_the_map_of_layers() -> None:
    assert not [module.name for module in modules(*PRODUCT) if layer(module.name) not in MAY_IMPORT]


def test_imports_run_downhill() -> None:
    placed = [module for module in modules(*PRODUCT) if layer(module.name) in MAY_IMPORT]
    assert not [line for module in placed for line in uphill_imports(module)]


def test_each_foreign_library_is_used_at_its_home() -> None:
    assert not [line for module in modules(*PRODUCT) for line in strangers(module)]


def test_nothing_reaches_into_a_test() -> None:
    """Tests and benches share servers, gateways and scripts, never the inside of a test module."""
    assert not [
        f"{place(module.path, line)} imports {name}"
        for module in modules(*PYTHON_FOLDERS)
        for line, name in module.imports()
        if name.startswith("tests.") and any(part.startswith("test_") for part in name.split("."))
    ]


def test_every_module_opens_with_its_idea() -> None:
    every = modules(*PYTHON_FOLDERS)
    assert not [module.name for module in every if module.line_count and not ast.get_docstring(module.tree)]
