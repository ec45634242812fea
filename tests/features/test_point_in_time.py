"""Point in time: what a feature frame says of each entity, and that the future cannot change it."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml_pipeline.features.point_in_time import FeatureError, build, build_one, repeated_rows

AS_OF = datetime(2024, 6, 1, tzinfo=UTC)
ORIGIN = pd.Timestamp("2024-01-01", tz="UTC")
LABEL_TIMES = ("estimated_at", "resolved_at")


def visible_at(rows: pd.DataFrame, frame: pd.DataFrame, moment: pd.Timestamp) -> pd.DataFrame:
    """Source rows as they stood at ``moment``; ``frame`` is the frame of all of them at the end of time."""
    known = frame.set_index("entity_id")["label_time"].reindex(rows["issue_key"])
    rows = rows.assign(story_points=rows["story_points"].where((known <= moment).to_numpy()))
    for column in LABEL_TIMES:
        rows[column] = rows[column].where(rows[column] <= moment)
    return rows[rows["created_at"] <= moment]


def with_effort(rows: pd.DataFrame) -> pd.DataFrame:
    """A numeric column known at creation, missing here and there, that follows from the row's place alone."""
    number = pd.to_numeric(rows["issue_key"].str.extract(r"(\d+)")[0]).astype("float64")
    return rows.assign(effort=np.where(number % 7 == 0, np.nan, number * 37 % 101 / 3))


def features(spec, frame: pd.DataFrame) -> pd.DataFrame:
    return frame[["entity_id", "event_time", *spec.feature_columns.all]]


def assert_future_changes_nothing(spec, rows: pd.DataFrame, moment: pd.Timestamp) -> None:
    everything = build(spec, rows, datetime(2100, 1, 1, tzinfo=UTC))
    then = build(spec, visible_at(rows, everything, moment), moment)
    now_of_then = everything[everything["event_time"] <= moment]
    pd.testing.assert_frame_equal(features(spec, then), features(spec, now_of_then), check_exact=True)
    pd.testing.assert_frame_equal(then, build(spec, rows, moment), check_exact=True)


def test_columns_have_the_order_and_types_of_the_contract(story_points, issues):
    frame = build(story_points, issues({"created_at": "2024-01-01", "team": "x"}), AS_OF)
    expected = ["entity_id", "event_time", "label_time", "label", "state", *story_points.feature_columns.all]
    assert list(frame.columns) == expected
    assert frame["event_time"].dtype == frame["label_time"].dtype == "datetime64[us, UTC]"
    assert {str(frame[name].dtype) for name in story_points.feature_columns.numeric} == {"float64"}
    assert {str(frame[name].dtype) for name in story_points.feature_columns.categorical} == {"object"}


def test_no_rows_give_an_empty_frame_of_the_same_types(story_points, issues):
    rows = issues({"created_at": "2024-01-01", "team": "x"})
    full, empty = build(story_points, rows, AS_OF), build(story_points, rows.iloc[:0], AS_OF)
    assert len(empty) == 0
    pd.testing.assert_series_equal(full.dtypes, empty.dtypes)


@pytest.mark.parametrize(
    ("row", "state"),
    [
        ({"story_points": 3, "resolved_at": "2024-02-01"}, "matured"),
        ({"story_points": 100, "resolved_at": "2024-02-01"}, "matured"),
        ({"story_points": 101, "resolved_at": "2024-02-01"}, "excluded"),
        ({"story_points": 0, "resolved_at": "2024-02-01"}, "excluded"),
        ({"story_points": None, "resolved_at": "2024-02-01"}, "excluded"),
        ({"story_points": None}, "open"),
        ({"story_points": None, "resolved_at": "2024-07-01"}, "open"),
        ({"story_points": 3, "estimated_at": "2024-07-01"}, "open"),
        ({"story_points": 3}, "matured"),
    ],
)
def test_state_follows_from_the_label_and_its_time(story_points, issues, row, state):
    frame = build(story_points, issues({"created_at": "2024-01-01", **row}), AS_OF)
    assert frame["state"].tolist() == [state]
    assert frame["label"].notna().tolist() == [state == "matured"]


