"""Imports run downhill, strangers stay strangers, and each foreign library has a home."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator

from tests.tidy.sources import PRODUCT, PYTHON_FOLDERS, Module, modules, position

# layer -> the modules and packages that it is made of; every one directly under proxy/ stands here once
LAYERS: dict[str, tuple[str, ...]] = {
    "words": (
        *("admission", "blocks", "concurrency", "conditions", "config", "errors", "generations", "http", "metrics"),
        *("objects", "ranges", "rate_limited_log"),
    ),
    "wire": ("wire",),
    "fleet": ("fleet",),
    "lanes": ("lanes",),
    "cache": ("cache",),
    "origin": ("origin",),
    "upstream": ("upstream",),
    "relay": ("relay",),
    "fill": ("fill",),
    "gateway": ("gateway",),
    "admin": ("admin",),
    "peering": ("peering",),
    "surface": ("surface",),
    # the process around the engine: what is started, locked, listened on and logged
    "entry": ("__main__", "cli", "composition", "process"),
}

# layer -> the layers below it that it may import; its own is always allowed
MAY_IMPORT: dict[str, set[str]] = {
    "words": set(),
    "wire": {"words"},
    "fleet": {"wire", "words"},
    "lanes": {"words"},
    "cache": {"words"},
    "origin": {"wire", "words"},
    "upstream": {"origin", "fleet", "words"},
    "relay": {"upstream", "fleet", "wire", "words"},
    "fill": {"relay", "upstream", "cache", "origin", "fleet", "words"},
    "gateway": {"fill", "relay", "upstream", "cache", "origin", "fleet", "words"},
    "admin": {"words"},
    "peering": {"gateway", "fill", "relay", "origin", "fleet", "lanes", "words"},
    "surface": {"gateway", "lanes", "words"},
    "s3api": {"surface", "gateway", "lanes", "words"},
    "gcsapi": {"surface", "gateway", "lanes", "words"},
}
MAY_IMPORT["entry"] = set(MAY_IMPORT)

# foreign library -> the modules and packages where it lives
HOMES: dict[str, tuple[str, ...]] = {
    "awscrt": ("proxy.blocks",),
    "botocore": ("proxy.origin.s3",),
    "cachetools": ("proxy.gateway", "proxy.origin", "proxy.wire"),
    "cryptography": ("proxy.relay.digests",),
    "google": ("proxy.origin.gcs",),
    "httpcore": ("proxy.origin.network",),
    "httptools": ("proxy.wire", "proxy.lanes"),
    "httpx": ("proxy.origin", "proxy.cli"),
    "obstore": ("proxy.cli",),
    "prometheus_client": ("proxy.metrics", "proxy.admin", "proxy.lanes.asgi", "proxy.process.counters"),
    "pydantic": ("proxy.config",),
    "pydantic_core": ("proxy.config",),
    "redis": ("proxy.fleet", "proxy.process.control", "proxy.composition.fleet"),
    "rich": ("proxy.cli",),
    "starlette": ("proxy.admin",),
    "uvicorn": (
        "proxy.lanes.express",
        "proxy.lanes.connection",
        "proxy.lanes.intake",
        "proxy.process.server",
        "proxy.cli.demo",
    ),
    "uvloop": ("proxy.process.worker", "proxy.process.control"),
    "yaml": ("proxy.config",),
}


LAYER_OF = {name: layer for layer, names in LAYERS.items() for name in names}


def layer(name: str) -> str:
    """The layer of a module of ours, by its dotted name."""
    top, *rest = name.split(".")
    if top != "proxy":
        return top
    return LAYER_OF.get(rest[0], "unknown") if rest else "words"


def is_at(name: str, home: str) -> bool:
    return name == home or name.startswith(home + ".")


def uphill_imports(module: Module) -> Iterator[str]:
    here = layer(module.name)
    for line, name in dict.fromkeys(module.imports()):
        ours = name.split(".")[0] in PYTHON_FOLDERS
        if ours and layer(name) != here and layer(name) not in MAY_IMPORT[here]:
            yield f"{position(module.path, line)} ({here}) imports {name}"


def strangers(module: Module) -> Iterator[str]:
    for line, name in dict.fromkeys(module.imports()):
        library = name.split(".")[0]
        if library in sys.stdlib_module_names or library in PRODUCT:
            continue
        if not any(is_at(module.name, home) for home in HOMES.get(library, ())):
            yield f"{position(module.path, line)} imports {library}, at home in {HOMES.get(library)}"


def test_the_map_of_layers_names_every_module_once_and_nothing_that_is_not_there() -> None:
    listed = [name for names in LAYERS.values() for name in names]
    there = {module.parts[1] for module in modules("proxy") if len(module.parts) > 1}
    assert sorted(listed) == sorted(there)


def test_layers_may_import_only_layers_that_there_are() -> None:
    layers = {*LAYERS, *PRODUCT} - {"proxy"}
    assert set(MAY_IMPORT) == layers
    assert set().union(*MAY_IMPORT.values()) <= layers


def test_each_home_is_there_and_uses_its_library() -> None:
    """A home that its library has left is no permission for the next one to move in."""
    used = {
        (library, home)
        for module in modules(*PRODUCT)
        for library in {name.split(".")[0] for _, name in module.imports()} & set(HOMES)
        for home in HOMES[library]
        if is_at(module.name, home)
    }
    assert not {(library, home) for library, homes in HOMES.items() for home in homes} - used


def test_imports_run_downhill() -> None:
    assert not [line for module in modules(*PRODUCT) for line in uphill_imports(module)]


def test_each_foreign_library_is_used_at_its_home() -> None:
    assert not [line for module in modules(*PRODUCT) for line in strangers(module)]


def test_nothing_reaches_into_a_test() -> None:
    """Tests and benches share servers, gateways and scripts, never the inside of a test module."""
    assert not [
        f"{position(module.path, line)} imports {name}"
        for module in modules(*PYTHON_FOLDERS)
        for line, name in module.imports()
        if name.startswith("tests.") and any(part.startswith("test_") for part in name.split("."))
    ]


def test_every_module_opens_with_its_idea() -> None:
    every = modules(*PYTHON_FOLDERS)
    assert not [module.name for module in every if module.line_count and not ast.get_docstring(module.tree)]
