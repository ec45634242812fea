"""One reader per declared type: what each makes of a value, and that no detail of a source changes a prediction."""

from __future__ import annotations

import datetime as dt
import math
import uuid
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml_pipeline.features.point_in_time import FeatureError, build
from ml_pipeline.features.typed_columns import TypeMismatch, level, typed_rows
from ml_pipeline.specs import ModelSpec
from ml_pipeline.training.train import train

NAMES = {"priority": "priority", "size": "size", "urgent": "urgent", "note": "note"}
AS_OF = dt.datetime(2025, 1, 1, tzinfo=dt.UTC)
ROWS = 160
OLD_TIME = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


def spec_of(names: dict[str, str] = NAMES, **more: str) -> ModelSpec:
    """A model over four columns, which a source may call as it likes."""
    kinds = {"priority": "category", "size": "number", "urgent": "boolean", "note": "text"}
    columns = {names[name]: {"type": kind} for name, kind in kinds.items()} | {
        name: {"type": kind} for name, kind in more.items()
    }
    return ModelSpec.model_validate(
        {
            "name": "claims",
            "title": "Days to settle",
            "task": "regression",
            "source": {
                "table": "shop.claims",
                "entity": "claim",
                "event_time": "filed_at",
                "columns": columns | {"settled_at": {"type": "time", "known_at": "label"}},
            },
            "label": {"value": "settled_at - filed_at", "time": "settled_at", "unit_size": 86400},
            "features": {
                "categorical": [names["priority"]],
                "numeric": [names["size"], names["urgent"]],
                "text": [names["note"]],
                "history": [names["priority"]],
                "calendar": False,
            },
            "training": {
                "estimator": "xgboost",
                "params": {"n_estimators": 20, "max_depth": 3},
                "loss": "absolute_error",
                "min_rows": 50,
                "candidates": {},
            },
        }
    )


def source(names: dict[str, str] = NAMES) -> dict[str, list]:
    """Values as a database driver gives them: the higher a claim's priority, the longer it takes."""
    random = np.random.default_rng(0)
    priority = [int(value) for value in random.integers(1, 9, ROWS)]
    filed = [dt.datetime(2024, 1, 1, tzinfo=dt.UTC) + dt.timedelta(hours=30 * row) for row in range(ROWS)]
    days = [1 + 3 * value + random.random() for value in priority]
    return {
        "claim": list(range(1000, 1000 + ROWS)),
        "filed_at": filed,
        names["priority"]: list(priority),
        names["size"]: [float(value) for value in random.normal(size=ROWS)],
        names["urgent"]: [bool(value) for value in random.random(ROWS) < 0.5],
        names["note"]: [f"water in the {'cellar' if value > 4 else 'kitchen'}" for value in priority],
        "settled_at": [time + dt.timedelta(days=count) for time, count in zip(filed, days, strict=True)],
    }


def frame_of(rows: dict[str, list], spec: ModelSpec | None = None) -> pd.DataFrame:
    return build(spec or spec_of(), typed_rows(spec or spec_of(), rows), AS_OF)


@pytest.fixture(scope="module")
def model():
    frame = frame_of(source())
    return train(spec_of(), frame[frame["state"] == "matured"], AS_OF).model


@pytest.fixture(scope="module")
def expected(model) -> pd.DataFrame:
    return predictions(model, frame_of(source()))