def test_label_is_in_the_reported_unit(lead_time, issues):
    rows = issues({"created_at": "2024-01-01", "resolved_at": "2024-01-04 12:00"})
    assert build(lead_time, rows, AS_OF)["label"].tolist() == [3.5]


@pytest.mark.parametrize(
    ("row", "known"),
    [
        ({"estimated_at": "2024-03-01", "resolved_at": "2024-02-01"}, "2024-03-01"),
        ({"resolved_at": "2024-01-05"}, "2024-01-05"),
        ({"resolved_at": "2024-03-01"}, "2024-01-15"),
        ({}, "2024-01-15"),
        ({"resolved_at": "2023-12-01"}, "2024-01-01"),
    ],
)
def test_label_time_is_the_first_term_or_the_earliest_that_stands_in_for_it(story_points, issues, row, known):
    frame = build(story_points, issues({"created_at": "2024-01-01", "story_points": 3, **row}), AS_OF)
    assert frame["label_time"].tolist() == [pd.Timestamp(known, tz="UTC")]


def test_a_label_whose_time_is_as_of_is_known(lead_time, issues):
    rows = issues({"created_at": "2024-01-01", "resolved_at": AS_OF})
    assert build(lead_time, rows, AS_OF)["state"].tolist() == ["matured"]


def test_an_entity_takes_the_first_expression_that_it_has_all_columns_for(specs):
    spec = specs["rework_risk"]
    rows = pd.DataFrame({name: [None, None] for name in spec.source_columns})
    rows["pull_request"] = ["a", "b"]
    rows["created_at"] = rows["closed_at"] = pd.Timestamp("2024-01-01", tz="UTC")
    rows["changes_requested"] = [1.0, 1.0]
    rows["review_cycles"] = rows["rework_commit_count"] = [None, 0.0]
    assert build(spec, rows, AS_OF)["label"].tolist() == [1.0, 0.0]


def test_rows_are_sorted_by_event_time_and_entity_whatever_their_order(story_points, issues):
    rows = issues(
        {"issue_key": "B", "created_at": "2024-02-01"},
        {"issue_key": "C", "created_at": "2024-01-01"},
        {"issue_key": "A", "created_at": "2024-02-01"},
    )
    assert build(story_points, rows, AS_OF)["entity_id"].tolist() == ["C", "A", "B"]


def test_filters_and_as_of_decide_which_entities_are_there(story_points, issues):
    rows = issues(
        {"created_at": "2024-01-01", "issue_type": "Story"},
        {"created_at": "2024-01-01", "issue_type": None},
        {"created_at": "2024-01-01", "issue_type": "Epic"},
        {"created_at": "2024-01-01", "summary": "  "},
        {"created_at": "2024-01-01", "summary": None},
        {"created_at": None},
        {"created_at": "2024-06-02"},
    )
    assert build(story_points, rows, AS_OF)["entity_id"].tolist() == ["A-1", "A-2"]


def test_a_repeated_entity_counts_once_from_its_earliest_row(story_points, issues):
    rows = issues(
        {"issue_key": "A", "created_at": "2024-02-01", "summary": "later"},
        {"issue_key": "A", "created_at": "2024-01-01", "summary": "earlier"},
    )
    assert build(story_points, rows, AS_OF)["text"].tolist() == ["earlier"]


def test_texts_are_joined_and_counted_and_a_missing_one_is_empty(story_points, issues):
    rows = issues(
        {"created_at": "2024-01-01", "summary": "Log in"}, {"created_at": "2024-01-02", "description": "at  all"}
    )
    frame = build(story_points, rows, AS_OF)
    assert frame["text"].tolist() == ["Log in", "a summary at  all"]
    assert frame["description_chars"].tolist() == [0.0, 7.0]
    assert frame["description_words"].tolist() == [0.0, 2.0]


