"""Lags, windows, spread, trend and queue against the same numbers counted one entity at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_pipeline.features.temporal.history import DAY, NEVER, Outcomes, history_features
from ml_pipeline.features.temporal.temporal import temporal_features
from ml_pipeline.specs.temporal import Temporal

HOUR = DAY // 24
FAMILIES = ("lags", "rolling", "expanding", "trend", "queue")


def with_temporal(spec, **chosen):
    features = spec.features.model_copy(update={"temporal": Temporal(**chosen)})
    return spec.model_copy(update={"features": features})


def line(times: np.ndarray, terms: np.ndarray) -> tuple[float, float]:
    """Slope a day and R^2 of a least-squares line."""
    if len(terms) < 3 or len(set(times)) < 2:
        return np.nan, np.nan
    days = times / DAY
    slope, offset = np.polyfit(days - days.mean(), terms, 1)
    if len(set(terms)) == 1:
        return 0.0, 0.0
    left = terms - slope * (days - days.mean()) - offset
    return slope, 1 - (left**2).sum() / ((terms - terms.mean()) ** 2).sum()


def welch(late: np.ndarray, early: np.ndarray) -> float:
    if min(len(late), len(early)) < 3 or len(set(late)) == len(set(early)) == 1:
        return np.nan
    error = late.var(ddof=1) / len(late) + early.var(ddof=1) / len(early)
    return (late.mean() - early.mean()) / np.sqrt(error)


def cusum(terms: np.ndarray, sign: int) -> float:
    """Page's recursion."""
    total = 0.0
    for j in range(3, len(terms)):
        past = terms[:j]
        z = 0.0 if len(set(past)) == 1 else (terms[j] - past.mean()) / past.std(ddof=1)
        total = max(0.0, total + sign * np.clip(z, -4, 4) - 0.5)
    return total


def outcome_parts(now, times, values, log) -> dict[str, float]:
    """Of the outcomes that one entity sees, in the order in which they were known."""
    forward, back = (np.log1p, np.expm1) if log else ((lambda x: x), (lambda x: x))
    terms = forward(values)
    parts = {f"lag_{lag}": values[-lag] if len(values) >= lag else np.nan for lag in (1, 7, 30)}
    for days in (3, 7, 14, 30, 90):
        inside = times >= now - days * DAY
        window = values[inside]
        there = len(window) > 0
        parts[f"rolling_{days}d_mean"] = back(terms[inside].mean()) if there else np.nan
        parts[f"rolling_{days}d_std"] = terms[inside].std(ddof=1) if len(window) > 1 else np.nan
        parts[f"rolling_{days}d_min"] = window.min() if there else np.nan
        parts[f"rolling_{days}d_max"] = window.max() if there else np.nan
        for name, share in (("q25", 0.25), ("median", 0.5), ("q75", 0.75)):
            quantile = np.quantile(window, share, method="inverted_cdf") if there else np.nan
            parts[f"rolling_{days}d_{name}"] = quantile
    parts["std"] = terms.std(ddof=1) if len(terms) > 1 else np.nan
    parts["min"], parts["max"] = (values.min(), values.max()) if len(values) else (np.nan, np.nan)
    parts["days_since_outcome"] = (now - times[-1]) / DAY if len(values) else np.nan
    for name, days in (("30d", 30), ("90d", 90), ("all", 10**6)):
        inside = times >= now - days * DAY
        parts[f"slope_{name}"], parts[f"fit_{name}"] = line(times[inside], terms[inside])
    month, quarter = times >= now - 30 * DAY, times >= now - 90 * DAY
    parts["change_30d"] = welch(terms[month], terms[quarter & ~month])
    parts["change_20"] = welch(terms[-20:], terms[-40:-20])
    parts["cusum_up"], parts["cusum_down"] = cusum(terms, 1), cusum(terms, -1)
    return parts


