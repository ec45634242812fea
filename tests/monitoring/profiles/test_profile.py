"""Profiles: small, exact, readable again, and refused where they are damaged."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_pipeline.monitoring.drift import report as drift
from ml_pipeline.monitoring.drift.design_effects import Days
from ml_pipeline.monitoring.profiles.columns import codes, counts_by_day, edges_of, numbers
from ml_pipeline.monitoring.profiles.profile import Profile, ProfileError, merge, numeric_names, profile
from ml_pipeline.specs import load_specs
from ml_pipeline.specs.temporal import Temporal

SPEC = load_specs()["rework_risk"]
values = st.lists(st.one_of(st.integers(-3, 3), st.floats(allow_nan=True, allow_infinity=True)), max_size=300)


def frame(rng: np.random.Generator, rows: int, start: str = "2025-01-01", days: int = 28) -> pd.DataFrame:
    seconds = np.sort(rng.uniform(0, days * 86400, rows)).astype("int64")
    times = (pd.Timestamp(start, tz="UTC") + pd.to_timedelta(seconds, unit="s")).as_unit("us")
    columns = {"event_time": times} | {name: rng.lognormal(size=rows) for name in SPEC.feature_columns.numeric}
    for position, name in enumerate(SPEC.feature_columns.categorical):
        columns[name] = pd.Series([f"level-{k}" for k in rng.integers(3 + 4 * position, size=rows)], dtype=object)
    columns |= {"label": rng.integers(2, size=rows).astype(float), "label_time": times, "state": "matured"}
    return pd.DataFrame(columns)


def wide_spec(columns: int, categorical: int = 0):
    numeric = [f"number_{position}" for position in range(columns - categorical)]
    levels = [f"level_{position}" for position in range(categorical)]
    features = SPEC.features.model_copy(
        update={"numeric": numeric, "categorical": levels, "text": [], "calendar": False, "history": []}
    )
    return SPEC.model_copy(update={"features": features}), numeric, levels


def test_columns_that_follow_the_season_are_left_out_also_as_factors_of_products():
    temporal = Temporal(cyclical=True, polynomial=["calendar_month", "calendar_hour"])
    spec = SPEC.model_copy(update={"features": SPEC.features.model_copy(update={"temporal": temporal})})
    names = {name for name in numeric_names(spec) if name.startswith("calendar_")}
    assert {"calendar_hour", "calendar_hour_x_calendar_hour", "calendar_weekday_sin"} <= names
    assert not any(season in name for name in names for season in ("month", "calendar_day"))


@pytest.mark.parametrize("kind", ["continuous", "rounded", "categorical"])
def test_a_profile_of_a_hundred_features_is_below_256_kilobytes(kind):
    spec, numeric, levels = wide_spec(100, 100 if kind == "categorical" else 0)
    rng = np.random.default_rng(0)
    rows = 20_000
    made = {name: rng.normal(size=rows) for name in numeric}
    if kind == "rounded":
        made = {name: np.round(column * 30) + 0.1 for name, column in made.items()}
    made |= {name: [f"{name}-a-long-name-of-a-level-{k}" for k in rng.zipf(1.3, rows) % 100_000] for name in levels}
    times = pd.date_range("2023-01-01", periods=rows, freq="50min", tz="UTC")
    content = profile(spec, pd.DataFrame({"event_time": times} | made)).to_bytes()
    assert len(content) <= 256_000


def test_a_profile_is_the_same_after_writing_and_reading():
    made = profile(SPEC, frame(np.random.default_rng(0), 500))
    read = Profile.from_bytes(made.to_bytes())
    assert read.to_bytes() == made.to_bytes()
    current = frame(np.random.default_rng(1), 300, start="2025-03-01", days=7)
    current["additions"] *= 2
    first, second = drift.compare(SPEC, made, current), drift.compare(SPEC, read, current)
    assert first.drifted == second.drifted == ["additions"]
    before, after = (report.columns["additions"].value for report in (first, second))
    assert before is not None and after is not None
    assert before.p == pytest.approx(after.p, rel=1e-3)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda content: b"", id="empty"),
        pytest.param(lambda content: content[: len(content) // 2], id="cut off"),
        pytest.param(lambda content: content[:200] + bytes(64) + content[264:], id="overwritten"),
        pytest.param(lambda content: b"no profile at all", id="other content"),
    ],
)
def test_damaged_bytes_are_refused(damage):
    content = profile(SPEC, frame(np.random.default_rng(0), 100)).to_bytes()
    with pytest.raises(ProfileError, match="Train a new version"):
        Profile.from_bytes(damage(content))


def test_an_unknown_format_is_refused_by_its_number(monkeypatch):
    made = profile(SPEC, frame(np.random.default_rng(0), 100))
    monkeypatch.setattr("ml_pipeline.monitoring.profiles.profile.FORMAT", 99)
    content = made.to_bytes()
    monkeypatch.undo()
    with pytest.raises(ProfileError, match="format 99"):
        Profile.from_bytes(content)


@settings(max_examples=100, deadline=None)
@given(values)
def test_every_row_is_counted_once(found):
    column = np.array(found, dtype=float)
    days = Days(np.array([0, 1]), np.array([0, len(column) // 2, len(column)]))
    ordered = np.sort(column)
    edges, _ = edges_of(ordered[~np.isnan(ordered)])
    by_day, nulls = counts_by_day(column, days, edges)
    assert by_day.sum() + nulls.sum() == len(column)
    assert (by_day >= 0).all()
    assert nulls.sum() == np.isnan(column).sum()


@settings(max_examples=100, deadline=None)
@given(values)
def test_edges_are_distinct_and_in_order(found):
    column = np.array(found, dtype=float)
    edges, _ = edges_of(np.sort(column[~np.isnan(column)]))
    assert (edges[1:] > edges[:-1]).all()


def test_each_value_of_few_is_a_cell_of_its_own():
    edges, points = edges_of(np.array([1.0, 1.0, 2.0, 5.0]))
    days = Days(np.array([0]), np.array([0, 5]))
    by_day, _ = counts_by_day(np.array([0.0, 1.0, 1.5, 2.0, 7.0]), days, edges)
    assert points
    assert by_day[0].tolist() == [1, 1, 1, 1, 0, 0, 1]


def test_a_value_that_many_rows_share_has_a_cell_of_its_own_among_quantiles():
    rng = np.random.default_rng(0)
    column = np.concatenate([np.zeros(400), rng.exponential(size=600)])
    edges, points = edges_of(np.sort(column))
    by_day, _ = counts_by_day(column, Days(np.array([0]), np.array([0, 1000])), edges)
    assert not points
    assert by_day.max() == 400


def test_levels_of_different_types_and_without_a_hash_are_read_as_text():
    positions, names = codes(pd.Series([1, "1", [2], None, [2]], dtype=object))
    assert positions.tolist() == [0, 0, 1, -1, 1]
    assert names == ["1", "[2]"]


def test_nullable_and_boolean_columns_are_numbers():
    assert numbers(pd.Series([1, None], dtype="Int64"))[0].tolist()[0] == 1.0
    assert numbers(pd.Series([True, False]))[0].tolist() == [1.0, 0.0]


def test_merging_parts_gives_the_counts_of_the_whole_where_values_are_few():
    rng = np.random.default_rng(0)
    whole = frame(rng, 600)
    whole["additions"] = rng.integers(0, 20, size=600).astype(float)
    parts = profile(SPEC, whole.iloc[:300]), profile(SPEC, whole.iloc[300:])
    merged, expected = merge(*parts), profile(SPEC, whole)
    assert merged.rows == expected.rows
    np.testing.assert_array_equal(merged.numeric["additions"].counts, expected.numeric["additions"].counts)
    for name, column in expected.categorical.items():
        found = merged.categorical[name]
        assert dict(zip(found.levels, found.counts, strict=True)) == dict(
            zip(column.levels, column.counts, strict=True)
        )


def test_merging_quantile_cells_stays_close_to_the_whole():
    rng = np.random.default_rng(1)
    whole = frame(rng, 4000)
    merged = merge(profile(SPEC, whole.iloc[:1000]), profile(SPEC, whole.iloc[1000:])).numeric["additions"]
    assert merged.rows == 4000
    exact = np.searchsorted(np.sort(whole["additions"].to_numpy()), merged.edges, "right")
    assert np.abs(np.cumsum(merged.counts[:-1]) - exact).max() <= 40


def test_merging_with_an_empty_profile_changes_nothing():
    rng = np.random.default_rng(2)
    some, none = profile(SPEC, frame(rng, 100)), profile(SPEC, frame(rng, 100).iloc[:0])
    assert merge(some, none) is some
    assert merge(none, some) is some


def test_labels_are_those_of_matured_rows():
    rows = frame(np.random.default_rng(3), 100)
    rows.loc[:39, ["state", "label"]] = ["open", np.nan]
    made = profile(SPEC, rows)
    assert made.label is not None
    assert made.label.rows == 60
