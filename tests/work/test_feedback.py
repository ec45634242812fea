"""Feedback on the real database: what is stored, what is set aside, and what a training makes of it."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pandas as pd
import pytest
import sqlalchemy as sa

from ml_pipeline.importers import ImportFailed
from ml_pipeline.resources import tables
from ml_pipeline.resources.snapshots import Snapshots
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.work.feedback import BadFeedback, FeedbackRecord, import_feedback, read_feedback, store_one
from ml_pipeline.work.training.task import FEATURES, MODEL, PREDICTIONS

START = pd.Timestamp("2026-01-01", tz="UTC")
PREDICTED = 40.0  # day of the predictions of the open issues


def day(number: float) -> dt.datetime:
    return (START + pd.Timedelta(days=number)).to_pydatetime()


@pytest.fixture
def predicted(tenant, make_issues, as_known, start_from):
    """A tenant whose version 1 predicted its open issues on day 40; A-0239 is the newest of them."""

    def trained() -> None:
        assert tenant.holds(as_known(make_issues(41), PREDICTED)).train(PREDICTED).error is None

    start_from(trained)
    return tenant


def say(tenant, entity: str = "A-0239", verdict: str = "corrected", value: float | None = 5.0, **more):
    record = {"entity_id": entity, "verdict": verdict, "value": value, "weight": 1.0, "given_by": "ann"}
    record |= {"given_at": day(41)} | more
    return store_one(Warehouse(tenant.settings), tenant.spec, tenant.name, FeedbackRecord(**record), day(50))


def load(tenant, folder: Path, *lines: str, header: str = "entity_id,verdict,value,weight,given_by,given_at"):
    path = folder / "said.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    warehouse = Warehouse(tenant.settings)
    return import_feedback(warehouse, tenant.spec, tenant.name, path, given_by="a file", timezone="UTC", now=day(50))


def test_a_correction_is_stored_with_what_was_predicted_and_by_which_version(predicted):
    say(predicted)
    (row,) = predicted.rows(tables.feedback)
    (prediction,) = predicted.rows(tables.predictions, entity_id="A-0239")
    assert (row["verdict"], row["value"], row["weight"], row["given_by"]) == ("corrected", 5.0, 1.0, "ann")
    assert (row["predicted"], row["version"], row["given_at"]) == (prediction["value"], 1, day(41))


def test_what_is_accepted_is_the_predicted_value(predicted):
    assert say(predicted, verdict="accepted", value=None)["value"] == say(predicted)["predicted"]


def test_a_rejection_has_no_value(predicted):
    say(predicted, verdict="rejected", value=None)
    assert predicted.rows(tables.feedback)[0]["value"] is None


def test_the_same_record_again_replaces_the_first(predicted):
    say(predicted)
    say(predicted, value=3.0)
    assert [row["value"] for row in predicted.rows(tables.feedback)] == [3.0]


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"entity": "A-9999"}, "there is no prediction before it: 'A-9999'"),
        ({"given_at": day(39)}, "there is no prediction before it"),
        ({"value": None}, "a correction needs a value"),
        ({"value": 0.0}, "value cannot be a label of this model: '0.0'"),
        ({"verdict": "accepted"}, "value is given, which is for corrected alone"),
        ({"weight": 0.0}, "weight is not above 0 and at most 1: '0.0'"),
        ({"weight": 2.0}, "weight is not above 0"),
        ({"given_at": day(51)}, "it is given in the future"),
    ],
)
def test_a_wrong_record_is_refused_with_tenant_model_entity_and_reason(predicted, record, said):
    with pytest.raises(BadFeedback, match=f"tenant acme, model story_points, A-.*: {said}"):
        say(predicted, **record)
    assert predicted.rows(tables.feedback) == []


def test_a_file_is_stored_and_its_bad_rows_are_set_aside_with_line_and_reason(predicted, tmp_path):
    summary = load(
        predicted,
        tmp_path,
        "A-0239,corrected,5,0.5,ann,2026-02-11",
        "A-0238,Accepted,,,,",
        "A-0237,maybe,,,,",
        "A-0236,corrected,many,,,",
        ",accepted,,,,",
    )
    assert (summary.rows_read, summary.rows_loaded, summary.quarantined) == (5, 2, 3)
    aside = predicted.rows(tables.quarantine)
    assert [(row["line"], row["reason"]) for row in aside] == [
        (4, "verdict is not one of accepted, corrected, rejected: 'maybe'"),
        (5, "value is not a number: 'many'"),
        (6, "entity_id is missing"),
    ]
    assert aside[1]["content"] == "A-0236,corrected,many,,,\n"
    by_entity = {row["entity_id"]: row for row in predicted.rows(tables.feedback)}
    assert (by_entity["A-0238"]["given_by"], by_entity["A-0238"]["given_at"]) == ("a file", day(50))
    assert by_entity["A-0239"]["weight"] == 0.5


def test_the_two_needed_columns_alone_are_a_file(predicted, tmp_path):
    assert load(predicted, tmp_path, "A-0239,accepted", header="entity_id,verdict").rows_loaded == 1


def test_a_file_without_a_usable_row_says_why(predicted, tmp_path):
    with pytest.raises(ImportFailed, match=r"all 1 rows are invalid: there is no prediction before it \(1\)"):
        load(predicted, tmp_path, "A-9,accepted,,,,")


def test_a_corrected_file_forgets_what_was_set_aside(predicted, tmp_path):
    load(predicted, tmp_path, "A-0239,accepted,,,,", "A-0238,maybe,,,,")
    load(predicted, tmp_path, "A-0239,accepted,,,,", "A-0238,accepted,,,,")
    assert predicted.rows(tables.quarantine) == []


def test_what_was_said_after_a_moment_is_not_read_at_it(predicted):
    say(predicted)
    warehouse = Warehouse(predicted.settings)
    assert read_feedback(warehouse, predicted.spec, predicted.name, day(40.5)).empty
    assert read_feedback(warehouse, predicted.spec, predicted.name, day(41))["value"].tolist() == [5.0]


def test_another_tenant_sees_none_of_it(predicted):
    say(predicted)
    with Warehouse(predicted.settings).tenant("globex") as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(tables.feedback)) == 0


def snapshot(tenant) -> pd.DataFrame:
    row = max(tenant.rows(tables.feature_sets), key=lambda row: row["created_at"])
    return Snapshots(tenant.settings).read(row["path"], row["snapshot_hash"], tenant=tenant.name).set_index("entity_id")


def test_feedback_is_no_label_unless_the_specification_says_so(predicted):
    say(predicted)
    report = predicted.train(42, (FEATURES,))
    assert report.done[FEATURES]["labels from feedback"] is None
    assert not {"weight", "feedback"} & set(snapshot(predicted).columns)


def test_with_feedback_the_snapshot_holds_label_and_weight_and_the_entity_is_still_predicted(predicted):
    say(predicted, weight=0.5)
    listening = predicted.changed("label", feedback=True)
    report = listening.train(42)
    assert report.error is None
    row = snapshot(listening).loc["A-0239"]
    assert (row["label"], row["weight"], row["state"], row["feedback"]) == (5.0, 0.5, "matured", "corrected")
    assert report.done[FEATURES]["labels from feedback"] == 1
    assert report.done[FEATURES]["open"] == report.done[PREDICTIONS]["open"]
    assert report.done[MODEL]["rows"] == report.done[FEATURES]["matured"] + 1


def test_to_switch_feedback_on_is_no_other_question(predicted):
    report = predicted.changed("label", feedback=True).train(42)
    assert report.error is None
    assert [version.semantic.split(".")[0] for version in predicted.versions()] == ["1", "1"]


def test_feedback_does_not_make_up_for_missing_outcomes(tenant, make_issues, as_known):
    known = as_known(make_issues(41), PREDICTED)
    tenant.holds(known).train(PREDICTED)
    for number in range(229, 241):
        say(tenant, f"A-{number:04d}")
    short = tenant.changed("label", feedback=True).changed("training", min_rows=230)
    assert short.train(42).done[MODEL]["reason"] == "insufficient_data: 229 of 230 matured samples"
