"""The fast tier stays fast: nothing in it starts a gateway, a server or a fleet, and what it leaves out is there."""

from __future__ import annotations

import re

import pytest

from tests.fast import LEFT_OUT, TESTS, is_for_another_loop, is_left_out
from tests.tidy.sources import modules

STARTS = re.compile(r"\bstart_(gateway|redis|fleet|moto|rclone|fake_gcs|gcs_emulator)\(")


def test_what_the_fast_tier_leaves_out_is_there() -> None:
    assert not [name for name in LEFT_OUT if not (TESTS / name).exists()]


def test_no_module_of_the_fast_tier_starts_a_gateway_or_a_fleet() -> None:
    slow = [
        module.name
        for module in modules("tests")
        if module.path.name.startswith("test_")
        and not any(map(is_left_out, (module.path, *module.path.parents)))
        and STARTS.search(module.path.read_text("utf-8"))
    ]
    assert not slow, f"add them to tests/fast.py: {slow}"


@pytest.mark.parametrize(
    ("test_id", "expected"),
    [
        ("tests/a.py::test_b[asyncio-debug-tls-/0-1]", True),
        ("tests/a.py::test_b[asyncio]", True),
        ("tests/a.py::test_b[uvloop-plain]", False),
        ("tests/a.py::test_asyncio", False),
    ],
)
def test_a_test_is_for_another_loop_by_its_parameters(test_id: str, expected: bool) -> None:
    assert is_for_another_loop(test_id) is expected
