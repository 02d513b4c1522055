"""The program that guides follow with a debugger does what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.agreement.lanes import hot_answers
from tests.follow import follow


async def test_the_first_read_is_cold_and_the_second_one_hot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = hot_answers()
    await follow(tmp_path)
    assert capsys.readouterr().out.splitlines() == [
        "cold: 206, 100000 bytes, X-Cache: MISS",
        "hot: 206, 100000 bytes, X-Cache: HIT",
    ]
    assert hot_answers() == before + 1
