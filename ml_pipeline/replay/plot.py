"""Plot of one or more replays of the same history."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ml_pipeline.replay.result import DayLoss, Replay

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WINDOW_DAYS = 28
COLOURS = ("#1f6fb2", "#c2541b", "#3a8f4d", "#7b4fa3")
MARKS = {"training": ("^", 9), "update": ("+", 9), "alert": ("x", 7)}


def plot(replays: Sequence[Replay]) -> bytes:
    """PNG with two parts: the mean loss of the last 28 days with that of the baselines, and the events per policy.

    Raises
    ------
    ValueError
        If there are no replays, or more than 4.
    """
    from matplotlib.figure import Figure

    if not 1 <= len(replays) <= len(COLOURS):
        raise ValueError(f"got {len(replays)} replays; a plot takes 1 to {len(COLOURS)}")
    figure = Figure(figsize=(11, 6), layout="constrained")
    loss, events = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    _draw_losses(loss, replays)
    _draw_events(events, replays)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, format="png")
    return buffer.getvalue()


def _draw_losses(axes: Axes, replays: Sequence[Replay]) -> None:
    first = replays[0]
    for name, label, style in (("baseline", "baseline", ":"), ("rolling", "median of the last 50", "--")):
        axes.plot(_dates(first), _trailing(first.days, name), style, color="#888888", linewidth=1, label=label)
    for replay, colour in zip(replays, COLOURS, strict=False):
        mean = replay.mean_loss()
        label = replay.policy if mean is None else f"{replay.policy} (mean {mean:.4g})"
        axes.plot(_dates(replay), _trailing(replay.days, "loss"), color=colour, linewidth=1.6, label=label)
    for change in first.changes:
        axes.axvline(_day(change), color="#b00020", linewidth=1, label="known change")
    axes.set_ylabel(f"mean loss of {WINDOW_DAYS} days")
    axes.set_title(f"{first.model}, {first.first} to {first.last}", loc="left", fontsize=10)
    axes.legend(loc="upper left", fontsize=8, frameon=False)
    axes.grid(alpha=0.2)


def _draw_events(axes: Axes, replays: Sequence[Replay]) -> None:
    for row, (replay, colour) in enumerate(zip(replays, COLOURS, strict=False)):
        fits = [fit for fit in replay.fits if fit.verdict != "failed"]
        days = {
            "training": [fit.day for fit in fits if fit.action == "train"],
            "update": [fit.day for fit in fits if fit.action == "update"],
            "alert": [alert.day for alert in replay.alerts],
        }
        for name, (mark, size) in MARKS.items():
            when, height = [_day(day) for day in days[name]], [-row] * len(days[name])
            face = "#b00020" if name == "alert" else colour
            axes.plot(when, height, mark, color=face, markersize=size, label=name if row == 0 else None)
    axes.set_yticks([-row for row in range(len(replays))], [replay.policy for replay in replays])
    axes.set_ylim(-len(replays) + 0.4, 0.6)
    axes.legend(loc="upper left", fontsize=8, frameon=False, ncols=len(MARKS))


def _day(day: Any) -> Any:
    return np.datetime64(day, "D")


def _dates(replay: Replay) -> np.ndarray:
    return np.array([day.day for day in replay.days], dtype="datetime64[D]")


def _trailing(days: Sequence[DayLoss], name: str) -> np.ndarray:
    """Mean over the outcomes of the last 28 days; NaN without outcomes."""
    counts = np.cumsum([0, *(day.outcomes for day in days)], dtype=float)
    sums = np.cumsum([0, *(getattr(day, name) for day in days)], dtype=float)
    stop = np.arange(1, len(days) + 1)
    start = np.maximum(stop - WINDOW_DAYS, 0)
    count = counts[stop] - counts[start]
    return np.asarray(np.divide(sums[stop] - sums[start], count, out=np.full(len(days), np.nan), where=count > 0))