def test_calendar_agrees_with_pandas(story_points, issues):
    times = pd.date_range("1969-12-20 05:30", "2024-03-05", periods=50, tz="UTC")
    frame = build(story_points, issues(*({"created_at": time} for time in times)), AS_OF)
    assert frame["calendar_hour"].tolist() == times.hour.tolist()
    assert frame["calendar_weekday"].tolist() == times.day_of_week.tolist()
    assert frame["calendar_day"].tolist() == times.day.tolist()
    assert frame["calendar_month"].tolist() == times.month.tolist()


def test_infinite_numbers_are_missing(specs):
    spec = specs["rework_risk"]
    rows = pd.DataFrame({name: [None] for name in spec.source_columns})
    rows = rows.assign(pull_request="a", created_at=ORIGIN, additions=np.inf)
    assert build(spec, rows, AS_OF)["additions"].isna().all()


def test_a_missing_column_is_named_with_its_remedy(story_points, issues):
    rows = issues({"created_at": "2024-01-01"}).drop(columns="team")
    with pytest.raises(FeatureError, match=r"story_points: source.issues has no column 'team'. Add it"):
        build(story_points, rows, AS_OF)


def test_a_value_that_is_no_number_is_named_with_its_remedy(specs):
    spec = specs["rework_risk"]
    rows = pd.DataFrame({name: [None] for name in spec.source_columns})
    rows = rows.assign(pull_request="a", created_at=ORIGIN, additions="many")
    with pytest.raises(
        FeatureError, match=r"column 'additions' .* not a number: .*'many'.* the column's type in source.columns"
    ):
        build(spec, rows, AS_OF)


def test_a_value_that_is_no_time_is_named_with_its_remedy(lead_time, issues):
    rows = issues({"created_at": "2024-01-01"})
    rows["resolved_at"] = "yesterday-ish"
    with pytest.raises(FeatureError, match=r"column 'resolved_at' .* not a time: .*yesterday-ish"):
        build(lead_time, rows, AS_OF)


def test_columns_that_are_all_null_and_untyped_leave_every_label_open(specs):
    for spec in specs.values():
        rows = pd.DataFrame({name: pd.Series([None, None], dtype=object) for name in spec.source_columns})
        rows = rows.assign(**{spec.source.entity: ["a", "b"], "created_at": ORIGIN})
        rows = rows.assign(**dict.fromkeys(spec.source.require, "something"))
        assert build(spec, rows, AS_OF)["state"].tolist() == ["open", "open"], spec.name


def test_as_of_without_a_zone_is_refused(story_points, issues):
    with pytest.raises(ValueError, match="a time without a zone"):
        build(story_points, issues({"created_at": "2024-01-01"}), datetime(2024, 6, 1))


def test_an_unknown_entity_is_refused_by_name(story_points, issues):
    with pytest.raises(FeatureError, match="entity 'B-9' does not exist at 2024-06-01"):
        build_one(story_points, issues({"created_at": "2024-01-01"}), "B-9", AS_OF)


