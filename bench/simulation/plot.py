"""The results as a picture: how the load's ratio grows with the nodes, and what each other scenario does to it. SVG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from math import log10

from bench.simulation.scenario import Result

WIDTH, ROW, LEFT, RIGHT, TOP = 800, 22, 300, 60, 56
_BAR, _GRID, _TEXT = "#3b6fb6", "#d5d9de", "#333"
_STYLE = f"text {{ font: 12px sans-serif; fill: {_TEXT} }} .title {{ font-size: 14px; font-weight: bold }}"


def draw(results: Sequence[Result]) -> str:
    """One bar for each result; the numbers stand beside them."""
    height = TOP + ROW * len(results) + 30
    body = "\n".join([*_axis(height), *_bars(results)])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">\n'
        f"<style>{_STYLE}</style>\n"
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>\n'
        f'<text class="title" x="12" y="22">Until the slowest node has the model, over the ideal time</text>\n'
        f"{body}\n</svg>\n"
    )


def _axis(height: int) -> Iterator[str]:
    for mark in (1.01, 1.02, 1.05, 1.1, 1.2, 1.5, 2.0, 3.0, 6.0, 11.0, 21.0):
        x = _x(mark)
        yield f'<line x1="{x:.1f}" y1="{TOP - 6}" x2="{x:.1f}" y2="{height - 24}" stroke="{_GRID}"/>'
        yield f'<text x="{x:.1f}" y="{TOP - 12}" text-anchor="middle">{mark:g}</text>'


def _bars(results: Sequence[Result]) -> Iterator[str]:
    for row, result in enumerate(results):
        y, x = TOP + ROW * row, _x(result.slowest)
        name = escape(f"{result.scenario.name}, {result.scenario.nodes} nodes")
        yield f'<text x="{LEFT - 8}" y="{y + 14}" text-anchor="end">{name}</text>'
        yield f'<rect x="{LEFT}" y="{y + 2}" width="{max(1.0, x - LEFT):.1f}" height="{ROW - 6}" fill="{_BAR}"/>'
        yield f'<text x="{x + 6:.1f}" y="{y + 14}">{result.slowest:.3f}</text>'


def _x(ratio: float) -> float:
    """From 0.5 % above the ideal to twenty times it."""
    lowest, highest = log10(0.005), log10(20)
    share = (log10(min(max(ratio - 1, 0.005), 20)) - lowest) / (highest - lowest)
    return LEFT + share * (WIDTH - LEFT - RIGHT)
