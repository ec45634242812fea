"""Unusual days, compared with the tenant's own earlier days: volume, missing values and mean prediction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import pandas as pd

from ml_pipeline.monitoring.anomalies.rows import Anomalies, Anomaly, judged_columns
from ml_pipeline.specs.model_spec import ModelSpec

RATE = 0.001
HISTORY_DAYS = 56
MIN_DAYS = 28  # earlier days for the volume: four of each weekday
MIN_DAYS_WITH_ROWS = 14  # for missing values and predictions
MIN_PREDICTIONS = 5  # on a day, needed for its mean to be tested
NAMED_COLUMNS = 3
OUTLIER = 4.5  # robust standard deviations from which an earlier day is excluded from the reference
_MISSING = "missing_"
_DAY = 86_400_000_000  # microseconds
_NO_VARIANCE = 1e-9
_NO_TAIL = 1e-300
_NODES = np.array([-np.sqrt(3), 0.0, np.sqrt(3)])  # Gauss-Hermite: the mean of a function of a standard normal value
_NODE_WEIGHTS = np.array([1, 4, 1]) / 6
_WEEKDAYS = ("Mondays", "Tuesdays", "Wednesdays", "Thursdays", "Fridays", "Saturdays", "Sundays")


def daily_summary(
    spec: ModelSpec, frame: pd.DataFrame, first: date, last: date, predictions: pd.DataFrame | None = None
) -> pd.DataFrame:
    """One row per UTC day from ``first`` to ``last`` (inclusive), also for days without rows.

    Parameters
    ----------
    spec : ModelSpec
        The model.
    frame : DataFrame
        Feature rows; a row belongs to the day of its ``event_time``.
    first, last : date
        Days to summarise.
    predictions : DataFrame or None
        Live predictions of the tenant and model, with ``predicted_at`` and ``value``.

    Returns
    -------
    DataFrame
        Index of days (datetime64 without zone). ``volume``: number of rows. ``missing_<column>``: rows without a value,
        for the columns that describe an entity. ``predictions``, ``prediction_mean`` and ``prediction_variance``:
        number, mean and variance of the day's predictions, on the scale log(1 + x) if the label cannot be negative (NaN
        if there are too few).
    """
    days = pd.date_range(first, last, freq="D")
    summary = _row_counts(spec, frame, days)
    if predictions is None or predictions.empty:
        return summary.assign(predictions=0, prediction_mean=np.nan, prediction_variance=np.nan)
    value = predictions["value"].to_numpy(dtype="float64")
    if spec.task == "regression" and spec.label.above is not None and spec.label.above >= 0:
        value = np.log1p(np.maximum(value, 0))
    values = pd.Series(value, index=predictions.index)[np.isfinite(value)]
    day = predictions["predicted_at"].dt.tz_convert("UTC").dt.tz_localize(None).dt.normalize()
    grouped = values.groupby(day.loc[values.index]).agg(["count", "mean", "var"])
    of_predictions = grouped.set_axis(["predictions", "prediction_mean", "prediction_variance"], axis=1).reindex(days)
    counted = of_predictions.fillna({"predictions": 0}).astype({"predictions": "int64"})
    joined: pd.DataFrame = pd.concat([summary, counted], axis=1)
    return joined


def _row_counts(spec: ModelSpec, frame: pd.DataFrame, days: pd.DatetimeIndex) -> pd.DataFrame:
    """Number of rows, and of rows without a value in each judged column, by day."""
    names = [name for name in judged_columns(spec.feature_columns).all if name in frame]
    missing = frame[names].isna().to_numpy()
    if "text" in spec.feature_columns.text and "text" in frame:
        names = [*names, "text"]
        missing = np.column_stack([missing, (frame["text"].isna() | (frame["text"] == "")).to_numpy(bool)])
    day = (frame["event_time"].array.as_unit("us").asi8 - days[0].value // 1000) // _DAY
    within = (day >= 0) & (day < len(days))
    day, missing = day[within], missing[within]
    row, column = np.nonzero(missing)
    shape = len(days), len(names)
    counts = np.bincount(day[row] * shape[1] + column, minlength=shape[0] * shape[1]).reshape(shape)
    summary = pd.DataFrame(counts, index=days, columns=[_MISSING + name for name in names])
    return summary.assign(volume=np.bincount(day, minlength=len(days)))


def unusual_days(summary: pd.DataFrame, days: Sequence[date] | None = None, *, rate: float = RATE) -> Anomalies:
    """Days that differ from the 56 days before each of them.

    Three measures are tested, each with a false alarm rate of ``rate`` per day, so at most ``3 * rate`` together:

    - volume: a negative binomial count with the mean of its weekday and one over-dispersion for all days;
    - missing values: a beta-binomial count per column with the day-to-day variation of the reference, Bonferroni
      corrected for the number of columns; one anomaly per day names the columns;
    - mean prediction: normal, with variance within and between days (DerSimonian and Laird 1986), for days with at
      least five predictions. A new version that predicts on another level is reported as well.

    Extreme days are excluded from the reference. The p-values include the uncertainty of the estimates, by Student's t.
    Simulated quiet days of 0.5 to 400 rows gave 0 to 1.8 (volume), 0 to 1.3 (missing) and 0 to 1.2 (mean) false alarms
    per 1,000 days at the default rate of 1 per 1,000: fewest with small counts, most if the expected volume varies by
    40% from day to day, or by 25% with an autocorrelation of 0.5.

    Parameters
    ----------
    summary : DataFrame
        Result of :func:`daily_summary`.
    days : sequence of date, optional
        Days to test, by default the last one.
    rate : float
        False alarms per day and measure.

    Returns
    -------
    Anomalies
        ``tested`` is the number of tests (measures times days). Measures with too little history are not tested and are
        named in ``note``.

    Raises
    ------
    ValueError
        If the summary lacks one of the days.
    """
    history = _Days.of(summary)
    chosen = pd.DatetimeIndex(summary.index[-1:] if days is None else list(days))
    found, tested = [], 0
    untested = dict.fromkeys(_MEASURES, 0)
    for place in _places(summary, chosen):
        for kind, measure in _MEASURES.items():
            anomaly = measure(history, place)
            if anomaly is None:
                untested[kind] += 1
                continue
            tested += 1
            if anomaly.score <= rate:
                found.append(anomaly)
    found.sort(key=lambda anomaly: anomaly.score)
    notes = [
        f"{kind}: too little history or too few rows on {count} of {len(chosen)} days"
        for kind, count in untested.items()
        if count
    ]
    return Anomalies(found, len(found), tested, rate, "; ".join(notes))


def volume_p_value(summary: pd.DataFrame, day: date) -> float | None:
    """P-value of a day's volume, compared with the days before it; None with too little history."""
    anomaly = _volume(_Days.of(summary), _places(summary, pd.DatetimeIndex([day]))[0])
    return None if anomaly is None else anomaly.score


