"""Overview picture of a version: feature importance, test results, learning curve and parameter search."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from ml_pipeline.display import printable
from ml_pipeline.specs import ModelSpec
from ml_pipeline.training.online.mixture import Mixture
from ml_pipeline.training.reporting.card import reliability
from ml_pipeline.training.reporting.importance import importance
from ml_pipeline.training.trained import Trained

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, HEIGHT, DPI = 9.6, 5.2, 100
COLUMNS, LINES = 3, 2
MOST_IMPORTANT = 8
RUNNING_ROWS = 20
_BLUE, _ORANGE, _GREY, _LIGHT = "#1f6fb2", "#c2541b", "#888888", "#b9d4ea"
_EXPERT_COLOURS = (_BLUE, _ORANGE, "#2e7d4f", "#7a4fa3")


class Tried(NamedTuple):
    """One trial of a search: its number and its mean loss over the folds."""

    number: int
    loss: float


def picture(spec: ModelSpec, trained: Trained, tried: Sequence[Tried] = ()) -> bytes:
    """PNG of 960 x 520 pixels with up to six panels.

    - Feature importance and learning curve (not for a baseline); for a mixture whose weights move, the weights of its
      experts over time instead of the learning curve.
    - On the test part: residuals over time; for a regression, actual against predicted values and interval coverage
      over time; for a binary model, reliability, and predicted and observed shares over time.
    - The losses of the parameter search, if ``tried`` has trials.

    The panels draw their own scales, because matplotlib's axes with ticks take twice as long.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI)
    overview = _Overview(figure, spec, trained)
    overview.importance()
    overview.residuals()
    if spec.task == "binary":
        overview.reliability()
        overview.shares()
    else:
        overview.actual()
        overview.coverage()
    overview.learning_curve()
    overview.weights()
    overview.search(tried)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, pil_kwargs={"compress_level": 1})
    return buffer.getvalue()


class _Panels:
    """Grid positions of the figure, filled from the upper left."""

    def __init__(self, figure: Figure) -> None:
        self.figure = figure
        self.taken = 0

    def next(self, title: str, x: tuple[float, float], y: tuple[float, float]) -> _Panel:
        column, line = self.taken % COLUMNS, self.taken // COLUMNS
        self.taken += 1
        left, bottom = (column + 0.14) / COLUMNS, 1 - (line + 0.86) / LINES
        return _Panel(self.figure, title, (left, bottom, 0.80 / COLUMNS, 0.70 / LINES), x, y)


class _Panel:
    """A panel with a title, a frame and two linear scales; ``x`` and ``y`` are the ends of the scales."""

    def __init__(
        self,
        figure: Figure,
        title: str,
        box: tuple[float, float, float, float],
        x: tuple[float, float],
        y: tuple[float, float],
    ) -> None:
        self.figure, self.x, self.y = figure, _widened(x), _widened(y)
        self.left, self.bottom, self.width, self.height = box
        figure.text(self.left, self.bottom + self.height * 1.04, printable(title), fontsize=9, parse_math=False)
        self.line(self.x[:1] * 2 + self.x[1:], self.y[1:] + self.y[:1] * 2, color=_GREY, linewidth=0.8)

    def line(self, x: Any, y: Any, **style: Any) -> None:
        from matplotlib.lines import Line2D

        self.figure.add_artist(Line2D(self._across(x), self._up(y), **style))

    def points(self, x: Any, y: Any, **style: Any) -> None:
        self.line(x, y, **{"linestyle": "", "marker": ".", "markersize": 4, "color": _BLUE} | style)

    def text(self, x: float, y: float, said: str, **style: Any) -> None:
        self.figure.text(
            float(self._across(x)), float(self._up(y)), printable(said), **{"fontsize": 7, "parse_math": False} | style
        )

    def scale_y(self, form: str = "g") -> None:
        for tick in _round_numbers(*self.y):
            self.text(self.x[0], tick, f"{tick:{form}} ", ha="right", va="center")

    def scale_x(self) -> None:
        for tick in _round_numbers(*self.x):
            self._below(tick, f"{tick:g}", "center")

    def days(self, times: np.ndarray) -> None:
        """Label the ends of the x scale with the first and the last day."""
        for end, day, side in ((self.x[0], times.min(), "left"), (self.x[1], times.max(), "right")):
            self._below(end, str(np.datetime_as_string(day, unit="D")), side)

    def _below(self, x: float, said: str, side: str) -> None:
        self.figure.text(float(self._across(x)), self.bottom - 0.012, said, fontsize=7, ha=side, va="top")

    def _across(self, x: Any) -> np.ndarray:
        return self.left + self.width * (np.asarray(x, dtype=float) - self.x[0]) / (self.x[1] - self.x[0])

    def _up(self, y: Any) -> np.ndarray:
        return self.bottom + self.height * (np.asarray(y, dtype=float) - self.y[0]) / (self.y[1] - self.y[0])


