"""History features against the same numbers counted one entity at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_pipeline.features.temporal.history import DAY, NEVER, Outcomes, history_features


def counted(spec, event_time, outcomes, levels) -> dict[str, np.ndarray]:
    """The definition, in plain loops."""
    log = spec.training.target == "log"
    forward, back = (np.log1p, np.expm1) if log else ((lambda x: x), (lambda x: x))
    found: dict[str, list[float]] = {}

    def add(name: str, value: float) -> None:
        found.setdefault(name, []).append(float(value))

    for i, now in enumerate(event_time):
        known = [j for j in np.argsort(outcomes.known_at, kind="stable") if outcomes.known_at[j] < now]
        values = outcomes.value[known]
        mean = np.mean(forward(values)) if known else np.nan
        add("history_known", len(known))
        add("history_mean", back(mean))
        add("history_recent_median", np.median(values[-50:]) if known else np.nan)
        add("history_open", sum((event_time < now) & ~(outcomes.finished_at < now)))
        add("history_arrivals_7d", sum((event_time < now) & (event_time >= now - 7 * DAY)))
        add("history_arrivals_30d", sum((event_time < now) & (event_time >= now - 30 * DAY)))
        for column, labels in levels.items():
            same = np.array([label is not None and label == labels[i] for label in labels])
            mine = [j for j in known if same[j]]
            shrunk = (sum(forward(outcomes.value[mine])) + 5 * mean) / (len(mine) + 5)
            named = labels[i] is not None
            add(f"history_{column}_known", len(mine) if named else np.nan)
            add(f"history_{column}_mean", back(shrunk) if named else np.nan)
            waiting = same & (event_time < now) & ~(outcomes.finished_at < now)
            add(f"history_{column}_open", sum(waiting) if named else np.nan)
    return {name: np.array(column) for name, column in found.items()}


entity = st.tuples(
    st.integers(0, 60),  # day of arrival; few days, so that times tie
    st.integers(0, 40),  # days until the outcome
    st.sampled_from(["usable", "unusable", "never"]),
    st.floats(0, 1000).map(lambda value: round(value, 3)),
    st.sampled_from([None, "a", "b"]),
)


def arrays(drawn):
    drawn = sorted(drawn, key=lambda each: each[0])
    event_time = np.array([day * DAY for day, *_ in drawn], dtype="int64")
    done = np.array([(day + wait) * DAY for day, wait, *_ in drawn], dtype="int64")
    kind = np.array([kind for _, _, kind, _, _ in drawn])
    usable = kind == "usable"
    outcomes = Outcomes(
        value=np.where(usable, [value for *_, value, _ in drawn], np.nan),
        known_at=np.where(usable, done, NEVER),
        finished_at=np.where(kind == "never", NEVER, done),
    )
    return event_time, outcomes, np.array([level for *_, level in drawn], dtype=object)


@pytest.mark.parametrize("model", ["story_points", "lead_time"])
@settings(max_examples=60, deadline=None)
@given(drawn=st.lists(entity, min_size=1, max_size=90))
def test_every_feature_is_what_counting_gives(specs, model, drawn):
    event_time, outcomes, labels = arrays(drawn)
    levels = {"team": labels}
    expected = counted(specs[model], event_time, outcomes, levels)
    found = history_features(specs[model], event_time, outcomes, levels)
    assert list(found) == list(expected)
    for name, column in found.items():
        np.testing.assert_allclose(column, expected[name], rtol=1e-9, atol=1e-9, err_msg=name)


def test_the_recent_median_forgets_what_is_older_than_fifty_outcomes(story_points):
    event_time = np.arange(101, dtype="int64") * DAY
    value = np.where(np.arange(101) < 50, 1.0, 8.0)
    outcomes = Outcomes(value=value, known_at=event_time, finished_at=event_time)
    found = history_features(story_points, event_time, outcomes, {})
    assert found["history_recent_median"][[50, 74, 76, 100]].tolist() == [1.0, 1.0, 8.0, 8.0]


def test_nothing_that_happens_at_the_event_time_itself_is_seen(story_points):
    event_time = np.array([0, 0], dtype="int64")
    outcomes = Outcomes(value=np.array([3.0, 5.0]), known_at=event_time, finished_at=event_time)
    found = history_features(story_points, event_time, outcomes, {})
    assert found["history_known"].tolist() == [0.0, 0.0]
    assert np.isnan(found["history_mean"]).all()


def test_the_mean_of_a_log_target_shrugs_off_one_huge_outcome(specs):
    event_time = np.arange(101, dtype="int64") * DAY
    value = np.where(np.arange(101) == 0, 1e6, 1.0)
    outcomes = Outcomes(value=value, known_at=event_time, finished_at=event_time)
    assert history_features(specs["lead_time"], event_time, outcomes, {})["history_mean"][-1] < 2
    assert history_features(specs["story_points"], event_time, outcomes, {})["history_mean"][-1] > 9000


def test_an_entity_without_a_level_has_no_level_history(story_points):
    event_time = np.arange(3, dtype="int64") * DAY
    outcomes = Outcomes(value=np.ones(3), known_at=event_time, finished_at=event_time)
    labels = np.array([None, None, None], dtype=object)
    found = history_features(story_points, event_time, outcomes, {"team": labels})
    assert all(np.isnan(found[f"history_team_{part}"]).all() for part in ("known", "mean", "open"))