def _places(summary: pd.DataFrame, days: pd.DatetimeIndex) -> list[int]:
    places = summary.index.get_indexer(days)
    if (places < 0).any():
        absent = days[places < 0][0].date()
        raise ValueError(f"the summary lacks the day {absent}. Summarise the days up to it")
    return [int(place) for place in places]


@dataclass(frozen=True)
class _Days:
    """The columns of a summary as arrays with one entry per day; ``missing`` is days x features."""

    iso: list[str]
    weekday: np.ndarray
    volume: np.ndarray
    names: list[str]
    missing: np.ndarray
    predictions: np.ndarray
    mean: np.ndarray
    variance: np.ndarray

    @classmethod
    def of(cls, summary: pd.DataFrame) -> _Days:
        index = pd.DatetimeIndex(summary.index)
        columns = [str(name) for name in summary if str(name).startswith(_MISSING)]
        numbers = ("volume", "predictions", "prediction_mean", "prediction_variance")
        volume, predictions, mean, variance = (summary[name].to_numpy(dtype="float64") for name in numbers)
        return cls(
            iso=np.datetime_as_string(index.to_numpy(), unit="D").tolist(),
            weekday=index.day_of_week.to_numpy(),
            volume=volume,
            names=[name.removeprefix(_MISSING) for name in columns],
            missing=summary[columns].to_numpy(dtype="float64"),
            predictions=predictions,
            mean=mean,
            variance=variance,
        )


