"""Small charts for Dagster's pages: SVG of a few hundred bytes, as data URIs in Markdown."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

WIDTH = 240
MODEL_COLOUR, BASELINE_COLOUR, ALARM_COLOUR = "#2b7de9", "#9aa4b2", "#d64545"


def image(alternative: str, uri: str) -> str:
    """A Markdown image with its alternative text."""
    return f"![{alternative}]({uri})"


def bars(ours: float, baseline: float) -> str:
    """Two bars with their names, the version's above the baseline's; the longer one fills the width."""
    longest = max(ours, baseline) or 1.0
    named = '<text x="4" y="{}" font-size="11" font-family="sans-serif">{}</text>'
    return _uri(
        40,
        f'<rect width="{WIDTH * ours / longest:.0f}" height="16" fill="{MODEL_COLOUR}" opacity=".5"/>'
        f'<rect y="20" width="{WIDTH * baseline / longest:.0f}" height="16" fill="{BASELINE_COLOUR}"/>'
        + named.format(12, "version")
        + named.format(32, "baseline"),
    )


def shares(values: Mapping[str, float]) -> str:
    """A bar for each name, from 0 to 1, with the name and the percentage on it."""
    drawn = [
        f'<rect y="{20 * at}" width="{max(1, round(WIDTH * share))}" height="16" fill="{MODEL_COLOUR}" opacity=".5"/>'
        f'<text x="4" y="{20 * at + 12}" font-size="11" font-family="sans-serif">{escape(name[:30])} {share:.0%}</text>'
        for at, (name, share) in enumerate(values.items())
    ]
    return _uri(20 * len(values), "".join(drawn))


def line(values: Sequence[float], alarm: float, height: int = 80) -> str:
    """A line chart of the values, starting at 0, with a dashed line at ``alarm``.

    Raises
    ------
    ValueError
        If there are no values.
    """
    if not values:
        raise ValueError("a line needs at least one value, got none")
    top = 1.1 * max(*values, alarm) or 1.0
    step = WIDTH / max(1, len(values) - 1)
    points = " ".join(f"{step * at:.0f},{height * (1 - value / top):.0f}" for at, value in enumerate(values))
    limit = f"{height * (1 - alarm / top):.0f}"
    return _uri(
        height,
        f'<polyline points="{points}" fill="none" stroke="{MODEL_COLOUR}" stroke-width="2"/>'
        f'<line x2="{WIDTH}" y1="{limit}" y2="{limit}" stroke="{ALARM_COLOUR}" stroke-dasharray="4"/>',
    )


def _uri(height: int, drawn: str) -> str:
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}">{drawn}</svg>'
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
