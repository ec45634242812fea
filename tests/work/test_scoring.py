"""Intervals of live predictions follow the outcomes of those before them; every prediction says how sure it is."""

from unittest import mock

import numpy as np
import pandas as pd
import pytest

from ml_pipeline.resources import tables
from ml_pipeline.work import scoring

TRAINED, CHANGED, LAST = 40, 41, 50


def live(tenant, frame, as_known, days) -> pd.DataFrame:
    """The prediction log after each day's end was lived, with the outcomes of then alone."""
    for day in days:
        assert tenant.holds(as_known(frame, day)).train(day, ("features", "predictions")).error is None
    made = pd.DataFrame(tenant.rows(tables.predictions, origin="live"))
    return made.sort_values(["predicted_at", "entity_id"], ignore_index=True)


@pytest.fixture
def changing(make_issues) -> pd.DataFrame:
    """Issues whose points are others from day 41 on."""
    frame = make_issues(LAST + 3)
    changed = frame["created_at"] >= frame["created_at"].iloc[0] + pd.Timedelta(days=CHANGED)
    return frame.assign(story_points=np.where(changed, frame["story_points"] * 3 + 10, frame["story_points"]))


def test_the_interval_widens_when_outcomes_leave_it(tenant, changing, as_known):
    tenant.holds(as_known(changing, TRAINED)).train(TRAINED)
    made = live(tenant, changing, as_known, range(TRAINED + 1, LAST))
    widths = (made["upper"] - made["lower"]).groupby(made["predicted_at"]).mean()
    assert widths.iloc[-1] > 2 * widths.iloc[0]


def test_confidence_falls_when_outcomes_are_far_from_their_predictions(tenant, changing, as_known):
    tenant.holds(as_known(changing, TRAINED)).train(TRAINED)
    made = live(tenant, changing, as_known, range(TRAINED + 1, LAST))
    confidence = made.groupby("predicted_at")["confidence"].mean()
    assert confidence.iloc[-1] < confidence.iloc[0] - 0.05


def test_the_log_is_not_asked_while_too_few_outcomes_are_new(tenant, changing, as_known):
    tenant.holds(as_known(changing, TRAINED)).train(TRAINED)
    with mock.patch.object(scoring, "_live_predictions", side_effect=AssertionError("asked")):
        assert len(live(tenant, changing, as_known, [TRAINED + 0.5])) > 0


def test_the_same_days_lived_again_give_the_same_intervals(tenant, changing, as_known):
    columns = ["entity_id", "predicted_at", "value", "lower", "upper", "confidence"]
    lived = []
    for one in (tenant.named("first"), tenant.named("second")):
        one.holds(as_known(changing, TRAINED)).train(TRAINED)
        lived.append(live(one, changing, as_known, range(TRAINED + 1, TRAINED + 7))[columns])
    pd.testing.assert_frame_equal(*lived, check_exact=True)


def test_every_prediction_says_how_sure_it_is(tenant, make_issues):
    tenant.holds(make_issues(TRAINED)).train(TRAINED)
    made = pd.DataFrame(tenant.rows(tables.predictions))
    assert made["confidence"].between(0, 1).all()
    assert made["confidence"].nunique() > 1
