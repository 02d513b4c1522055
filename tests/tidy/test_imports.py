"""Imports run downhill, strangers stay strangers, and each foreign library has a home."""

from __future__ import annotations

import ast
import sys

import pytest

from tests.tidy.sources import PRODUCT, Module, modules, place

WORDS = {"config", "metrics", "blocks", "objects", "ranges", "conditions", "errors"}
ENTRY = {"__main__", "serve", "supervisor", "worker", "housekeeping", "cli", "demo"}

# layer -> the layers below it that it may import; its own is always allowed
MAY_IMPORT: dict[str, set[str]] = {
    "words": set(),
    "wire": {"words"},
    "fleet": {"words"},
    "lanes": {"words"},
    "cache": {"words"},
    "origin": {"wire", "words"},
    "fetch": {"origin", "fleet", "words"},
    "gateway": {"cache", "fetch", "origin", "fleet", "words"},
    "jobs": {"gateway", "cache", "words"},
    "admin": {"jobs", "gateway", "lanes", "words"},
    "s3api": {"gateway", "lanes", "words"},
    "gcsapi": {"gateway", "lanes", "words"},
}
MAY_IMPORT["entry"] = set(MAY_IMPORT)

# foreign library -> the modules and packages where it lives
HOMES: dict[str, tuple[str, ...]] = {
    "aiofiles": ("proxy.origin.directory", "proxy.jobs", "proxy.cli"),
    "awscrt": ("proxy.blocks", "proxy.wire"),
    "botocore": ("proxy.origin.s3", "proxy.origin.signing"),
    "cachetools": ("proxy.gateway.versions", "s3api.auth", "gcsapi.auth"),
    "google": ("proxy.origin.gcs",),
    "httptools": ("proxy.wire", "proxy.lanes"),
    "httpx": ("proxy.origin", "proxy.cli", "proxy.__main__"),
    "obstore": ("proxy.cli",),
    "prometheus_client": ("proxy.metrics", "proxy.admin"),
    "pydantic": ("proxy.config",),
    "pydantic_settings": ("proxy.config",),
    "redis": ("proxy.fetch.lease", "proxy.fetch.limiter", "proxy.fleet"),
    "rich": ("proxy.cli",),
    "starlette": ("proxy.lanes.asgi", "proxy.admin", "s3api.app", "gcsapi.app"),
    "uvicorn": ("proxy.lanes.express", "proxy.serve"),
    "uvloop": ("proxy.serve",),
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


PRODUCT_MODULES = modules(*PRODUCT)


@pytest.mark.parametrize("module", PRODUCT_MODULES, ids=lambda module: module.name)
def test_imports_run_downhill(module: Module) -> None:
    here = layer(module.name)
    assert here in MAY_IMPORT, f"{module.name} has no place in the map of layers (tests/tidy/test_imports.py)"
    uphill = [
        f"{place(module.path, line)} imports {name}"
        for line, name in module.imports()
        if name.split(".")[0] in (*PRODUCT, "gcsapi", "tests", "bench")
        and layer(name) != here
        and layer(name) not in MAY_IMPORT[here]
    ]
    assert not uphill, f"{here} may import {sorted(MAY_IMPORT[here])}, but " + "; ".join(uphill)


@pytest.mark.parametrize("module", PRODUCT_MODULES, ids=lambda module: module.name)
def test_each_foreign_library_is_used_at_its_home(module: Module) -> None:
    strangers = []
    for line, name in module.imports():
        library = name.split(".")[0]
        if library in sys.stdlib_module_names or library in (*PRODUCT, "gcsapi"):
            continue
        if not any(is_at(module.name, home) for home in HOMES.get(library, ())):
            strangers.append(f"{place(module.path, line)} imports {library}, at home in {HOMES.get(library)}")
    assert not strangers, "; ".join(strangers)


@pytest.mark.parametrize("module", modules("tests", "bench"), ids=lambda module: module.name)
def test_only_tests_import_tests(module: Module) -> None:
    """bench/ may use the product and the tests' servers; nothing but a test reaches into another test."""
    reached = [
        f"{place(module.path, line)} imports {name}"
        for line, name in module.imports()
        if name.split(".")[-1].startswith("test_") and name.startswith("tests.")
    ]
    assert not reached, "; ".join(reached)


def test_every_package_opens_with_what_it_knows() -> None:
    silent = [
        str(module.path)
        for module in modules(*PRODUCT, "tests", "bench")
        if module.line_count > 0 and not ast.get_docstring(module.tree)
    ]
    assert not silent, f"modules open with a docstring: {silent}"