@pytest.mark.parametrize("model", ["story_points", "lead_time"])
def test_training_batch_and_single_prediction_see_the_same_features(everything, real_issues, model):
    spec, rows = everything[model], with_effort(real_issues)
    training = build(spec, rows, datetime(2100, 1, 1, tzinfo=UTC))
    entity = training.iloc[len(training) // 2]
    batch = build(spec, rows, entity["event_time"]).query("entity_id == @entity.entity_id")
    single = build_one(spec, rows, entity["entity_id"], entity["event_time"])
    expected = features(spec, training.query("entity_id == @entity.entity_id").reset_index(drop=True))
    pd.testing.assert_frame_equal(features(spec, batch.reset_index(drop=True)), expected, check_exact=True)
    pd.testing.assert_frame_equal(features(spec, single), expected, check_exact=True)


hours = st.integers(0, 24 * 40)
issue = st.fixed_dictionaries(
    {
        "created": st.integers(0, 40).map(lambda day: day * 24),
        "estimated": st.none() | hours,
        "resolved": st.none() | hours,
        "story_points": st.none() | st.sampled_from([-1.0, 0.1, 1.7, 5.0, 13.3, 200.0]),
        "reporter": st.sampled_from([None, "ann", "bob"]),
        "team": st.sampled_from([None, "x"]),
    }
)


def rows_of(issues, drawn: list[dict]) -> pd.DataFrame:
    def at(hour: int | None) -> pd.Timestamp | None:
        return None if hour is None else ORIGIN + pd.Timedelta(hours=hour)

    columns = {"created": "created_at", "estimated": "estimated_at", "resolved": "resolved_at"}
    return issues(*({columns.get(k, k): at(v) if k in columns else v for k, v in row.items()} for row in drawn))


@pytest.mark.parametrize("model", ["story_points", "lead_time"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=st.lists(issue, min_size=1, max_size=30), hour=hours)
def test_features_before_t_do_not_change_when_everything_after_t_is_deleted(everything, issues, model, drawn, hour):
    rows = with_effort(rows_of(issues, drawn))
    assert_future_changes_nothing(everything[model], rows, ORIGIN + pd.Timedelta(hours=hour))


@pytest.mark.parametrize("model", ["story_points", "lead_time"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_past_of_a_real_project_does_not_change_with_its_future(everything, real_issues, model, share):
    moment = real_issues["created_at"].quantile(share).floor("s")
    assert_future_changes_nothing(everything[model], with_effort(real_issues), moment)


def test_a_frame_has_every_column_of_the_specification_and_no_infinite_number(everything, real_issues):
    spec = everything["lead_time"]
    frame = build(spec, with_effort(real_issues), datetime(2100, 1, 1, tzinfo=UTC))
    numeric = frame[list(spec.feature_columns.numeric)]
    assert len(numeric.columns) > 300
    assert set(numeric.dtypes.astype(str)) == {"float64"}
    assert not np.isinf(numeric.to_numpy()).any()


def test_a_frame_without_rows_has_the_temporal_columns_too(everything, issues):
    rows = with_effort(issues({"created_at": "2024-01-01"}))
    full, empty = (build(everything["lead_time"], part, AS_OF) for part in (rows, rows.iloc[:0]))
    pd.testing.assert_series_equal(full.dtypes, empty.dtypes)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=st.lists(issue, min_size=1, max_size=20), seed=st.integers(0, 2**32 - 1))
def test_the_order_of_the_rows_does_not_matter(story_points, issues, drawn, seed):
    rows = rows_of(issues, drawn)
    shuffled = rows.sample(frac=1, random_state=seed)
    expected = build(story_points, rows, AS_OF)
    pd.testing.assert_frame_equal(build(story_points, shuffled, AS_OF), expected, check_exact=True)


def test_rows_that_repeat_an_entity_are_counted(story_points, issues):
    rows = issues(*({"created_at": f"2024-01-{day:02d}"} for day in range(1, 31)))
    rows.loc[3:5, "issue_key"] = "A-1"
    assert len(build(story_points, rows, AS_OF)) == 27
    assert repeated_rows(story_points, rows, AS_OF) == 3
    assert repeated_rows(story_points, rows, datetime(2024, 1, 5, 12, tzinfo=UTC)) == 2


def test_a_column_in_which_most_rows_repeat_a_value_is_no_entity(story_points, issues):
    rows = issues(*({"created_at": f"2024-01-{day:02d}"} for day in range(1, 31)))
    rows["issue_key"] = [f"A-{number % 10}" for number in range(30)]
    with pytest.raises(FeatureError, match=r"20 of 30 rows of source.issues repeat .*'issue_key', .* Name the"):
        repeated_rows(story_points, rows, AS_OF)
