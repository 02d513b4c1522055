"""The short way to a range says what the long way says, or nothing."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from proxy.errors import RangeNotSatisfiable
from proxy.ranges import parse_range, parse_span

numbers = st.integers(0, 2000).map(str) | st.sampled_from(["", "0", "00", "+1", " 1", "1_0", "9" * 80, "\u0663", "x"])
headers = st.one_of(
    st.builds("bytes={}-{}".format, numbers, numbers),
    st.builds("bytes={}{}".format, numbers, numbers),
    st.builds("Bytes = {} - {} ".format, numbers, numbers),
    st.text("bytes=0123456789-, ", max_size=20),
)


@given(header=headers.map(lambda text: text.encode("utf-8")), size_bytes=st.integers(0, 1000))
@example(header=b"bytes=5", size_bytes=10)
@example(header=b"bytes=5-4", size_bytes=10)
@example(header=b"bytes=10-", size_bytes=10)
def test_short_way_agrees_with_the_long_way(header: bytes, size_bytes: int) -> None:
    found = parse_span(header, size_bytes)
    if found is None:
        return
    asked = parse_range(header.decode("latin-1"))
    assert asked is not None
    span = asked.resolve(size_bytes)
    assert found == (span.start, span.end)


@given(first=st.integers(0, 50), last=st.none() | st.integers(0, 100), size_bytes=st.integers(0, 60))
def test_plain_form_takes_the_short_way(first: int, last: int | None, size_bytes: int) -> None:
    header = f"bytes={first}-{'' if last is None else last}"
    asked = parse_range(header)
    try:
        meant = asked is not None and asked.resolve(size_bytes).length > 0
    except RangeNotSatisfiable:
        meant = False
    assert (parse_span(header.encode(), size_bytes) is not None) == meant
