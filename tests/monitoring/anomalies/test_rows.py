"""Unusual rows: how many of a quiet stream are named, what is found, and what cannot be said."""

from __future__ import annotations

import json
import time
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

from ml_pipeline.monitoring.anomalies.rows import (
    AT_MOST,
    judged_columns,
    unusual_inputs,
    unusual_outcomes,
    unusual_predictions,
)
from ml_pipeline.specs import FeatureColumns, load_specs

SPEC = load_specs()["rework_risk"]
POINTS = load_specs()["story_points"]
START = pd.Timestamp("2025-01-01", tz="UTC")


def inputs(rng: np.random.Generator, rows: int) -> pd.DataFrame:
    """Feature rows with heavy tails, ties, missing values and rare levels."""
    columns = {"entity_id": [f"PR-{number}" for number in range(rows)]}
    for position, name in enumerate(SPEC.feature_columns.numeric):
        columns[name] = rng.lognormal(sigma=2, size=rows) if position % 2 else rng.poisson(2, rows).astype(float)
    columns["body_words"] = np.where(rng.random(rows) < 0.05, np.nan, rng.normal(size=rows))
    for position, name in enumerate(SPEC.feature_columns.categorical):
        columns[name] = pd.Series([f"level-{k}" for k in rng.zipf(1.5 + position / 2, rows)], dtype=object)
    columns["text"] = "a"
    return pd.DataFrame(columns)


def scored(rng: np.random.Generator, rows: int) -> pd.DataFrame:
    """Matured outcomes with predictions; bugs scatter three times as much as the others."""
    kind = rng.choice(["Bug", "Story"], rows)
    value = rng.lognormal(1, 0.3, rows)
    noise = rng.normal(0, np.where(kind == "Bug", 0.3, 0.1))
    return pd.DataFrame(
        {
            "entity_id": [f"E-{number}" for number in range(rows)],
            "label_time": START + pd.to_timedelta(np.arange(rows), unit="h"),
            "predicted_at": START + pd.to_timedelta(np.arange(rows), unit="h"),
            "label": np.expm1(np.log1p(value) + noise),
            "value": value,
            "issue_type": kind,
        }
    )


def since(frame: pd.DataFrame, rows: int) -> pd.Timestamp:
    return frame["label_time"].iloc[-rows]


@pytest.mark.parametrize("rows", [400, 1000])
@pytest.mark.parametrize("rate", [0.005, 0.05])
def test_of_inputs_like_the_reference_no_more_than_the_stated_share_is_named(rows, rate):
    shares = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        result = unusual_inputs(SPEC, inputs(rng, rows), inputs(rng, 500), rate=rate)
        shares.append(result.count / result.tested)
    error = np.std(shares) / np.sqrt(len(shares))
    assert np.mean(shares) <= rate * 1.1 + 2 * error
    assert np.mean(shares) > rate / 4


@pytest.mark.parametrize("by", [None, "issue_type"])
@pytest.mark.parametrize("rate", [0.01, 0.05])
def test_of_outcomes_like_the_earlier_ones_no_more_than_the_stated_share_is_named(by, rate):
    shares = []
    for seed in range(60):
        rows = scored(np.random.default_rng(seed), 1000)
        result = unusual_outcomes(POINTS, rows, since(rows, 300), by=by, rate=rate)
        shares.append(result.count / result.tested)
    assert np.mean(shares) <= rate + 2 * np.std(shares) / np.sqrt(len(shares))
    assert np.mean(shares) > rate / 2


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("additions", 1e6, "additions is 1e+06; 99% of the reference rows are between"),
        ("additions", -500.0, "additions is -500"),
        ("additions", np.inf, "additions is 1e+300"),
        ("changed_files", np.nan, "changed_files is missing, as in 0 of 800 reference rows"),
        ("author_kind", "robot", "author_kind is 'robot', as in 0 of 800 reference rows"),
        ("team", None, "team is missing, as in 0 of 800 reference rows"),
    ],
)
def test_an_input_unlike_the_reference_is_found_and_its_column_named(column, value, words):
    rng = np.random.default_rng(3)
    rows = inputs(rng, 200)
    rows[column] = rows[column].where(rows.index != 17, value)
    rows.loc[17, "changed_files" if column != "changed_files" else "additions"] = (
        400.0 if column != "additions" else 2.0
    )
    result = unusual_inputs(SPEC, inputs(rng, 800), rows, rate=0.02)
    anomaly = next(anomaly for anomaly in result.found if anomaly.entity_id == "PR-17")
    assert column in anomaly.columns
    assert words in anomaly.reason
    assert anomaly.score <= 0.02
    json.dumps(asdict(result), allow_nan=False)


