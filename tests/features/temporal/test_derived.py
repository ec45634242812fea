"""Transforms and products, and what a specification refuses to make them of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_pipeline.features.temporal.derived import derived_features
from ml_pipeline.specs.temporal import Temporal

number = st.sampled_from([np.nan, -2.0, -1.0, 0.0, 0.5, 3.0]) | st.floats(-1e6, 1e6).map(lambda value: round(value, 3))


def derive(event_time: list[int], features: dict[str, list[float]], **chosen) -> dict[str, np.ndarray]:
    arrays = {name: np.array(values, dtype="float64") for name, values in features.items()}
    return derived_features(Temporal(**chosen), np.array(event_time, dtype="int64"), arrays)


@settings(max_examples=200, deadline=None)
@given(drawn=st.lists(st.tuples(st.integers(0, 20), number), min_size=1, max_size=60))
def test_rank_and_z_score_are_taken_in_what_arrived_strictly_before(drawn):
    drawn = sorted(drawn, key=lambda each: each[0])
    times, values = [time for time, _ in drawn], np.array([value for _, value in drawn])
    found = derive(times, {"size": values}, rank=["size"], zscore=["size"])
    for i, (time, value) in enumerate(drawn):
        past = values[[earlier < time for earlier in times] & ~np.isnan(values)]
        rank = ((past < value).sum() + (past <= value).sum()) / 2 / len(past) if len(past) else np.nan
        varies = len(set(past)) > 1
        z_score = (value - past.mean()) / past.std(ddof=1) if varies else np.nan
        assert found["history_size_rank"][i] == pytest.approx(np.nan if np.isnan(value) else rank, nan_ok=True)
        assert found["history_size_zscore"][i] == pytest.approx(z_score, nan_ok=True, rel=1e-6, abs=1e-9)


def test_what_has_no_logarithm_or_root_or_too_large_a_product_is_missing():
    found = derive([0, 1, 2, 3], {"size": [-4.0, -1.0, 0.0, 1e20]}, log1p=["size"], sqrt=["size"], polynomial=["size"])
    np.testing.assert_array_equal(found["size_log1p"], [np.nan, np.nan, 0.0, np.log1p(1e20)])
    np.testing.assert_array_equal(found["size_sqrt"], [np.nan, np.nan, 0.0, 1e10])
    np.testing.assert_array_equal(found["size_x_size"], [16.0, 1.0, 0.0, np.nan])


def test_a_polynomial_has_every_square_and_every_pair_once():
    pairs = [("size", "history_mean"), ("size", "other"), ("other", "size")]
    chosen = Temporal(polynomial=["size", "history_mean"], interactions=pairs)
    assert chosen.pairs == [
        ("history_mean", "size"),
        ("other", "size"),
        ("size", "size"),
        ("history_mean", "history_mean"),
    ]


def test_a_product_takes_its_name_from_history_first_so_that_it_is_treated_as_one():
    found = derive([0], {"size": [2.0], "history_mean": [3.0]}, interactions=[("size", "history_mean")])
    assert {name: column.tolist() for name, column in found.items()} == {"history_mean_x_size": [6.0]}
