"""Data quality: a clean tenant scores high, and each planted fault is found by its own measure."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from ml_pipeline.features.point_in_time import build
from ml_pipeline.features.quality.gates import failed_gates
from ml_pipeline.features.quality.measures import assess
from ml_pipeline.specs.training import QUALITY, Gate

START = pd.Timestamp("2024-01-01", tz="UTC")
AS_OF = START + pd.Timedelta(days=200)
ROWS = 400
NAMES = (
    *("missing", "text_emptiness", "label_maturity", "freshness", "time_gaps"),
    *("duplicates", "inconsistent_categories", "type_mix", "unseen_levels", "volume_trend"),
    *("outliers", "impossible_times", "constant_columns", "leakage", "class_balance"),
)


@pytest.fixture(scope="module")
def spec(specs):
    return specs["rework_risk"]


@pytest.fixture
def clean() -> pd.DataFrame:
    """Two pull requests a day, decided after two days, with nothing wrong in them."""
    rng = np.random.default_rng(0)
    created = START + pd.to_timedelta(np.arange(ROWS) * 12, unit="h")
    rows = pd.DataFrame(
        {
            "pull_request": [f"PR-{number}" for number in range(ROWS)],
            "created_at": created,
            "closed_at": created + pd.Timedelta(days=2),
            "title": [f"Change {number}" for number in rng.integers(0, 1000, ROWS)],
            "body": "Because it has to be " + pd.Series(rng.integers(0, 10**6, ROWS)).astype(str),
            "changed_files": rng.integers(1, 20, ROWS).astype(float),
            "additions": rng.integers(1, 200, ROWS).astype(float),
            "deletions": rng.integers(1, 100, ROWS).astype(float),
            "review_cycles": rng.integers(0, 6, ROWS).astype(float),
            "rework_commit_count": 0.0,
            "changes_requested": 0.0,
            "commits_after_first_review": 0.0,
        }
    )
    for column in ("repository", "author", "author_kind", "team"):
        rows[column] = rng.choice(["Alpha", "Beta", "Gamma"], ROWS)
    return rows


def measured(spec, rows, as_of=AS_OF):
    report = assess(spec, rows, build(spec, rows, as_of), as_of)
    return report, {measure.name: measure for measure in report.measures}


def test_a_clean_tenant_scores_above_ninety_with_nothing_to_recommend(spec, clean):
    report, measures = measured(spec, clean)
    assert report.score > 90
    assert tuple(measures) == NAMES
    assert [measure for measure in report.measures if measure.recommendation] == []


def _blank(rows):
    return rows.assign(author=None)


def _textless(rows):
    return rows.assign(body="", title=" ")


def _unlabelled(rows):
    return rows.assign(review_cycles=None, rework_commit_count=None, changes_requested=None)


def _stopped(rows):
    return rows[rows["created_at"] < START + pd.Timedelta(days=120)]


def _holed(rows):
    return rows[~rows["created_at"].between(START + pd.Timedelta(days=60), START + pd.Timedelta(days=150))]


def _repeated(rows):
    return pd.concat([rows, rows.iloc[:60]])


def _copied(rows):
    return pd.concat([rows, rows.iloc[:60].assign(pull_request=[f"copy-{number}" for number in range(60)])])


def _misspelt(rows):
    return rows.assign(team=rows["team"].where(rows.index % 4 > 0, " " + rows["team"].str.upper()))


def _mixed(rows):
    return rows.assign(team=rows["team"].where(rows.index % 3 > 0, "17"))


def _renamed(rows):
    columns = ["repository", "author", "author_kind", "team"]
    return rows.assign(**{name: rows[name].where(rows.index < 320, rows[name] + " 2") for name in columns})


def _surging(rows):
    return rows[(rows.index % 10 == 0) | (rows["created_at"] > AS_OF - pd.Timedelta(days=30))]


def _wild(rows):
    wild = rows.index % 10 == 0
    columns = ["changed_files", "additions", "deletions"]
    return rows.assign(**{name: rows[name].where(~wild, 10.0**15) for name in columns})


def _reversed(rows):
    return rows.assign(closed_at=rows["closed_at"].where(rows.index % 20 > 0, START - pd.Timedelta(days=1)))


def _epoch(rows):
    return rows.assign(created_at=rows["created_at"].where(rows.index % 20 > 0, pd.Timestamp(0, tz="UTC")))


def _constant(rows):
    return rows.assign(changed_files=1.0, additions=1.0, team="Alpha")


def _leaking_number(rows):
    return rows.assign(additions=(rows["review_cycles"] > 2) * 10 + rows.index % 7)


def _leaking_category(rows):
    return rows.assign(author_kind=np.where(rows["review_cycles"] > 2, "reworked", "fine"))


def _leaking_gap(rows):
    return rows.assign(additions=rows["additions"].where(rows["review_cycles"] > 2))


def _leaking_blank(rows):
    return rows.assign(author_kind=rows["author_kind"].where(rows["review_cycles"] > 2, None))


def _one_class(rows):
    return rows.assign(review_cycles=0.0)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("missing", _blank),
        ("text_emptiness", _textless),
        ("label_maturity", _unlabelled),
        ("freshness", _stopped),
        ("time_gaps", _holed),
        ("duplicates", _repeated),
        ("duplicates", _copied),
        ("inconsistent_categories", _misspelt),
        ("type_mix", _mixed),
        ("unseen_levels", _renamed),
        ("volume_trend", _surging),
        ("volume_trend", _stopped),
        ("outliers", _wild),
        ("impossible_times", _reversed),
        ("impossible_times", _epoch),
        ("constant_columns", _constant),
        ("leakage", _leaking_number),
        ("leakage", _leaking_category),
        ("leakage", _leaking_gap),
        ("leakage", _leaking_blank),
        ("class_balance", _one_class),
    ],
)
def test_a_planted_fault_is_found_by_its_measure_and_lowers_the_score(spec, clean, name, fault):
    before, _ = measured(spec, clean)
    after, measures = measured(spec, fault(clean))
    assert measures[name].score < 90
    assert measures[name].recommendation
    assert after.score < before.score - 1


def test_a_recommendation_names_the_column_at_fault(spec, clean):
    _, measures = measured(spec, clean.assign(author=None))
    assert measures["missing"].recommendation == ("Fill author (100%) at the source, or remove what is never filled.")


def test_a_feature_that_predicts_well_without_equalling_the_label_is_not_suspected(spec, clean):
    noise = np.random.default_rng(1).normal(0, 2, ROWS)
    _, measures = measured(spec, clean.assign(additions=clean["review_cycles"] + noise))
    assert measures["leakage"].value > 0.5
    assert measures["leakage"].score == 100


def test_many_rare_levels_are_no_leak(spec, clean):
    _, measures = measured(spec, clean.assign(author=[f"author {number // 2}" for number in range(ROWS)]))
    assert measures["leakage"].score == 100


def test_a_leak_is_found_in_a_regression_too(story_points, issues):
    points = [1.0, 2.0, 3.0, 5.0, 8.0] * 20
    rows = issues(
        *(
            {"created_at": START + pd.Timedelta(days=day), "story_points": p, "team": f"{p} points"}
            for day, p in enumerate(points)
        )
    )
    _, measures = measured(story_points, rows)
    assert measures["leakage"].value == 1.0


def test_open_entities_within_the_limit_do_not_count_against_maturity(spec, clean):
    waiting = clean["created_at"] > AS_OF - pd.Timedelta(days=50)
    _, measures = measured(spec, clean.assign(closed_at=clean["closed_at"].mask(waiting)))
    assert measures["label_maturity"].value == 1.0


def test_nothing_after_as_of_changes_the_report(spec, clean):
    middle = START + pd.Timedelta(days=100)
    past = clean[clean["created_at"] <= middle]
    visible = past.assign(closed_at=past["closed_at"].where(past["closed_at"] <= middle))
    assert measured(spec, clean, middle)[0] == measured(spec, visible, middle)[0]


def test_an_empty_tenant_scores_zero_and_says_what_to_load(spec, clean):
    report, measures = measured(spec, clean.iloc[:0])
    assert (report.score, tuple(measures)) == (0.0, NAMES)
    assert "load source.pull_requests" in report.measures[0].recommendation


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_a_report_of_few_rows_is_json_without_nan(spec, clean, count):
    report, _ = measured(spec, clean.head(count), START + pd.Timedelta(days=5))
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["score"] == report.score


def test_every_score_lies_between_0_and_100_on_a_real_project(story_points, real_issues):
    report, measures = measured(story_points, real_issues, real_issues["created_at"].max())
    scores = [report.score, report.completeness, report.consistency, report.validity]
    assert all(0 <= score <= 100 for score in [*scores, *(measure.score for measure in measures.values())])
    assert measures["missing"].value > 0.3


def test_a_specification_can_name_every_dimension_and_measure_as_a_gate(spec, clean):
    report, _ = measured(spec, clean)
    found = {}
    for measure in report.measures:
        found[measure.dimension] = (*found.get(measure.dimension, ()), measure.name)
    assert found == QUALITY


def test_each_measure_has_a_recommendation_of_its_own(spec, clean):
    worst = [_blank, _textless, _unlabelled, _holed, _repeated, _misspelt, _mixed, _renamed, _surging, _stopped]
    worst += [_wild, _reversed, _constant, _leaking_number, _one_class]
    found = {}
    for fault in worst:
        found |= {name: m.recommendation for name, m in measured(spec, fault(clean))[1].items() if m.recommendation}
    assert sorted(found) == sorted(NAMES)
    assert len(set(found.values())) == len(NAMES)


def test_a_time_known_at_creation_that_lies_before_1990_is_impossible(spec, clean):
    columns = spec.source.columns | {"branched_at": spec.source.columns["closed_at"].model_copy()}
    columns["branched_at"] = columns["branched_at"].model_copy(update={"known_at": "created"})
    dated = spec.model_copy(update={"source": spec.source.model_copy(update={"columns": columns})})
    branched = (clean["created_at"] - pd.Timedelta(days=1)).where(clean.index % 20 > 0, pd.Timestamp(0, tz="UTC"))
    _, measures = measured(dated, clean.assign(branched_at=branched))
    assert measures["impossible_times"].recommendation == "Correct the order, zone or clock of branched_at (5%)."


def test_the_patterns_are_part_of_the_stored_report(spec, clean):
    report, _ = measured(spec, clean)
    assert report.to_dict()["patterns"]["arrivals"]["weeks"] == 28


def test_bars_that_are_reached_fail_nothing(spec, clean):
    report, _ = measured(spec, clean)
    assert failed_gates(Gate(min_quality=90, min_quality_of={"leakage": 100, "validity": 90}), report.to_dict()) == []


def test_a_failed_gate_of_a_measure_says_value_bar_and_what_to_do(spec, clean):
    report, _ = measured(spec, _blank(clean))
    (gate,) = failed_gates(Gate(min_quality_of={"missing": 95}), report.to_dict())
    assert gate.sentence() == (
        "missing 85.71 of 100, needed 95: Fill author (100%) at the source, or remove what is never filled"
    )


def test_a_failed_gate_of_a_dimension_names_its_weakest_measure(spec, clean):
    report, measures = measured(spec, _leaking_number(clean))
    (gate,) = failed_gates(Gate(min_quality_of={"validity": 80, "consistency": 80}), report.to_dict())
    assert (gate.name, gate.score, gate.needed) == ("validity", report.validity, 80)
    assert gate.recommendation == f"leakage: {measures['leakage'].recommendation}"


def test_every_gate_that_fails_is_told_the_overall_one_first(spec, clean):
    report, _ = measured(spec, clean.iloc[:0])
    bars = Gate(min_quality=40, min_quality_of={"leakage": 20, "completeness": 50})
    assert [gate.name for gate in failed_gates(bars, report.to_dict())] == ["quality", "leakage", "completeness"]


def test_a_bar_above_ninety_has_a_recommendation_too(spec, clean):
    strict = spec.model_copy(update={"gate": Gate(min_quality_of={"missing": 99})})
    report, measures = measured(strict, clean.assign(author=clean["author"].where(clean.index % 4 > 0, None)))
    assert 90 < measures["missing"].score < 99 and report.score > 90
    assert "author" in failed_gates(strict.gate, report.to_dict())[0].recommendation


def as_files(rows: pd.DataFrame, values: np.ndarray) -> pd.DataFrame:
    return rows.assign(changed_files=values)


def label_of(spec, rows: pd.DataFrame) -> np.ndarray:
    return build(spec, rows, AS_OF).set_index("entity_id").loc[rows["pull_request"], "label"].to_numpy(copy=True)


def test_a_feature_that_is_the_label_under_another_name_is_found_and_refused_with_its_name(spec, clean):
    label = label_of(spec, clean)
    report, _ = measured(spec, as_files(clean, label))
    assert report.label_copies == {"changed_files": 1.0}
    failed = failed_gates(Gate(), json.loads(json.dumps(report.to_dict())))
    assert failed[0].name == "label_copies"
    assert "'changed_files' equals the label in 100.0% of the rows. Remove it from features" in failed[0].sentence()


def test_a_category_that_is_the_label_is_found_too(spec, clean):
    label = label_of(spec, clean)
    for words in (("True", "False"), ("1", "0")):
        rows = clean.assign(team=pd.Series(np.where(label == 1, *words), dtype=object))
        assert measured(spec, rows)[0].label_copies == {"team": 1.0}


def test_a_copy_in_the_unit_of_the_source_is_found(lead_time, issues):
    created = pd.date_range("2024-01-01", periods=60, freq="D", tz="UTC")
    days = np.arange(60) % 7 + 1.5
    content = lead_time.model_dump(mode="json")
    content["source"]["columns"]["copy"] = {"type": "number"}
    content["features"]["numeric"] = ["copy"]
    spec = type(lead_time).model_validate(content)
    rows = issues(
        *(
            {"created_at": time, "resolved_at": time + pd.Timedelta(days=day)}
            for time, day in zip(created, days, strict=True)
        )
    )
    for copy in (days, days * 86_400):
        with_copy = rows.assign(copy=copy)
        assert assess(spec, with_copy, build(spec, with_copy, AS_OF), AS_OF).label_copies == {"copy": 1.0}


def test_a_feature_that_differs_in_one_row_of_a_hundred_is_no_copy(spec, clean):
    label = label_of(spec, clean)
    label[::100] = 1 - label[::100]
    assert measured(spec, as_files(clean, label))[0].label_copies == {}


def test_few_rows_and_a_label_that_hardly_varies_are_not_judged(spec, clean):
    label = label_of(spec, clean)
    assert measured(spec, as_files(clean, label).iloc[:40])[0].label_copies == {}
    same = clean.assign(review_cycles=0.0, changed_files=0.0)
    assert measured(spec, same)[0].label_copies == {}