def test_a_change_of_unit_makes_every_row_unusual_and_the_list_stays_short():
    rng = np.random.default_rng(0)
    rows = inputs(rng, 300).assign(changed_files=lambda frame: frame["changed_files"] * 1000 + 1000)
    result = unusual_inputs(SPEC, inputs(rng, 800), rows)
    assert result.count == 300
    assert len(result.found) == AT_MOST
    assert all(anomaly.columns[0] == "changed_files" for anomaly in result.found)


def test_never_seen_levels_are_no_surprise_where_most_levels_are_seen_once():
    rng = np.random.default_rng(0)
    reference, rows = inputs(rng, 500), inputs(rng, 200)
    reference["author"] = [f"person-{number}" for number in range(500)]
    rows["author"] = [f"newcomer-{number}" for number in range(200)]
    assert unusual_inputs(SPEC, reference, rows).count <= 5


def test_newcomers_are_no_surprise_where_people_come_and_go_all_the_time():
    rng = np.random.default_rng(0)
    frame = inputs(rng, 2000)
    frame["author"] = [f"person-{number // 100 + rng.integers(8)}" for number in range(2000)]
    split = frame.iloc[:1500], frame.iloc[1500:]
    assert len(set(split[1]["author"]) - set(split[0]["author"])) >= 4
    assert unusual_inputs(SPEC, *split).count <= 8


def test_history_and_calendar_move_with_time_and_are_not_judged():
    judged = judged_columns(SPEC.feature_columns)
    assert "additions" in judged.numeric
    assert not [name for name in judged.all if name.startswith(("history_", "calendar_")) or name == "text"]


def test_too_small_a_reference_gives_nothing_and_says_so():
    rng = np.random.default_rng(0)
    result = unusual_inputs(SPEC, inputs(rng, 30), inputs(rng, 10))
    assert (result.found, result.tested) == ([], 0)
    assert "too little history: 30 reference rows, a rate of 0.005 needs 332" in result.note


def test_columns_that_vanished_or_are_new_are_named_and_the_others_compared():
    rng = np.random.default_rng(0)
    result = unusual_inputs(SPEC, inputs(rng, 400).drop(columns="team"), inputs(rng, 50).drop(columns="additions"))
    assert result.tested == 50
    assert "not compared, because one side lacks them: additions, team" in result.note


@pytest.mark.parametrize("value", [np.nan, 7.0, np.inf])
def test_a_column_that_holds_one_value_only_is_usual_until_it_holds_another(value):
    rng = np.random.default_rng(0)
    reference, rows = (inputs(rng, size).assign(additions=value) for size in (500, 200))
    assert unusual_inputs(SPEC, reference, rows).count <= 6
    rows.loc[5, "additions"] = 8.0
    rows.loc[5, ["changed_files", "title_words"]] = 0.0
    found = unusual_inputs(SPEC, reference, rows, rate=0.02).found
    assert "additions" in next(anomaly.columns for anomaly in found if anomaly.entity_id == "PR-5")


def test_a_column_of_missing_values_that_gets_one_says_so():
    rng = np.random.default_rng(0)
    reference, rows = inputs(rng, 500).assign(additions=np.nan), inputs(rng, 20).assign(additions=np.nan)
    rows.loc[5, "additions"] = 8.0
    found = unusual_inputs(SPEC, reference, rows, rate=0.02).found
    assert any("additions is 8; 500 of 500 reference rows have no value" in anomaly.reason for anomaly in found)


def test_levels_of_mixed_types_are_compared_as_they_are():
    rng = np.random.default_rng(0)
    reference, rows = (
        inputs(rng, size).assign(team=lambda frame: [k % 2 or "b" for k in range(len(frame))]) for size in (800, 20)
    )
    rows.loc[5, ["team", "author_kind"]] = [3.5, "robot"]
    found = unusual_inputs(SPEC, reference, rows, rate=0.02).found
    assert "team is 3.5, as in 0 of 800" in next(anomaly.reason for anomaly in found if anomaly.entity_id == "PR-5")


def test_no_rows_and_all_null_rows_are_no_error():
    rng = np.random.default_rng(0)
    reference = inputs(rng, 400)
    assert unusual_inputs(SPEC, reference, reference.iloc[:0]).found == []
    empty = inputs(rng, 5)
    empty[[*SPEC.feature_columns.numeric, *SPEC.feature_columns.categorical]] = None
    result = unusual_inputs(SPEC, reference, empty)
    assert result.count == 5
    json.dumps(asdict(result), allow_nan=False)