def _volume(days: _Days, place: int) -> Anomaly | None:
    """Test of the day's count against the mean of its weekday, with the over-dispersion of the earlier days."""
    from scipy.special import betainc, betaincc

    past = slice(max(place - HISTORY_DAYS, 0), place)
    counts, weekday, today = days.volume[past], days.weekday[past], days.weekday[place]
    if len(counts) < MIN_DAYS:
        return None
    # Days near the median of their weekday, on the square-root scale, where Poisson counts have equal variance.
    roots = 2 * np.sqrt(counts + 0.375)
    weekdays, of_day = np.unique(weekday, return_inverse=True)
    departure = roots - np.array([np.median(roots[weekday == one]) for one in weekdays])[of_day]
    usual = np.asarray(np.abs(departure) <= OUTLIER * max(1.4826 * float(np.median(np.abs(departure))), 1.0))
    counts, weekday = counts[usual], weekday[usual]
    times = np.bincount(weekday, minlength=7)
    # Jeffreys' prior adds half a count to each sum, so that no weekday has an expected count of 0.
    means = (np.bincount(weekday, weights=counts, minlength=7) + 0.5) / np.maximum(times, 1)
    expected = means[weekday]
    freedom = max(len(counts) - 7, 1)
    squares = float(((counts - expected) ** 2).sum()) * len(counts) / freedom
    extra = max((squares - expected.sum()) / (expected**2).sum(), 0.0)
    mean = float(means[today])
    error = np.sqrt((1 / mean + extra) / max(times[today], 1))  # of the mean, relative
    possible = mean * np.exp(_NODES * min(error, 1.0))
    size = 1 / max(extra, _NO_VARIANCE)
    seen = float(days.volume[place])
    share = size / (size + possible)
    above = betaincc(size, seen, share) if seen > 0 else np.ones(len(possible))
    score = float(_student(min(_NODE_WEIGHTS @ above, _NODE_WEIGHTS @ betainc(size, seen + 1, share)), freedom))
    own = counts[weekday == today]
    span = f"{own.min():.0f} to {own.max():.0f}, " if len(own) else ""
    usually = f"the last {len(own)} {_WEEKDAYS[today]} had {span}{mean:.3g} on average"
    return Anomaly("volume", None, days.iso[place], score, f"{seen:.0f} rows; {usually} (p = {score:.2g})", [])


def _nulls(days: _Days, place: int) -> Anomaly | None:
    """Test of the missing values of each column against their share on earlier days."""
    past = np.arange(max(place - HISTORY_DAYS, 0), place)
    past = past[days.volume[past] > 0]
    rows = int(days.volume[place])
    if len(past) < MIN_DAYS_WITH_ROWS or not rows or not days.names:
        return None
    seen, sizes, missing = days.missing[place], days.volume[past], days.missing[past]
    share, correlation = _usual_share(sizes, missing)
    tail = _student(_beta_binomial_tail(seen, rows, share, correlation), len(past) - 1)
    p_values = np.minimum(tail * len(days.names), 1.0)
    order = np.argsort(p_values, kind="stable")
    score = float(p_values[order[0]])
    named = [int(column) for column in order[:NAMED_COLUMNS] if p_values[column] <= max(score, RATE)]
    parts = [
        f"{days.names[column]} is missing in {seen[column]:.0f} of {rows} rows ({seen[column] / rows:.0%}), on earlier "
        f"days in {missing[:, column].sum() / sizes.sum():.1%}"
        for column in named
    ]
    reason = f"{'; '.join(parts)} (p = {score:.2g} over {len(days.names)} columns)"
    return Anomaly("nulls", None, days.iso[place], score, reason, [days.names[column] for column in named])