class _Overview:
    """The panels of one version, drawn in the order in which the methods are called."""

    def __init__(self, figure: Figure, spec: ModelSpec, trained: Trained) -> None:
        self.panels = _Panels(figure)
        self.spec = spec
        self.trained = trained

    def importance(self) -> None:
        shares = list(importance(self.trained.model).items())[:MOST_IMPORTANT]
        if not shares:
            return
        panel = self.panels.next("importance (share of the gain)", (0, shares[0][1]), (MOST_IMPORTANT - 0.4, -0.6))
        for row, (name, share) in enumerate(shares):
            panel.line([0, share], [row, row], color=_LIGHT, linewidth=11, solid_capstyle="butt")
            panel.text(0, row, f" {name}  {share:.0%}", va="center")

    def residuals(self) -> None:
        label, value, times = self._test_part()
        error = value - label
        day = _numbers(times)
        panel = self.panels.next("predicted - actual, by event", _ends(day), _ends(error, 0.0))
        panel.line(panel.x, (0, 0), color=_GREY, linewidth=0.8)
        panel.points(day, error)
        panel.scale_y()
        panel.days(times)

    def actual(self) -> None:
        label, value, _ = self._test_part()
        ends = _ends(np.concatenate([label, value]))
        panel = self.panels.next("actual against predicted", ends, ends)
        panel.line(ends, ends, color=_GREY, linewidth=0.8)
        panel.points(value, label)
        panel.scale_x()
        panel.scale_y()

    def coverage(self) -> None:
        test = self.trained.test_predictions.sort_values("event_time", kind="stable")
        if test["lower"].isna().any():
            return
        inside = test["label"].between(test["lower"], test["upper"]).to_numpy(dtype=float)
        _, _, times = self._test_part()
        day = _numbers(times)
        panel = self.panels.next(f"share of {RUNNING_ROWS} outcomes in the interval", _ends(day), (0, 1))
        panel.line(panel.x, [self.spec.training.interval] * 2, color=_GREY, linewidth=0.8)
        panel.line(day, _running(inside), color=_BLUE, linewidth=1.4)
        panel.scale_y()
        panel.days(times)

    def reliability(self) -> None:
        label, value, _ = self._test_part()
        bins = np.array([(predicted, observed) for _, predicted, observed in reliability(label, value)])
        panel = self.panels.next("observed against predicted share", (0, 1), (0, 1))
        panel.line((0, 1), (0, 1), color=_GREY, linewidth=0.8)
        panel.line(bins[:, 0], bins[:, 1], color=_BLUE, linewidth=1.4, marker="o", markersize=4)
        panel.scale_x()
        panel.scale_y()

    def shares(self) -> None:
        label, value, times = self._test_part()
        day = _numbers(times)
        panel = self.panels.next(f"share in {RUNNING_ROWS} rows: observed, predicted", _ends(day), (0, 1))
        panel.line(day, _running(label), color=_GREY, linewidth=1.4)
        panel.line(day, _running(value), color=_BLUE, linewidth=1.4)
        panel.scale_y()
        panel.days(times)

    def learning_curve(self) -> None:
        if not self.trained.learning_curve:
            return
        rows, loss, baseline = np.array(self.trained.learning_curve).T
        panel = self.panels.next(
            f"{self.spec.headline_metric} by rows fitted on: version, baseline",
            (0, rows.max()),
            (0, max(loss.max(), baseline.max())),
        )
        for values, colour in ((baseline, _GREY), (loss, _BLUE)):
            panel.line(rows, values, color=colour, linewidth=1.4, marker="o", markersize=4)
        panel.scale_x()
        panel.scale_y()

    def weights(self) -> None:
        found = self.trained.expert_weights
        predictor = self.trained.model.predictor
        if found is None or found.empty or not isinstance(predictor, Mixture) or not predictor.learns:
            return
        times = pd.DatetimeIndex(found.index).tz_convert(None).to_numpy()
        day = _numbers(times)
        largest = found.iloc[-1].sort_values(ascending=False, kind="stable").head(len(_EXPERT_COLOURS))
        panel = self.panels.next("weights of the largest experts, by event", _ends(day), (0, 1))
        for colour, name in zip(_EXPERT_COLOURS, largest.index, strict=False):
            weight = found[name].to_numpy()
            panel.line(day, weight, color=colour, linewidth=1.4)
            highest = int(weight.argmax())  # small weights would cover each other at the end
            side = "left" if highest < len(day) / 2 else "right"
            panel.text(day[highest], weight[highest], f" {name} ", color=colour, ha=side, va="bottom")
        panel.scale_y()
        panel.days(times)

    def search(self, tried: Sequence[Tried]) -> None:
        if not tried:
            return
        number, loss = np.array(tried, dtype=float).T
        panel = self.panels.next(
            f"{self.spec.headline_metric} of the trials, and the best so far", _ends(number), _ends(loss)
        )
        panel.points(number, loss)
        panel.line(number, np.minimum.accumulate(loss), color=_ORANGE, linewidth=1.4, drawstyle="steps-post")
        panel.scale_x()
        panel.scale_y()

    def _test_part(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Labels, predictions and event times of the test part, oldest first."""
        test = self.trained.test_predictions.sort_values("event_time", kind="stable")
        times = test["event_time"].dt.tz_convert(None).to_numpy()
        return test["label"].to_numpy(), test["value"].to_numpy(), times


def _numbers(times: np.ndarray) -> np.ndarray:
    return times.astype("datetime64[s]").astype(float)


def _running(values: np.ndarray) -> np.ndarray:
    """Running mean over each value and up to ``RUNNING_ROWS - 1`` values before it."""
    sums = np.cumsum(np.append(0.0, values))
    stop = np.arange(1, len(values) + 1)
    start = np.maximum(stop - RUNNING_ROWS, 0)
    mean: np.ndarray = (sums[stop] - sums[start]) / (stop - start)
    return mean


def _ends(values: np.ndarray, *also: float) -> tuple[float, float]:
    every = [*values.tolist(), *also]
    return min(every), max(every)


def _widened(ends: tuple[float, float]) -> tuple[float, float]:
    """The ends, moved apart if they are equal."""
    return ends if ends[0] != ends[1] else (ends[0] - 0.5, ends[1] + 0.5)


def _round_numbers(low: float, high: float) -> list[float]:
    """Two to five multiples of 1, 2 or 5 times a power of ten between the ends.

    >>> _round_numbers(0, 11.5)
    [0.0, 5.0, 10.0]
    """
    rough = (high - low) / 4
    power = 10 ** np.floor(np.log10(rough))
    step = float(power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough))
    first, last = int(np.ceil(low / step - 1e-9)), int(np.floor(high / step + 1e-9))
    return [round(number * step, 12) for number in range(first, last + 1)]