def test_ten_thousand_rows_of_sixty_columns_take_less_than_a_second():
    rng = np.random.default_rng(0)
    names = FeatureColumns(tuple(f"n{k}" for k in range(45)), tuple(f"c{k}" for k in range(15)), ())
    chosen = SPEC.features.model_copy(
        update={"numeric": list(names.numeric), "categorical": list(names.categorical), "text": [], "history": []}
    )
    spec = SPEC.model_copy(update={"features": chosen})
    reference, rows = (
        pd.DataFrame(
            {"entity_id": [str(number) for number in range(10_000)]}
            | {name: rng.lognormal(size=10_000) for name in names.numeric}
            | {name: rng.choice(list("abcdefgh"), 10_000).astype(object) for name in names.categorical}
        )
        for _ in range(2)
    )
    started = time.process_time()
    result = unusual_inputs(spec, reference, rows)
    assert time.process_time() - started < 1
    assert result.tested == 10_000


def test_an_outcome_far_from_its_prediction_is_found_with_its_numbers():
    rows = scored(np.random.default_rng(0), 1000)
    rows.loc[990, ["label", "value"]] = [40.0, 2.5]
    result = unusual_outcomes(POINTS, rows, since(rows, 100))
    assert result.found[0].entity_id == "E-990"
    assert result.found[0].reason.startswith(
        "the outcome is 40 points, 2.5 was predicted; 0 of 900 earlier ones are at least as far above their prediction"
    )


def test_an_outcome_is_compared_with_those_of_its_kind():
    rows = scored(np.random.default_rng(0), 2000)
    rows.loc[1990, ["label", "value", "issue_type"]] = [7.0, 4.0, "Story"]  # as usual among bugs
    within = unusual_outcomes(POINTS, rows, since(rows, 100), by="issue_type")
    assert "earlier ones with issue_type 'Story'" in within.found[0].reason
    assert within.found[0].entity_id == "E-1990"
    assert "E-1990" not in [anomaly.entity_id for anomaly in unusual_outcomes(POINTS, rows, since(rows, 100)).found]


def test_a_rare_kind_is_compared_with_all():
    rows = scored(np.random.default_rng(0), 1000)
    rows.loc[990, ["label", "value", "issue_type"]] = [40.0, 2.5, "Epic"]
    found = unusual_outcomes(POINTS, rows, since(rows, 100), by="issue_type").found
    assert "of 900 earlier ones are at least as far" in next(
        anomaly.reason for anomaly in found if anomaly.entity_id == "E-990"
    )


def test_too_few_earlier_outcomes_give_nothing_and_say_so():
    rows = scored(np.random.default_rng(0), 130)
    result = unusual_outcomes(POINTS, rows, since(rows, 100))
    assert (result.found, result.tested) == ([], 0)
    assert result.note == "too little history: 30 earlier ones, a rate of 0.005 needs 399"


def test_outcomes_without_a_finite_value_are_left_out_and_counted():
    rows = scored(np.random.default_rng(0), 1000)
    rows.loc[[950, 960], "value"] = [np.nan, np.inf]
    result = unusual_outcomes(POINTS, rows, since(rows, 100))
    assert result.tested == 98
    assert result.note == "2 rows left out, because their value is not finite"


def test_a_prediction_unlike_the_earlier_ones_is_found_without_an_outcome():
    rows = scored(np.random.default_rng(0), 1000).drop(columns=["label", "label_time"])
    rows.loc[990, "value"] = 60.0
    result = unusual_predictions(POINTS, rows, rows["predicted_at"].iloc[900])
    assert result.found[0].entity_id == "E-990"
    assert result.found[0].reason.startswith("60 points is predicted; 0 of 900")


def test_predictions_that_are_all_the_same_are_usual():
    rows = scored(np.random.default_rng(0), 1000).assign(value=3.0)
    assert unusual_predictions(POINTS, rows, rows["predicted_at"].iloc[900]).count == 0


def test_a_confident_wrong_probability_is_found():
    rng = np.random.default_rng(0)
    value = rng.uniform(0.3, 0.7, 1000)
    rows = scored(rng, 1000).assign(value=value, label=(rng.random(1000) < value).astype(float))
    rows.loc[990, ["value", "label"]] = [0.02, 1.0]
    assert unusual_outcomes(SPEC, rows, since(rows, 100)).found[0].entity_id == "E-990"
