import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_pipeline.training.intervals.conformal import conformal_interval, kept_residuals, near_share, residuals_of


@pytest.mark.parametrize(("scale", "nominal"), [("identity", 0.9), ("log", 0.9), ("log", 0.5)])
def test_new_labels_fall_inside_as_often_as_declared(scale, nominal):
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(300):
        label = rng.lognormal(1, 1, 120)
        interval = conformal_interval(residuals_of(label[:100], np.full(100, 3.0), scale), nominal, scale)
        lower, upper = interval.around(np.full(20, 3.0))
        inside.append(((lower <= label[100:]) & (label[100:] <= upper)).mean())
    assert nominal - 0.01 <= np.mean(inside) <= nominal + 0.03


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=30), st.floats(0, 1e6))
def test_the_ends_are_in_order_however_few_the_rows(labels, value):
    interval = conformal_interval(residuals_of(np.array(labels), np.full(len(labels), value), "log"), 0.9, "log")
    lower, upper = interval.around(np.array([value]))
    assert lower[0] <= upper[0]


def test_of_many_residuals_400_are_kept_with_the_same_quantiles():
    residuals = np.random.default_rng(0).normal(size=5000)
    kept = np.array(kept_residuals(residuals))
    assert len(kept) == 400
    assert (kept[0], kept[-1]) == (residuals.min(), residuals.max())
    levels = [0.05, 0.25, 0.5, 0.75, 0.95]
    np.testing.assert_allclose(np.quantile(kept, levels), np.quantile(residuals, levels), atol=0.01)


def test_few_residuals_are_all_kept_in_ascending_order():
    assert kept_residuals(np.array([3.0, -1.0, 2.0])) == (-1.0, 2.0, 3.0)


@pytest.mark.parametrize("scale", ["identity", "log"])
def test_as_many_outcomes_are_near_their_prediction_as_its_confidence_says(scale):
    rng = np.random.default_rng(1)
    value = rng.uniform(2, 50, 4000)
    noise = rng.normal(0, 3, 4000) if scale == "identity" else rng.normal(0, 0.3, 4000)
    label = value + noise if scale == "identity" else np.expm1(np.log1p(value) + noise)
    confidence = near_share(value[2000:], np.sort(residuals_of(label[:2000], value[:2000], scale)), scale)
    near = np.abs(label - value)[2000:] <= 0.2 * value[2000:]
    likely = confidence > np.median(confidence)
    assert near[likely].mean() == pytest.approx(confidence[likely].mean(), abs=0.04)
    assert near[~likely].mean() == pytest.approx(confidence[~likely].mean(), abs=0.04)


@pytest.mark.parametrize("scale", ["identity", "log"])
def test_confidence_is_higher_where_residuals_are_smaller(scale):
    residuals = np.sort(np.random.default_rng(2).normal(size=200))
    value = np.linspace(0.5, 30, 50)
    assert (near_share(value, residuals / 10, scale) >= near_share(value, residuals, scale)).all()
    assert near_share(value, residuals / 10, scale).mean() > near_share(value, residuals, scale).mean() + 0.1


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), st.lists(st.floats(0, 1e6), min_size=1, max_size=10))
def test_confidence_is_the_share_of_residuals_that_lead_near_the_prediction(residuals, values):
    ordered, value = np.sort(np.array(residuals)), np.array(values)
    confidence = near_share(value, ordered, "identity")
    distance = np.abs(ordered[None, :])
    surely, perhaps = (
        (distance <= 0.2 * value[:, None] + slack * (1 + value[:, None])).mean(axis=1) for slack in (-1e-9, 1e-9)
    )
    assert ((surely <= confidence) & (confidence <= perhaps)).all()


def test_a_prediction_of_zero_is_only_near_an_outcome_of_zero():
    assert near_share(np.array([0.0]), np.array([-1.0, 0.0, 0.0, 2.0]), "log").tolist() == [0.5]