def _usual_share(sizes: np.ndarray, missing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean share of missing values and their correlation within a day, per column."""
    size = sizes[:, None]
    pooled = (missing.sum(axis=0) + 0.5) / (sizes.sum() + 1)
    arcsine = np.arcsin(np.sqrt((missing + 0.375) / (size + 0.75)))
    roots = 2 * np.sqrt(size) * (arcsine - np.arcsin(np.sqrt(pooled)))
    limit = OUTLIER * np.maximum(1.4826 * np.median(np.abs(roots), axis=0), 1)
    usual = np.abs(roots - np.median(roots, axis=0)) <= limit
    n, k = np.where(usual, size, 0.0), np.where(usual, missing, 0.0)
    total = n.sum(axis=0)
    share = (k.sum(axis=0) + 0.5) / (total + 1)
    variance = share * (1 - share)
    days = len(sizes)
    squares = ((k - n * share) ** 2).sum(axis=0) * days / (days - 1)
    pairs = (n * (n - 1)).sum(axis=0)
    correlation = np.clip((squares - total * variance) / np.maximum(pairs * variance, 1e-300), 0.0, 0.9)
    design = 1 + np.maximum(pairs / np.maximum(total, 1), 0) * correlation
    return share, np.minimum(correlation + 1 / (total / design + 1), 0.99)


def _beta_binomial_tail(seen: np.ndarray, rows: int, share: np.ndarray, correlation: np.ndarray) -> np.ndarray:
    """The smaller of P(K >= seen) and P(K <= seen), per column."""
    from scipy.special import betaln, gammaln

    strength = 1 / correlation - 1
    first, second = (share * strength)[:, None], ((1 - share) * strength)[:, None]
    count = np.arange(rows + 1.0)
    ways = gammaln(rows + 1) - gammaln(count + 1) - gammaln(rows - count + 1)
    chance = np.exp(ways + betaln(count + first, rows - count + second) - betaln(first, second))
    above = np.where(count >= seen[:, None], chance, 0).sum(axis=1)
    below = np.where(count <= seen[:, None], chance, 0).sum(axis=1)
    return np.asarray(np.minimum(np.minimum(above, below), 1.0))


def _prediction_mean(days: _Days, place: int) -> Anomaly | None:
    """Test of the day's mean prediction against the means of earlier days."""
    past = np.arange(max(place - HISTORY_DAYS, 0), place)
    past = past[days.predictions[past] > 0]
    number = days.predictions[place]
    if len(past) < MIN_DAYS_WITH_ROWS or number < MIN_PREDICTIONS:
        return None
    sizes, means = days.predictions[past], days.mean[past]
    variances = np.where(sizes > 1, days.variance[past], 0.0)
    within = float(((sizes - 1) * variances).sum() / max((sizes - 1).sum(), 1.0))
    middle = float(np.median(means))
    scale = np.maximum(1.4826 * float(np.median(np.abs(means - middle))), np.sqrt(within / sizes))
    usual = np.abs(means - middle) <= OUTLIER * scale
    sizes, means = sizes[usual], means[usual]
    between = _between_variance(sizes, means, within)
    weights = 1 / np.maximum(between + within / sizes, _NO_VARIANCE)
    mean = float((weights * means).sum() / weights.sum())
    variance = max(between + within / number + 1 / weights.sum(), _NO_VARIANCE)
    today = float(days.mean[place])
    score = float(_two_sided(abs(today - mean) / np.sqrt(variance), len(means) - 1))
    reason = (
        f"the mean of {number:.0f} predictions is {today:.3g}, on {len(means)} earlier days it was {mean:.3g} "
        f"(scale of the target; p = {score:.2g})"
    )
    return Anomaly("prediction_mean", None, days.iso[place], score, reason, [])


def _between_variance(sizes: np.ndarray, means: np.ndarray, within: float) -> float:
    """Variance of the days' true means, by the method of moments."""
    if within <= 0:
        return float(means.var(ddof=1)) if len(means) > 1 else 0.0
    weights = sizes / within
    centre = (weights * means).sum() / weights.sum()
    surplus = (weights * (means - centre) ** 2).sum() - (len(means) - 1)
    return max(float(surplus / (weights.sum() - (weights**2).sum() / weights.sum())), 0.0)


def _student(tail: np.ndarray | float, freedom: int) -> np.ndarray:
    """Two-sided p-value from Student's t for a one-sided normal tail, because the spread is estimated."""
    from scipy.special import ndtri

    return _two_sided(-ndtri(np.clip(tail, _NO_TAIL, 0.5)), freedom)


def _two_sided(distance: np.ndarray | float, freedom: int) -> np.ndarray:
    """Two-sided p-value from Student's t with half the degrees of freedom.

    Daily sums are skewed and autocorrelated. With the full degrees of freedom, lognormal volumes with an
    autocorrelation of 0.5 gave 5 times the nominal false alarms.
    """
    from scipy.special import stdtr

    return np.asarray(np.minimum(2 * stdtr(max(freedom / 2, 1.0), -np.asarray(distance)), 1.0))


_MEASURES: dict[str, Callable[[_Days, int], Anomaly | None]] = {
    "volume": _volume,
    "nulls": _nulls,
    "prediction_mean": _prediction_mean,
}
