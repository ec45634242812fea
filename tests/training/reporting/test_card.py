from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from ml_pipeline.training.reporting.card import Origin, card, reliability, summary
from ml_pipeline.training.reporting.importance import importance
from ml_pipeline.training.train import train
from ml_pipeline.training.trained import baseline_instead

MODELS = ["story_points", "lead_time", "rework_risk"]
QUALITY = {
    "score": 81.0,
    "measures": [
        {"name": "missing", "score": 44.0, "recommendation": "Fill in the team."},
        {"name": "freshness", "score": 97.0, "recommendation": "Import more often."},
    ],
}
ORIGIN = Origin("acme", "2.1.0", "2026-01-01T00:00:00+00:00", "abc123", "train", None, QUALITY, "it was asked for")


@pytest.fixture(scope="module")
def versions(specs, make_frame):
    """Of each shipped model: specification, training rows and version."""
    as_of = pd.Timestamp("2026-01-01", tz="UTC")
    frames = {name: make_frame(specs[name], 300) for name in MODELS}
    return {name: (specs[name], rows, train(specs[name], rows, as_of)) for name, rows in frames.items()}


def sections(text):
    """The parts of a card by their title."""
    return {part.split("\n", 1)[0]: part.split("\n", 1)[1] for part in text.split("\n## ")}


def table(text):
    """The rows of the first Markdown table, by their first cell."""
    lines = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in text.splitlines() if "|" in line]
    return {line[0]: line[1:] for line in lines}


@pytest.mark.parametrize("name", MODELS)
def test_the_card_shows_every_metric_of_the_test_part_with_that_of_the_baseline(versions, name):
    spec, rows, trained = versions[name]
    told = table(sections(card(spec, trained, rows, ORIGIN))["Test part"])
    titles = {metric.name: f"{metric.title} (`{metric.name}`)" for metric in spec.business_metrics}
    for metric, value in trained.metrics.items():
        said = told[titles.get(metric, metric)]
        assert float(said[0]) == pytest.approx(value, rel=1e-3)
        if trained.baseline_metrics.get(metric) is not None:
            assert float(said[1]) == pytest.approx(trained.baseline_metrics[metric], rel=1e-3)


@pytest.mark.parametrize("name", MODELS)
def test_every_candidate_stands_there_with_its_loss_and_the_chosen_one_is_marked(versions, name):
    spec, rows, trained = versions[name]
    told = table(sections(card(spec, trained, rows, ORIGIN))["Candidates"])
    for record in trained.candidates:
        chosen = record["name"] == trained.candidate
        loss = told[f"**{record['name']}**" if chosen else record["name"]][0]
        assert float(loss) == pytest.approx(record[spec.headline_metric], rel=1e-3)


@pytest.mark.parametrize("name", MODELS)
def test_the_ten_most_important_features_are_listed_in_their_order(versions, name):
    spec, rows, trained = versions[name]
    told = list(table(sections(card(spec, trained, rows, ORIGIN))["Feature importance"]))
    assert told[2:] == [f"`{feature}`" for feature in importance(trained.model)][:10]


@pytest.mark.parametrize("name", MODELS)
def test_the_learning_curve_ends_with_the_fit_that_the_test_part_judges(versions, name):
    spec, rows, trained = versions[name]
    lines = list(table(sections(card(spec, trained, rows, ORIGIN))["Learning curve"]).items())[2:]
    assert [int(size) for size, _ in lines] == [point.rows for point in trained.learning_curve]
    assert float(lines[-1][1][0]) == pytest.approx(trained.metrics[spec.headline_metric], rel=1e-3)


def test_it_says_which_rows_it_was_trained_on_and_where_they_came_from(versions):
    spec, rows, trained = versions["story_points"]
    told = sections(card(spec, trained, rows, ORIGIN))["Rows"]
    counts = table(told)
    assert all(counts[part] == [str(count)] for part, count in trained.rows.items())
    assert f"{rows['event_time'].min():%Y-%m-%d} to {rows['event_time'].max():%Y-%m-%d}" in told
    assert all(fact in told for fact in ("`abc123`", spec.hash, "81 of 100; weakest: missing (44)", "it was asked for"))


def test_slices_and_interval_of_a_regression_and_reliability_of_a_probability(versions):
    forecast = sections(card(*_told(versions["lead_time"])))
    risk = sections(card(*_told(versions["rework_risk"])))
    trained = versions["lead_time"][2]
    assert table(forecast["Slices"])["a"][0] == str(trained.slices["a"]["count"])
    assert f"coverage on the test part {trained.metrics['interval_coverage']:.1%}" in forecast["Interval"]
    assert ("Reliability" in forecast, "Interval" in risk, "Slices" in risk) == (False, False, False)
    assert len(risk["Reliability"].strip().splitlines()) == 7


def _told(version):
    spec, rows, trained = version
    return spec, trained, rows, ORIGIN


def test_the_limits_name_the_notes_few_test_rows_and_weak_data(versions):
    spec, rows, trained = versions["story_points"]
    few = replace(trained, rows=trained.rows | {"test": 20}, notes=["3 rows left out of train: known late"])
    limits = sections(card(spec, few, rows, ORIGIN))["Known limits"]
    assert "- 3 rows left out of train: known late." in limits
    assert "the metrics come from only 20 test rows" in limits.lower()
    assert "missing 44 of 100: Fill in the team." in limits
    assert "Import more often" not in limits


def test_the_card_of_a_baseline_names_it_and_has_no_importance(versions):
    spec, rows, trained = versions["story_points"]
    baseline = baseline_instead(spec, trained)
    told = sections(card(spec, baseline, rows, ORIGIN))
    assert summary(spec, baseline).startswith("The baseline `median`, trained on 300 rows.")
    assert "Selected: the baseline" in told["Candidates"]
    assert told["Feature importance"].strip().startswith("None")


def test_how_it_was_tuned_is_told_where_it_was(versions):
    spec, rows, trained = versions["story_points"]
    assert "Not tuned" in sections(card(spec, trained, rows, ORIGIN))["Tuning"]
    assert "Forty trials." in sections(card(spec, trained, rows, ORIGIN, tuning="Forty trials."))["Tuning"]


def test_a_candidate_that_failed_is_there_with_its_error_and_breaks_no_table(versions):
    spec, rows, trained = versions["story_points"]
    failed = {"name": "lightgbm", "mae": None, "error": "no parameter a|b"}
    told = sections(card(spec, replace(trained, candidates=[*trained.candidates, failed]), rows, ORIGIN))["Candidates"]
    assert "| lightgbm |  | no parameter a\\|b |" in told


def test_reliability_has_bins_of_equally_many_rows():
    probability = np.linspace(0.05, 0.95, 10)
    label = (probability > 0.5).astype(float)
    assert [count for count, _, _ in reliability(label, probability)] == [2] * 5
    assert [observed for _, _, observed in reliability(label, probability)] == [0.0, 0.0, 0.5, 1.0, 1.0]
    assert len(reliability(label[:3], probability[:3])) == 3