def predictions(model, frame: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([frame[["entity_id"]], model.predict(frame)], axis=1)


def as_priorities(write) -> dict[str, list]:
    rows = source()
    return rows | {"priority": [write(value) for value in rows["priority"]]}


@pytest.mark.parametrize(
    "write",
    [Decimal, lambda value: Decimal(f"{value}.00"), float, np.int64, str],
    ids=["numeric(9,0)", "numeric(10,2)", "double precision", "bigint of numpy", "text"],
)
def test_another_type_of_the_same_whole_numbers_changes_no_prediction(model, expected, write):
    pd.testing.assert_frame_equal(predictions(model, frame_of(as_priorities(write))), expected, check_exact=True)


def test_integers_that_pandas_made_floats_give_the_levels_that_they_had(model, expected):
    rows = pd.DataFrame(source())
    rows["priority"] = rows["priority"].astype("float64")
    pd.testing.assert_frame_equal(predictions(model, build(spec_of(), rows, AS_OF)), expected, check_exact=True)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(missing=st.sets(st.sampled_from(["priority", "size", "urgent", "note", "settled_at"])), at=st.integers(0, ROWS))
def test_a_row_with_missing_values_changes_no_prediction_of_the_others(model, expected, missing, at):
    """A row that the others do not see: it comes after all of them."""
    rows = source()
    added = {name: values[0] for name, values in rows.items()} | dict.fromkeys(missing)
    added |= {"claim": 1, "filed_at": AS_OF - dt.timedelta(minutes=1), "settled_at": None}
    frame = frame_of({name: [*values[:at], added[name], *values[at:]] for name, values in rows.items()})
    found = predictions(model, frame[frame["entity_id"] != "1"].reset_index(drop=True))
    pd.testing.assert_frame_equal(found, expected, check_exact=True)


def test_an_unrelated_old_row_without_a_priority_leaves_every_level_as_it_is():
    rows = source()
    old = {"claim": 1, "filed_at": OLD_TIME, "settled_at": None}
    frame = frame_of({name: [*values, old.get(name)] for name, values in rows.items()})
    own = [f"{value}" for value in rows["priority"]]
    assert frame["priority"].tolist() == [None, *own]
    without_age = [name for name in spec_of().feature_columns.all if not name.endswith(("_open", "history_known"))]
    pd.testing.assert_frame_equal(
        frame.loc[1:, without_age].reset_index(drop=True), frame_of(rows)[without_age], check_exact=True
    )


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(list(source())))
def test_another_order_of_the_columns_changes_no_prediction(model, expected, order):
    rows = source()
    found = predictions(model, build(spec_of(), pd.DataFrame({name: rows[name] for name in order}), AS_OF))
    pd.testing.assert_frame_equal(found, expected, check_exact=True)


OWN = ["state", "label", "weight", "event_time", "entity_id", "text", "label_time", "feedback", "is_outlier", "range"]
names_of_columns = st.lists(
    st.sampled_from(
        [*OWN, "self", "index", "history_mean", "calendar_hour", "history_x_known", "column.weight", "a b"]
    ),
    min_size=4,
    max_size=4,
    unique=True,
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given_names=names_of_columns)
def test_columns_that_are_called_as_the_frames_own_change_no_prediction(expected, given_names):
    names = dict(zip(NAMES, given_names, strict=True))
    spec = spec_of(names)
    frame = frame_of(source(names), spec)
    trained = train(spec, frame[frame["state"] == "matured"], AS_OF).model
    pd.testing.assert_frame_equal(predictions(trained, frame), expected, check_exact=True)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7, "7"),
        (10**20, "1" + "0" * 20),
        (Decimal("7.00"), "7"),
        (Decimal("7.50"), "7.5"),
        (Decimal("1E+3"), "1000"),
        (7.0, "7"),
        (7.5, "7.5"),
        (-0.0, "0"),
        (np.float32(2), "2"),
        (True, "True"),
        (dt.date(2026, 1, 5), "2026-01-05"),
        (dt.time(7, 30), "07:30:00"),
        (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        ("", ""),
        (" 7", " 7"),
    ],
)
def test_a_level_is_the_exact_text_of_its_value(value, text):
    assert level(value) == text


@pytest.mark.parametrize(
    "value", [b"x", memoryview(b"x"), {"a": 1}, ["a"], (1, 2), dt.timedelta(days=1)], ids=lambda value: str(type(value))
)
def test_a_value_without_a_text_of_its_own_is_refused_with_the_remedy(value):
    rows = source()
    rows["priority"][3] = value
    with pytest.raises(
        TypeMismatch, match=r"column 'priority' of shop.claims .* not a category: .* cast it to text in a view"
    ):
        typed_rows(spec_of(), rows)


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("size", "12", "not a number: '12' .str."),
        ("size", dt.date(2026, 1, 1), "not a number: datetime.date"),
        ("urgent", 1, "not a boolean: 1 .int."),
        ("urgent", "true", "not a boolean: 'true'"),
        ("settled_at", 5, "not a time: 5 .int."),
        ("settled_at", True, "not a time: True"),
        ("settled_at", "soon", "not a time: .*soon"),
    ],
)
def test_a_value_of_another_type_is_refused_with_its_column(column, value, said):
    rows = source()
    rows[column][3] = value
    with pytest.raises(
        FeatureError, match=rf"claims: column '{column}' of shop.claims contains a value that is {said}"
    ):
        build(spec_of(), pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in rows.items()}), AS_OF)


