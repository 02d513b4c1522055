"""Time-outs leave time to try again: defaults give way to what is written above them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.limits import SHORTER, LimitSettings


def test_the_defaults_fit_each_other() -> None:
    limits = LimitSettings()
    assert (limits.stall_timeout_min, limits.stall_timeout, limits.stall_timeout_max) == (2.0, 5.0, 15.0)
    assert (limits.connect_timeout, limits.read_timeout, limits.retry_deadline) == (5.0, 30.0, 30.0)


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ({"retry_deadline": "6s"}, (2.0, 3.0, 3.0, 3.0)),
        ({"retry_deadline": "100ms"}, (0.05, 0.05, 0.05, 0.05)),
        ({"read_timeout": "4s"}, (2.0, 4.0, 4.0, 5.0)),
        ({"stall_timeout_max": "1s"}, (1.0, 1.0, 1.0, 5.0)),
        ({"retry_deadline": "0s"}, (2.0, 5.0, 15.0, 5.0)),  # nothing is tried again, by choice
    ],
)
def test_a_default_gives_way_to_what_is_written_above_it(
    written: dict[str, str], found: tuple[float, float, float, float]
) -> None:
    limits = LimitSettings.model_validate(written)
    got = (limits.stall_timeout_min, limits.stall_timeout, limits.stall_timeout_max, limits.connect_timeout)
    assert got == pytest.approx(found)


@given(st.floats(0.001, 1000), st.floats(0.001, 1000))
def test_whatever_is_written_above_every_limit_fits(deadline_s: float, read_s: float) -> None:
    written = {"retry_deadline": f"{deadline_s:.3f}s", "read_timeout": f"{read_s:.3f}s"}
    limits = LimitSettings.model_validate(written)
    for key, above, share in SHORTER:
        assert 0 < getattr(limits, key) <= share * getattr(limits, above)
