import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from ml_pipeline.training.backtest import origin, rolling_origin


def day(text: str) -> pd.Timestamp:
    return pd.Timestamp(text, tz="UTC")


@given(st.datetimes(pd.Timestamp("1990-01-01"), pd.Timestamp("2060-01-01")), st.integers(1, 90))
def test_an_origin_is_at_or_before_its_event_and_less_than_a_step_away(moment, every_days):
    event_time = pd.Timestamp(moment, tz="UTC")
    point = origin(event_time, every_days)
    assert pd.Timedelta(0) <= event_time - point < pd.Timedelta(days=every_days)
    assert origin(point, every_days) == point


def test_predictions_of_a_day_do_not_depend_on_the_days_asked_for_together(story_points, make_frame):
    frame = make_frame(story_points, 500)
    whole = rolling_origin(story_points, frame, day("2024-04-01"), day("2024-08-01"))
    part = rolling_origin(story_points, frame, day("2024-06-10"), day("2024-06-11"))
    same = whole[whole["entity_id"].isin(part["entity_id"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(part, same, check_exact=True)


def test_labels_known_after_an_origin_do_not_change_its_predictions(story_points, make_frame):
    frame = make_frame(story_points, 500)
    moment = origin(day("2024-06-10"), story_points.monitoring.backtest_days)
    spoiled = frame.copy()
    spoiled.loc[spoiled["label_time"] >= moment, "label"] = 99.0
    results = [rolling_origin(story_points, rows, moment, moment + pd.Timedelta(days=1)) for rows in (frame, spoiled)]
    pd.testing.assert_frame_equal(*results, check_exact=True)


def test_open_entities_are_scored_too(story_points, make_frame):
    frame = make_frame(story_points, 400)
    frame.loc[300, ["label", "label_time", "state"]] = [float("nan"), pd.NaT, "open"]
    event_time = frame.loc[300, "event_time"]
    scored = rolling_origin(story_points, frame, event_time, event_time + pd.Timedelta(hours=1))
    assert frame.loc[300, "entity_id"] in set(scored["entity_id"])


def test_every_prediction_is_made_at_the_event_time_by_the_last_origin_before_it(story_points, make_frame):
    scored = rolling_origin(story_points, make_frame(story_points, 500), day("2024-05-01"), day("2024-07-01"))
    step = story_points.monitoring.backtest_days
    assert (scored["predicted_at"] == scored["event_time"]).all()
    assert (scored["origin_time"] == [origin(moment, step) for moment in scored["event_time"]]).all()


def test_an_origin_with_too_few_known_labels_predicts_nothing(story_points, make_frame):
    scored = rolling_origin(story_points, make_frame(story_points, 300), day("2024-01-01"), day("2024-02-01"))
    assert scored.empty
    assert scored.columns[0] == "entity_id"
