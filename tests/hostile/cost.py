"""The cost of a parser against the length of its input: at most linear, and small at the longest input it can get.

How it works. `assert_linear(parse, make, longest=...)` calls `parse(make(length))` at growing lengths and asserts
1. Python steps: opcodes run by `parse` at 1/8, 1/4, 1/2 and all of SHORT, a length at which even a quadratic parser
   is quick. The count is exact, so the margin is small: eight times the input costs at most STEPS_GROWTH times.
2. CPU time, which also sees what runs in C (regular expressions, `bytes.join`, `list.pop(0)`): the thread's own time,
   the least of several calls, at 1/8, 1/4, 1/2 and all of `longest`. From a quarter to all of it costs at most
   CPU_GROWTH times (linear: 4, quadratic: 16), unless it costs nothing worth mentioning (FREE_S).
3. A bound: no call takes more than `bound_s` of CPU.
It stops at the first length that breaks the bound, so a parser that takes minutes fails in seconds. What `parse` raises
of ValueError and WarmstartError is an answer, too: refusing is part of the cost.

`hostile(tokens)` is a strategy of inputs that grow: a beginning, one unit repeated and an end, made of the format's
own tokens and of what usually hurts (blanks, digits, separators, quotes, brackets, escapes), or brackets nested.

    @given(hostile(["bytes=", "-", ","]))
    def test_ranges_cost_what_they_are_long(shape: Shape) -> None:
        assert_linear(parse_range, shape.text, longest=HEAD_BYTES)
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar

from hypothesis import strategies as st

from proxy.errors import WarmstartError

T = TypeVar("T")

HEAD_BYTES = 64 << 10  # the default of `limits.request_head`: no header, target or query is longer
SHORT = 2048
STEPS_GROWTH = 12.0  # linear: 8, n log n: 12, quadratic: 64
CPU_GROWTH = 9.0
FREE_S = 0.002
BOUND_S = 0.1  # another client's hit is answered within that
CALLS = 5

_HURTS: tuple[str, ...] = (
    " ",
    "\t",
    "0",
    "9",
    "a",
    ",",
    ";",
    ":",
    "=",
    "-",
    ".",
    "/",
    "&",
    "%",
    "%20",
    "+",
    "*",
    "?",
    '"',
    "\\",
    "'",
)
_HURTS += ("(", ")", "[", "]", "{", "}", "<", ">", "\r\n", "\n", "\x00", "\xa0", "\xff", "W/", "://", "@")
_WORST = (" ", "0", "a", ",", "\n", ";")  # what expressions repeat
_NESTS = (("(", ")"), ("[", "]"), ("{", "}"), ("<x>", "</x>"), ('"', '"'), ("a(", ")"), ("{a,", "}"), ("[[", "]"))


@dataclass(frozen=True, slots=True)
class Shape:
    """An input that grows: `before`, then `unit` as often as it fits, then `after`; `closing` closes each unit."""

    before: str
    unit: str
    after: str
    closing: str = ""

    def text(self, length: int) -> str:
        """About that long, never longer by more than a unit and its ends."""
        count = max(1, (length - len(self.before) - len(self.after)) // (len(self.unit) + len(self.closing)))
        return self.before + self.unit * count + self.closing * count + self.after

    def raw(self, length: int) -> bytes:
        """The same as bytes, one for each character."""
        return self.text(length).encode("latin-1", "replace")


def hostile(tokens: Sequence[str]) -> st.SearchStrategy[Shape]:
    """Shapes of a format that has these tokens."""
    token = st.sampled_from([*tokens, *_HURTS])
    unit = st.sampled_from(_WORST) | token | st.lists(token, min_size=2, max_size=3).map("".join)
    before = st.sampled_from(["", *tokens]) | st.lists(token, min_size=2, max_size=2).map("".join)
    after = st.sampled_from(["", "x", "0", *tokens])
    repeated = st.builds(Shape, before, unit, after)
    nested = st.builds(lambda before, nest, after: Shape(before, nest[0], after, nest[1]), before, _nests(), after)
    return repeated | repeated | nested


def _nests() -> st.SearchStrategy[tuple[str, str]]:
    return st.sampled_from(_NESTS)


def assert_linear(
    parse: Callable[[T], object],
    make: Callable[[int], T],
    *,
    longest: int = HEAD_BYTES,
    bound_s: float = BOUND_S,
) -> None:
    """See the module's text. `longest` is the longest input that any caller of `parse` lets through."""
    _assert_steps(parse, make, min(SHORT, longest))
    costs = []
    for eighths in (1, 2, 4, 8):
        costs.append(_cpu_s(parse, make(longest * eighths // 8), bound_s))
        told = f"{longest * eighths // 8} characters cost {costs[-1]:.4f} s of CPU: {_show(make)}"
        assert costs[-1] <= bound_s, told
    assert costs[3] <= FREE_S or costs[3] <= CPU_GROWTH * costs[1], f"CPU grows as {costs}: {_show(make)}"


def _assert_steps(parse: Callable[[T], object], make: Callable[[int], T], longest: int) -> None:
    counts = [count_steps(parse, make(longest * eighths // 8)) for eighths in (1, 2, 4, 8)]
    assert counts[3] <= STEPS_GROWTH * max(counts[0], 50), f"steps grow as {counts}: {_show(make)}"


def count_steps(parse: Callable[[T], object], value: T) -> int:
    """Opcodes that Python runs for one call."""
    steps = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal steps
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        steps += event == "opcode"
        return trace

    before = sys.gettrace()
    with _uncollected():
        sys.settrace(trace)
        try:
            _call(parse, value)
        finally:
            sys.settrace(before)
    return steps


def _cpu_s(parse: Callable[[T], object], value: T, bound_s: float) -> float:
    """The least of several calls; one that is far beyond the bound is enough."""
    least_s = float("inf")
    with _uncollected():
        for _ in range(CALLS):
            began_s = time.thread_time()
            _call(parse, value)
            least_s = min(least_s, time.thread_time() - began_s)
            if least_s > 20 * bound_s:
                break
    return least_s


@contextmanager
def _uncollected() -> Iterator[None]:
    """What others left behind is collected later: finalizers would be counted here."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _call(parse: Callable[[T], object], value: T) -> None:
    try:
        parse(value)
    except (ValueError, WarmstartError):
        pass


def _show(make: Callable[[int], object]) -> str:
    return repr(make(40))[:120]
