"""The expression language: what it computes, what it refuses, and that a missing value stays missing."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_pipeline.specs.expressions import Expression, ExpressionError

FRAME = pd.DataFrame(
    {
        "a": [1.0, 4.0, -2.0],
        "b": [2.0, 0.0, 2.0],
        "kind": ["bug", "story", "epic"],
        "start": pd.to_datetime(["2024-01-01"] * 3, utc=True),
        "end": pd.to_datetime(["2024-01-02 00:00", "2024-01-01 01:00", "2023-12-31 00:00"], utc=True),
    }
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a + b * 2", [5.0, 4.0, 2.0]),
        ("-(a - b)", [1.0, -4.0, 4.0]),
        ("a / 2", [0.5, 2.0, -1.0]),
        ("a > 1", [0.0, 1.0, 0.0]),
        ("a >= 1 and b > 0", [1.0, 0.0, 0.0]),
        ("a < 0 or b == 0", [0.0, 1.0, 1.0]),
        ("not a != 4", [0.0, 1.0, 0.0]),
        ("kind in ['bug', 'epic']", [1.0, 0.0, 1.0]),
        ("kind == 'story'", [0.0, 1.0, 0.0]),
        ("end - start", [86400.0, 3600.0, -86400.0]),
        ("end - start > 7200", [1.0, 0.0, 0.0]),
        ("(end - start) / 3600", [24.0, 1.0, -24.0]),
        ("1", [1.0, 1.0, 1.0]),
    ],
)
def test_an_expression_has_one_value_per_row(text, expected):
    assert Expression(text).evaluate(FRAME).tolist() == expected


def test_a_division_by_zero_has_no_value():
    assert Expression("a / b").evaluate(FRAME).isna().tolist() == [False, True, False]


def test_the_values_keep_the_index_of_the_frame():
    assert Expression("a").evaluate(FRAME.iloc[::-1]).index.tolist() == [2, 1, 0]


def test_each_name_is_listed_once():
    assert Expression("b > 1 or a + b > 2").names == ("b", "a")


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')",
        "a.real",
        "a[0]",
        "a ** 2",
        "lambda: 1",
        "a if b else 1",
        "1 < a < 3",
        "a in b",
        "None",
        "f(a)",
        "min(a, b, key=a)",
        "max(*a, b)",
    ],
)
def test_what_the_language_does_not_have_is_refused(text):
    with pytest.raises(ExpressionError, match="which expressions do not support"):
        Expression(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("abs(a - b)", [3.0, 4.0]),
        ("min(a, b)", [-1.0, 1.0]),
        ("max(a, b, 3)", [3.0, 5.0]),
        ("min(4, 2) + a", [1.0, 7.0]),
        ("abs(min(a, -2)) == 2", [1.0, 1.0]),
    ],
)
def test_abs_min_and_max_are_taken_row_by_row(text, expected):
    frame = pd.DataFrame({"a": [-1.0, 5.0], "b": [2.0, 1.0]})
    assert Expression(text).evaluate(frame).tolist() == expected


def test_the_earlier_of_two_times_is_their_min():
    times = pd.to_datetime(["2025-01-01", "2025-01-05"], utc=True)
    frame = pd.DataFrame({"begun": times[0], "done": [times[1], times[1]], "dropped": [times[0], times[1]]})
    assert Expression("min(done, dropped) - begun").evaluate(frame).tolist() == [0.0, 4 * 86_400]


def test_a_function_is_no_column():
    assert Expression("abs(a) + max(b, 1)").names == ("a", "b")


@pytest.mark.parametrize(("text", "taken"), [("abs(a, b)", "1"), ("min(a)", "2 or more"), ("max()", "2 or more")])
def test_a_wrong_number_of_values_is_refused_with_the_right_one(text, taken):
    with pytest.raises(ExpressionError, match=f"it takes {taken}"):
        Expression(text)


@pytest.mark.parametrize("text", ["", "a +", "a b", "import os"])
def test_what_does_not_parse_is_refused(text):
    with pytest.raises(ExpressionError, match="is not an expression"):
        Expression(text)


value = st.none() | st.integers(-3, 3)


@given(rows=st.lists(st.tuples(value, value), min_size=1, max_size=20))
@pytest.mark.parametrize("text", ["a + b", "a > 1 or b > 1", "not a == b", "a in [1, 2] and b < 1", "max(a, abs(b))"])
def test_a_row_with_any_named_column_missing_has_no_value(text, rows):
    frame = pd.DataFrame(rows, columns=["a", "b"], dtype="float64")
    found = Expression(text).evaluate(frame)
    python = [eval(text, {"a": a, "b": b}) if a is not None and b is not None else math.nan for a, b in rows]
    assert found.isna().tolist() == [math.isnan(expected) for expected in python]
    assert found.dropna().tolist() == [float(expected) for expected in python if not math.isnan(expected)]


@pytest.mark.parametrize(
    "text",
    ["a / b > 2", "not a / b > 2", "a / b > 2 or a > 1", "min(a / b, 3)", "a / b in [1, 2]", "a / b == 1 and a > 9"],
)
def test_what_a_division_by_zero_leaves_unknown_is_never_false(text):
    found = Expression(text).evaluate(FRAME)
    assert found.isna().tolist() == [False, True, False]


def test_texts_are_compared_where_some_are_missing():
    frame = pd.DataFrame({"kind": pd.Series(["b", None, "a"], dtype=object)})
    np.testing.assert_array_equal(Expression("kind > 'a'").evaluate(frame), [1.0, np.nan, 0.0])
    np.testing.assert_array_equal(Expression("not kind in ['a', 'c']").evaluate(frame), [1.0, np.nan, 0.0])


def test_true_and_false_are_values_and_no_columns():
    frame = pd.DataFrame({"paid": [1.0, 0.0, None]})
    expression = Expression("paid == false")
    assert expression.names == ("paid",)
    np.testing.assert_array_equal(expression.evaluate(frame), [0.0, 1.0, np.nan])
