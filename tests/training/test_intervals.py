import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_pipeline.training.intervals import conformal_interval


@pytest.mark.parametrize(("scale", "nominal"), [("identity", 0.9), ("log", 0.9), ("log", 0.5)])
def test_new_labels_fall_inside_as_often_as_declared(scale, nominal):
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(300):
        label = rng.lognormal(1, 1, 120)
        interval = conformal_interval(label[:100], np.full(100, 3.0), nominal, scale)
        lower, upper = interval.around(np.full(20, 3.0))
        inside.append(((lower <= label[100:]) & (label[100:] <= upper)).mean())
    assert nominal - 0.01 <= np.mean(inside) <= nominal + 0.03


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=30), st.floats(0, 1e6))
def test_the_ends_are_in_order_however_few_the_rows(labels, value):
    interval = conformal_interval(np.array(labels), np.full(len(labels), value), 0.9, "log")
    lower, upper = interval.around(np.array([value]))
    assert lower[0] <= upper[0]