def test_numbers_beyond_a_float_are_infinite_and_missing_ones_stay_missing():
    rows = source()
    rows["size"][:5] = [10**400, -(10**400), Decimal("NaN"), None, True]
    found = typed_rows(spec_of(), rows)["size"].tolist()[:5]
    assert found[:2] == [math.inf, -math.inf]
    assert np.isnan(found[2:4]).all()
    assert found[4] == 1.0
    assert np.isnan(frame_of(rows)["size"].tolist()[:4]).all()


def test_a_missing_boolean_is_neither_true_nor_false():
    rows = source()
    rows["urgent"][:3] = [None, True, False]
    np.testing.assert_array_equal(frame_of(rows)["urgent"].tolist()[:3], [np.nan, 1.0, 0.0])


def test_times_are_utc_and_a_date_is_its_first_moment():
    rows = source()
    zone = dt.timezone(dt.timedelta(hours=2))
    rows["settled_at"][:4] = [
        dt.date(2024, 5, 1),
        dt.datetime(2024, 5, 1, 12),
        dt.datetime(2024, 5, 1, 12, tzinfo=zone),
        None,
    ]
    found = typed_rows(spec_of(), rows)["settled_at"]
    assert str(found.dtype) == "datetime64[us, UTC]"
    expected = ["2024-05-01T00:00", "2024-05-01T12:00", "2024-05-01T10:00"]
    assert found.tolist()[:3] == [pd.Timestamp(text, tz="UTC") for text in expected]
    assert found.isna().tolist()[:4] == [False, False, False, True]


def test_what_was_typed_comes_back_unchanged():
    once = typed_rows(spec_of(), source())
    pd.testing.assert_frame_equal(typed_rows(spec_of(), once), once)


def test_a_row_without_an_entity_is_no_entity():
    rows = source()
    rows["claim"][:2] = [None, None]
    assert len(frame_of(rows)) == ROWS - 2


def test_include_filters_a_boolean_column_by_true_and_false():
    content = spec_of().model_dump(mode="json")
    content["source"]["include"] = {"urgent": ["true", None]}
    rows = source()
    rows["urgent"][0] = None
    kept = frame_of(rows, ModelSpec.model_validate(content))
    assert len(kept) == 1 + sum(1 for value in rows["urgent"] if value)
    content["source"]["include"] = {"urgent": ["yes"]}
    with pytest.raises(ValueError, match=r'include.urgent is .*yes.*; a boolean column takes "true", "false" and null'):
        ModelSpec.model_validate(content)


def labelled(kind: str, value: str) -> ModelSpec:
    content = spec_of().model_dump(mode="json") | {"task": "binary"}
    content["source"]["columns"]["fraud"] = {"type": kind, "known_at": "label"}
    content["training"]["loss"] = "log_loss"
    content["label"] = {"value": value, "time": "settled_at"}
    return ModelSpec.model_validate(content)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("fraud", [1.0, 0.0, None]),
        ("fraud == true", [1.0, 0.0, None]),
        ("not fraud", [0.0, 1.0, None]),
        ("fraud == 1", [1.0, 0.0, None]),
        ("fraud or true", [1.0, 1.0, None]),
    ],
)
def test_a_boolean_column_is_a_label(value, found):
    rows = source() | {"fraud": [True, False, None, *([True] * (ROWS - 3))]}
    spec = labelled("boolean", value)
    label = frame_of(rows, spec)["label"].tolist()[:3]
    assert [None if np.isnan(value) else value for value in label] == found


@pytest.mark.parametrize("value", ["fraud == 1", "fraud", "fraud == true", "not fraud"])
def test_a_boolean_that_is_declared_a_category_is_refused_where_it_would_be_all_0(value):
    with pytest.raises(ValueError, match=r"Declare 'fraud' as boolean if it contains true and false"):
        labelled("category", value)


def test_a_category_of_booleans_that_is_compared_with_a_text_is_refused_when_it_is_read():
    rows = source() | {"fraud": [True] * ROWS}
    with pytest.raises(TypeMismatch, match=r"column 'fraud' .* label.value needs the type boolean"):
        typed_rows(labelled("category", "fraud == 'true'"), rows)