def queue_parts(now, arrivals, endings) -> dict[str, float]:
    """Of arrivals and endings of the same scope, ``NEVER`` for none."""
    arrived, ended = arrivals[arrivals < now], endings[endings < now]
    parts = {f"arrivals_{days}d": (arrived >= now - days * DAY).sum() for days in (1, 7, 30)}
    parts["arrivals_same_hour"] = (arrived // HOUR == now // HOUR).sum()
    parts["hours_since_arrival"] = (now - arrived.max()) / HOUR if len(arrived) else np.nan
    parts |= {f"endings_{days}d": (ended >= now - days * DAY).sum() for days in (7, 30)}
    parts["hours_since_ending"] = (now - ended.max()) / HOUR if len(ended) else np.nan
    parts["in_progress_30d"] = ((arrivals < now) & (arrivals >= now - 30 * DAY) & (endings >= now)).sum()
    rate = parts["endings_30d"] / 30
    parts["wait_days"] = parts["in_progress_30d"] / rate if rate else np.nan
    return parts


def counted(spec, event_time, outcomes, labels) -> dict[str, np.ndarray]:
    """The definition, in plain loops."""
    log = spec.training.target == "log"
    found: dict[str, list[float]] = {}
    order = np.argsort(outcomes.known_at, kind="stable")
    for i, now in enumerate(event_time):
        known = order[outcomes.known_at[order] < now]
        tenant = outcome_parts(now, outcomes.known_at[known], outcomes.value[known], log)
        tenant |= queue_parts(now, event_time, outcomes.finished_at)
        same = np.array([label is not None and label == labels[i] for label in labels])
        mine = known[same[known]]
        group = outcome_parts(now, outcomes.known_at[mine], outcomes.value[mine], log)
        group |= queue_parts(now, event_time[same], outcomes.finished_at[same])
        terms, own = (np.log1p(outcomes.value[at]) if log else outcomes.value[at] for at in (known, mine))
        group["share"] = len(mine) / len(known) if len(known) else np.nan
        group["departure"] = (own - terms.mean()).sum() / (len(own) + 5) if len(known) else np.nan
        if labels[i] is None:
            group = dict.fromkeys(group, np.nan)
        row = {f"history_{name}": value for name, value in tenant.items()}
        row |= {f"history_team_{name}": value for name, value in group.items()}
        for name, value in row.items():
            found.setdefault(name, []).append(float(value))
    return {name: np.array(column) for name, column in found.items()}


entity = st.tuples(
    st.integers(0, 60 * 24).map(lambda hour: hour * HOUR // 2),
    st.integers(0, 40 * 4).map(lambda quarters: quarters * DAY // 4),  # ties in arrival and outcome are frequent
    st.sampled_from(["usable", "usable", "usable", "unusable", "never"]),
    st.sampled_from([1.0, 2.0, 3.0, 5.0, 8.0]) | st.floats(0, 1000).map(lambda value: round(value, 3)),
    st.sampled_from([None, "a", "b"]),
)


def arrays(drawn):
    drawn = sorted(drawn, key=lambda each: each[0])
    event_time = np.array([arrival for arrival, *_ in drawn], dtype="int64")
    done = event_time + np.array([wait for _, wait, *_ in drawn], dtype="int64")
    kind = np.array([kind for _, _, kind, _, _ in drawn])
    usable = kind == "usable"
    outcomes = Outcomes(
        value=np.where(usable, [value for *_, value, _ in drawn], np.nan),
        known_at=np.where(usable, done, NEVER),
        finished_at=np.where(kind == "never", NEVER, done),
    )
    return event_time, outcomes, np.array([level for *_, level in drawn], dtype=object)


@pytest.mark.parametrize("model", ["story_points", "lead_time"])
@settings(max_examples=80, deadline=None)
@given(drawn=st.lists(entity, min_size=1, max_size=120))
def test_every_feature_is_what_counting_gives(specs, model, drawn):
    spec = with_temporal(specs[model], **dict.fromkeys(FAMILIES, True))
    event_time, outcomes, labels = arrays(drawn)
    expected = counted(spec, event_time, outcomes, labels)
    found = temporal_features(spec, event_time, outcomes, {"team": labels})
    assert found.keys() == expected.keys()
    for name, column in found.items():
        np.testing.assert_allclose(column, expected[name], rtol=1e-7, atol=1e-7, err_msg=name)


def steady(count: int, values: np.ndarray) -> tuple[np.ndarray, Outcomes]:
    """One entity a day, each with its outcome half a day later."""
    event_time = np.arange(count, dtype="int64") * DAY
    known_at = event_time + DAY // 2
    return event_time, Outcomes(value=values, known_at=known_at, finished_at=known_at)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_is_on_alone_and_makes_the_columns_that_the_specification_names(story_points, family):
    spec = with_temporal(story_points, **{family: True})
    event_time, outcomes = steady(5, np.arange(5.0))
    levels = {column: np.array(["x"] * 5, dtype=object) for column in spec.features.history}
    found = temporal_features(spec, event_time, outcomes, levels)
    assert set(found) == set(spec.features.temporal.columns(spec.features.history))


def test_no_family_is_on_unless_it_is_named(story_points):
    event_time, outcomes = steady(5, np.arange(5.0))
    assert temporal_features(story_points, event_time, outcomes, {}) == {}
    assert story_points.features.temporal.columns(["team"]) == []


def test_a_tenants_arrivals_are_the_same_column_in_history_and_queue(story_points):
    spec = with_temporal(story_points, queue=True)
    event_time, outcomes = steady(50, np.arange(50.0))
    queue = temporal_features(spec, event_time, outcomes, {})
    history = history_features(spec, event_time, outcomes, {})
    shared = queue.keys() & history.keys()
    assert shared == {"history_arrivals_7d", "history_arrivals_30d"}
    for name in shared:
        np.testing.assert_array_equal(queue[name], history[name])
    assert len(set(spec.feature_columns.all)) == len(spec.feature_columns.all)


def test_a_huge_outcome_leaves_no_trace_in_a_window_that_it_has_left(story_points):
    spec = with_temporal(story_points, rolling=True)
    event_time, outcomes = steady(60, np.where(np.arange(60) == 10, 1e17, 1.0 + np.arange(60) % 2))
    found = temporal_features(spec, event_time, outcomes, {})
    np.testing.assert_allclose(found["history_rolling_14d_mean"][30:], 1.5, rtol=1e-12)
    np.testing.assert_allclose(found["history_rolling_14d_std"][30:], np.sqrt(14 * 0.25 / 13), rtol=1e-12)


def test_a_small_spread_about_a_large_level_is_not_lost(story_points):
    spec = with_temporal(story_points, rolling=True, trend=True)
    event_time, outcomes = steady(200, 1e9 + 1e-3 * np.arange(200))
    found = temporal_features(spec, event_time, outcomes, {})
    np.testing.assert_allclose(found["history_slope_30d"][40:], 1e-3, rtol=1e-3)
    np.testing.assert_allclose(found["history_rolling_30d_std"][40:], 1e-3 * np.std(np.arange(30), ddof=1), rtol=1e-3)


def test_a_change_of_level_shows_in_the_change_scores_and_in_one_cumulative_sum(story_points):
    spec = with_temporal(story_points, trend=True)
    noise = np.random.default_rng(0).normal(size=160)
    event_time, outcomes = steady(160, noise + np.where(np.arange(160) < 120, 0.0, 3.0))
    found = temporal_features(spec, event_time, outcomes, {})
    assert found["history_change_20"][140] > 5 > np.abs(found["history_change_20"][40:119]).max()
    assert found["history_change_30d"][148] > 5 > np.abs(found["history_change_30d"][40:119]).max()
    assert found["history_cusum_up"][140] > 20 > found["history_cusum_up"][:119].max()
    assert found["history_cusum_down"][140] < 5


def test_the_head_of_a_group_does_not_depend_on_how_many_others_come_later(story_points):
    spec = with_temporal(story_points, **dict.fromkeys(FAMILIES, True))
    rng = np.random.default_rng(1)
    event_time, outcomes = steady(3000, rng.lognormal(3, 2, 3000))
    labels = np.array([f"team {at}" for at in rng.zipf(1.5, 3000)], dtype=object)
    whole = temporal_features(spec, event_time, outcomes, {"team": labels})
    for count in (1, 17, 1000, 2049):
        then = outcomes.known_at[:count] <= event_time[count - 1]
        head = Outcomes(
            np.where(then, outcomes.value[:count], np.nan),
            np.where(then, outcomes.known_at[:count], NEVER),
            np.where(then, outcomes.finished_at[:count], NEVER),
        )
        found = temporal_features(spec, event_time[:count], head, {"team": labels[:count]})
        for name, column in found.items():
            np.testing.assert_array_equal(column, whole[name][:count], err_msg=name)
