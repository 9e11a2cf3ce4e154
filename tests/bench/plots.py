"""Small plots as SVG: lines with marks, both axes logarithmic or linear, readable on light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 70, 150, 40, 50
COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#999999")
"""Okabe and Ito's, which the colour-blind can tell apart."""

Points = Sequence[tuple[float, float]]


class _Axis:
    """From values to pixels."""

    def __init__(self, values: Sequence[float], begin: float, end: float, *, logarithmic: bool) -> None:
        self._log, self._begin, self._end = logarithmic, begin, end
        low, high = min(values), max(values)
        if logarithmic:
            self._low, self._high = math.floor(math.log10(low)), math.ceil(math.log10(high) - 1e-9)
            self.ticks = [10.0**power for power in range(self._low, self._high + 1)]
        else:
            step = _step(high)
            self._low, self._high = 0, math.ceil(high / step) * step
            self.ticks = [step * number for number in range(round(self._high / step) + 1)]

    def at(self, value: float) -> float:
        value = math.log10(value) if self._log else value
        return self._begin + (value - self._low) / ((self._high - self._low) or 1) * (self._end - self._begin)


def _step(high: float) -> float:
    rough = (high or 1) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)


def lines(title: str, x: str, y: str, series: Mapping[str, Points], *, logarithmic: bool = True) -> str:
    """A plot of some series by name. Values must be above 0 where it is logarithmic."""
    points = [point for one in series.values() for point in one]
    across = _Axis([px for px, _ in points], LEFT, WIDTH - RIGHT, logarithmic=logarithmic)
    up = _Axis([py for _, py in points], HEIGHT - BOTTOM, TOP, logarithmic=logarithmic)
    drawn = [_grid(across, up), _words(title, x, y)]
    drawn += [_series(n, name, one, across, up) for n, (name, one) in enumerate(series.items())]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">'
    return "\n".join([head, f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>', *drawn, "</svg>", ""])


def _grid(across: _Axis, up: _Axis) -> str:
    line = '<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" stroke="#dddddd"/>'
    text = '<text x="{:.1f}" y="{:.1f}" font-size="11" fill="#444444" text-anchor="{}">{:,g}</text>'
    drawn = []
    for tick in across.ticks:
        at = across.at(tick)
        drawn += [line.format(at, TOP, at, HEIGHT - BOTTOM), text.format(at, HEIGHT - BOTTOM + 16, "middle", tick)]
    for tick in up.ticks:
        at = up.at(tick)
        drawn += [line.format(LEFT, at, WIDTH - RIGHT, at), text.format(LEFT - 6, at + 4, "end", tick)]
    return "\n".join(drawn)


def _words(title: str, x: str, y: str) -> str:
    middle = (TOP + HEIGHT - BOTTOM) / 2
    small = 'font-size="12" fill="#444444" text-anchor="middle"'
    place = f'x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 12}"'
    turned = f'x="16" y="{middle}" transform="rotate(-90 16 {middle})"'
    drawn = [f'<text x="{LEFT}" y="22" font-size="14" fill="#222222">{escape(title)}</text>']
    drawn += [f"<text {where} {small}>{escape(text)}</text>" for where, text in ((place, x), (turned, y))]
    return "\n".join(drawn)


def _series(number: int, name: str, points: Points, across: _Axis, up: _Axis) -> str:
    colour = COLOURS[number % len(COLOURS)]
    places = [(across.at(px), up.at(py)) for px, py in points]
    path = " ".join(f"{px:.1f},{py:.1f}" for px, py in places)
    marks = [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{colour}"/>' for px, py in places]
    label = TOP + 14 + 18 * number
    key = f'<text x="{WIDTH - RIGHT + 12}" y="{label}" font-size="12" fill="{colour}">{escape(name)}</text>'
    return "\n".join([f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>', *marks, key])
