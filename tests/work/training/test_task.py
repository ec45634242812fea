"""One tenant's way from source rows to a version that serves, and what is said where it does not get there."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
import uuid
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import yaml

from ml_pipeline.resources import tables
from ml_pipeline.resources.compute import PRELOAD
from ml_pipeline.resources.registry import CHALLENGER, CHAMPION, PREVIOUS, registered_name
from ml_pipeline.resources.snapshots import Snapshots, content_hash
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.work.retraining.decisions import DecisionRecord, record_decision
from ml_pipeline.work.training import task as training
from ml_pipeline.work.training.task import FEATURES, MODEL, PREDICTIONS, TrainingTask, run_training


def files(version) -> Path:
    return Path(version.source.removeprefix("file://"))


def killed_at(task: TrainingTask, function: str) -> None:
    """Runs in a process of its own and ends it, as a crash would, where ``function`` begins."""
    with mock.patch(f"ml_pipeline.work.training.{function}", lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)):
        run_training(task)


def crash(task: TrainingTask, function: str) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    process = context.Process(target=killed_at, args=(task, function))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


@pytest.fixture
def serving(tenant, make_issues, start_from):
    """A tenant with the issues of 40 days, whose version 1 was trained on day 40 and serves."""

    def trained() -> None:
        assert tenant.holds(make_issues(40)).train(40).error is None

    start_from(trained)
    return tenant


def test_features_are_frozen_under_their_hash_with_a_quality_report(tenant, make_issues):
    report = tenant.holds(make_issues(40)).train(40, (FEATURES,))
    (stored,) = tenant.rows(tables.feature_sets)
    frame = Snapshots(tenant.settings).read(stored["path"], stored["snapshot_hash"], tenant=tenant.name)
    assert report.error is None
    assert content_hash(frame) == stored["snapshot_hash"]
    assert (stored["rows"], stored["matured"]) == (len(frame), (frame["state"] == "matured").sum()) == (240, 229)
    assert len(stored["quality"]["measures"]) == 15
    assert 0 < stored["quality_score"] <= 100


def test_a_version_is_registered_with_everything_that_it_came_from(serving):
    (version,) = serving.versions()
    (snapshot,) = serving.rows(tables.feature_sets)
    assert (version.number, version.semantic, version.tags["parent_version"]) == (1, "1.0.0", "")
    assert version.tags["snapshot_hash"] == snapshot["snapshot_hash"]
    assert version.tags["spec_hash"] == serving.spec.hash
    manifest = json.loads((files(version) / "manifest.json").read_text())
    assert {path.name for path in files(version).iterdir()} == {"manifest.json", *manifest["files"]}


def test_a_version_has_a_card_and_mlflow_shows_its_summary(serving):
    (version,) = serving.versions()
    card = serving.registry.file(version, "card.md").decode()
    shown = serving.registry.client.get_model_version("story_points.acme", "1").description
    run = serving.registry.client.get_run(version.run_id)
    assert card.startswith("# Story points of an issue: acme, version 1.0.0\n")
    assert version.tags["snapshot_hash"] in card
    assert shown in card
    assert run.data.tags["mlflow.note.content"] == shown
    assert f"**{run.data.metrics['mae']:.4g} points**" in shown


def test_a_version_has_plots_where_its_run_asks_for_them(tenant, make_issues):
    task = tenant.holds(make_issues(40)).task(30)
    run_training(dataclasses.replace(task, plots=True))
    tenant.train(40)
    drawn, plain = tenant.versions()
    assert tenant.registry.file(drawn, "plots.png").startswith(b"\x89PNG")
    assert tenant.registry.file(plain, "plots.png") is None


def test_the_card_of_an_update_names_the_version_that_it_goes_on_from(tenant, make_issues, as_known):
    frame = make_issues(60)
    tenant.holds(as_known(frame, 40)).train(40)
    later = tenant.holds(as_known(frame, 60)).task(60)
    assert run_training(dataclasses.replace(later, action="update")).error is None
    card = tenant.registry.file(tenant.versions()[-1], "card.md").decode()
    assert "An update of the serving version 1, without a new model selection." in card
    assert "before the update" in card


def test_the_description_of_a_version_gives_mlflow_its_signature(serving):
    description = yaml.safe_load((files(serving.versions()[0]) / "MLmodel").read_text())
    inputs, outputs = (json.loads(description["signature"][side]) for side in ("inputs", "outputs"))
    assert tuple(column["name"] for column in inputs) == serving.spec.feature_columns.all
    assert [column["name"] for column in outputs] == ["value", "lower", "upper", "baseline", "confidence"]


def test_a_version_that_beats_the_constant_serves_and_the_decision_has_its_numbers(tenant, make_issues):
    report = tenant.holds(make_issues(40)).train(40)
    (decision,) = tenant.rows(tables.decisions)
    (deployment,) = tenant.rows(tables.deployments)
    numbers = decision["numbers"]
    assert tenant.aliases() == {CHAMPION: 1}
    assert (decision["kind"], decision["verdict"], decision["version"]) == ("promote", "promote", 1)
    assert numbers["value"] < numbers["baseline_value"]
    assert numbers["skill"] == pytest.approx(1 - numbers["value"] / numbers["baseline_value"])
    assert report.done[MODEL]["reason"] == decision["reason"] == tenant.versions()[0].tags["decision"]
    assert (deployment["state"], deployment["version"], deployment["replaced"]) == ("done", 1, None)


def test_open_entities_are_scored_with_their_features_and_latency(tenant, make_issues):
    report = tenant.holds(make_issues(40)).train(40)
    made = tenant.rows(tables.predictions)
    assert report.done[PREDICTIONS]["scored"] == len(made) == 11
    row = made[0]
    assert (row["origin"], row["version"], row["predicted_at"]) == ("live", 1, pd.Timestamp("2026-02-10", tz="UTC"))
    assert row["lower"] <= row["value"] <= row["upper"]
    assert row["latency_ms"] > 0
    assert set(row["features"]) == set(tenant.spec.feature_columns.all)


def test_the_same_rows_again_train_register_and_score_nothing(serving):
    before = [serving.rows(table) for table in (tables.predictions, tables.decisions, tables.deployments)]
    with mock.patch.object(training, "train", side_effect=AssertionError("trained again")):
        again = serving.train(40)
    assert again.error is None
    assert again.done[MODEL]["decision"] == "unchanged"
    assert again.done[PREDICTIONS]["scored"] == 0
    assert [serving.rows(table) for table in (tables.predictions, tables.decisions, tables.deployments)] == before
    assert len(serving.versions()) == 1


def test_new_data_gives_a_patch_version_compared_with_the_champion_on_the_same_entities(tenant, make_issues):
    tenant.holds(make_issues(60)).train(40)
    tenant.train(60)
    first, second = tenant.versions()
    decision = tenant.rows(tables.decisions)[-1]
    assert (second.semantic, second.tags["parent_version"]) == ("1.0.1", "1")
    assert decision["numbers"]["champion"] == first.number
    assert decision["numbers"]["pairs"] >= 30
    assert {"mean_loss", "champion_mean_loss", "gain"} <= set(decision["numbers"])
    assert "of champion version 1 on" in decision["reason"]


def test_another_way_of_learning_is_a_minor_version(serving):
    serving.changed("training", params={"n_estimators": 10, "max_depth": 2, "learning_rate": 0.3}).train(40)
    assert [version.semantic for version in serving.versions()] == ["1.0.0", "1.1.0"]


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("features", {"categorical": ["issue_type"], "history": []}),
        ("features", {"categorical": ["issue_type", "team", "reporter"], "text": ["summary"]}),
        ("label", {"unit_size": 2.0}),
    ],
    ids=["fewer features", "more features", "another label"],
)
def test_another_question_is_a_major_version_judged_without_the_champion_of_the_old_one(serving, part, values):
    report = serving.changed(part, **values).train(40)
    assert report.error is None
    assert [version.semantic for version in serving.versions()] == ["1.0.0", "2.0.0"]
    assert report.done[MODEL]["decision"] == "promote"
    assert "champion" not in serving.rows(tables.decisions)[-1]["numbers"]


def test_a_champion_of_another_question_scores_nothing_and_says_why(serving, make_issues):
    changed = serving.changed("features", categorical=["issue_type"], history=[]).changed("gate", min_skill=0.99)
    report = changed.holds(make_issues(41)).train(41)
    assert report.error is None
    assert changed.aliases() == {CHAMPION: 1, CHALLENGER: 2}
    assert report.done[PREDICTIONS]["scored"] == 0
    assert "version 1 does not fit the specification" in report.done[PREDICTIONS]["reason"]


def test_too_few_labels_say_how_many_and_leave_no_version(tenant, make_issues):
    report = tenant.holds(make_issues(40)[:48]).train(40)
    (decision,) = tenant.rows(tables.decisions)
    assert report.error is None
    assert report.done[MODEL]["reason"] == "insufficient_data: 48 of 100 matured samples"
    assert (decision["kind"], decision["verdict"]) == ("train", "insufficient_data")
    assert (decision["numbers"]["matured"], decision["numbers"]["needed"]) == (48, 100)
    assert tenant.versions() == []


def test_a_tenant_without_any_row_has_insufficient_data(tenant):
    report = tenant.train(40)
    assert report.error is None
    assert report.done[MODEL]["reason"] == "insufficient_data: 0 of 100 matured samples"


def test_a_snapshot_of_low_quality_is_not_trained_on(tenant, make_issues):
    report = tenant.changed("gate", min_quality=100.0).holds(make_issues(40)).train(40)
    assert report.done[MODEL]["decision"] == "low_quality"
    assert "of 100, needed 100" in report.done[MODEL]["reason"]
    assert tenant.versions() == []


def test_a_measure_below_its_gate_is_a_stored_decision_with_value_bar_and_remedy(tenant, make_issues):
    rows = make_issues(40).assign(team=None)
    tenant.changed("gate", min_quality_of={"missing": 90.0}).holds(rows).train(40)
    (decision,) = tenant.rows(tables.decisions)
    assert (decision["verdict"], decision["numbers"]["min_missing"]) == ("low_quality", 90.0)
    assert decision["numbers"]["missing"] < 90
    assert decision["reason"].startswith("low_quality: missing ")
    assert "of 100, needed 90: Fill team (100%)" in decision["reason"].replace("reporter (100%), ", "")


def test_the_temporal_patterns_are_stored_with_the_snapshot_and_told(tenant, make_issues):
    report = tenant.holds(make_issues(40)).train(40)
    (snapshot,) = tenant.rows(tables.feature_sets)
    assert snapshot["quality"]["patterns"]["arrivals"]["unit"] == "entities a week"
    assert report.done[FEATURES]["patterns"].startswith("outcomes: ")


def test_a_version_no_better_than_the_constant_stays_challenger_with_the_reason(tenant, make_issues):
    report = tenant.holds(make_issues(40, learnable=False)).train(40)
    assert tenant.aliases() == {CHALLENGER: 1}
    assert report.done[MODEL]["decision"] == "reject"
    assert report.done[MODEL]["reason"].startswith("baseline_not_beaten: ")


def test_a_version_that_misses_the_gate_of_a_business_metric_stays_challenger_and_its_value_is_logged(
    tenant, make_issues
):
    (metric,) = tenant.spec.business_metrics
    strict = metric.model_copy(update={"gate": 1.01})
    gated = dataclasses.replace(tenant, spec=tenant.spec.model_copy(update={"business_metrics": [strict]}))
    report = gated.holds(make_issues(40)).train(40)
    assert gated.aliases() == {CHALLENGER: 1}
    assert report.done[MODEL]["reason"].startswith("gate_not_reached: within_one_point ")
    assert ", needed at least 1.01 (Share estimated within one point)" in report.done[MODEL]["reason"]
    logged = gated.registry.client.get_run(gated.versions()[0].run_id).data.metrics
    assert 0 < logged["baseline_within_one_point"] < logged["within_one_point"] <= 1


def test_an_estimator_that_refuses_its_parameters_is_named_in_the_decision(tenant, make_issues):
    broken = tenant.changed("training", params={"max_depth": -5}, candidates={})
    broken.holds(make_issues(40)).train(40)
    (decision,) = tenant.rows(tables.decisions)
    assert decision["verdict"] == "reject"
    assert "; xgboost failed: " in decision["reason"] and "max_depth" in decision["reason"]


def test_a_snapshot_that_another_run_stores_meanwhile_does_not_mix_with_the_one_trained_on(tenant, make_issues):
    tenant.holds(make_issues(60)).train(40)

    def while_another_run_stands_earlier(*arguments, **named):
        tenant.train(20, (FEATURES,))
        return training_function(*arguments, **named)

    training_function = training.train
    with mock.patch.object(training, "train", while_another_run_stands_earlier):
        report = tenant.train(55)
    assert report.error is None
    assert report.done[MODEL]["decision"] in ("promote", "reject")


def test_without_a_champion_predictions_say_why_there_are_none(tenant, make_issues):
    report = tenant.holds(make_issues(40, learnable=False)).train(40)
    assert report.done[PREDICTIONS] == {"scored": 0, "reason": "no version serves: see the decision about the model"}


def test_a_model_without_a_snapshot_asks_for_its_features_in_one_line_of_the_log(tenant, make_issues, caplog):
    report = tenant.holds(make_issues(40)).train(40, (MODEL,))
    assert report.error == (
        "model: SnapshotUnknown: tenant acme, model story_points: there is no feature snapshot. "
        "Materialize story_points/features for it first"
    )
    (record,) = caplog.records
    assert record.getMessage() == (
        "tenant acme, model story_points: step model failed: " + report.error.removeprefix("model: SnapshotUnknown: ")
    )
    assert (record.exc_info, report.traceback) == (None, "")


@pytest.mark.parametrize(
    "function", ["task.judge_candidate", "judge.record"], ids=["after the registration", "after the alias moved"]
)
def test_a_run_that_was_killed_is_made_good_by_the_next_without_a_second_version(tenant, make_issues, function):
    tenant.holds(make_issues(40))
    crash(tenant.task(40), function)
    assert len(tenant.versions()) == 1
    assert tenant.rows(tables.decisions) == []
    report = tenant.train(40)
    assert report.done[MODEL]["decision"] == "promote"
    assert (len(tenant.versions()), tenant.aliases()) == (1, {CHAMPION: 1})
    assert [row["state"] for row in tenant.rows(tables.deployments)] == ["done"]
    assert [row["version"] for row in tenant.rows(tables.decisions)] == [1]
    assert report.done[PREDICTIONS]["scored"] == 11


def test_a_second_version_that_is_promoted_keeps_the_first_as_previous(tenant, make_issues):
    tenant.holds(make_issues(60)).train(40)
    slower = tenant.changed("training", params={"n_estimators": 60, "max_depth": 3, "learning_rate": 0.3})
    slower.changed("features", text=["summary"]).train(60)
    assert tenant.aliases() == {CHAMPION: 2, PREVIOUS: 1}


def test_a_tampered_version_fails_its_tenant_with_a_critical_alert_and_no_other(tenant, make_issues):
    other = tenant.named("globex")
    for one in (tenant, other):
        one.holds(make_issues(40)).train(40, (FEATURES, MODEL))
    (files(tenant.versions()[0]) / "model.ubj").write_bytes(b"malice")
    report = tenant.train(40, (PREDICTIONS,))
    (alert,) = tenant.rows(tables.alerts)
    assert report.error.startswith(
        "predictions: TamperedArtifact: tenant acme, model story_points, version 1: model.ubj"
    )
    assert (alert["kind"], alert["level"], alert["detail"]["version"]) == ("tampered_artifact", "CRITICAL", 1)
    assert tenant.rows(tables.predictions) == []
    assert other.train(40, (PREDICTIONS,)).done[PREDICTIONS]["scored"] == 11
    assert other.rows(tables.alerts) == []


def test_a_version_of_another_tenant_that_was_copied_in_mlflow_predicts_nothing_and_is_alerted(tenant, make_issues):
    other = tenant.named("globex")
    for one in (tenant, other):
        one.holds(make_issues(40)).train(40, (FEATURES, MODEL))
    (theirs,) = other.versions()
    name = registered_name(tenant.spec.name, tenant.name)
    client = tenant.registry.client
    copy = client.create_model_version(name, theirs.source, theirs.run_id, tags=dict(theirs.tags))
    client.set_registered_model_alias(name, CHAMPION, copy.version)
    report = tenant.train(40, (PREDICTIONS,))
    assert report.error.startswith("predictions: TamperedArtifact: tenant acme, model story_points: version 2 was not")
    (alert,) = tenant.rows(tables.alerts)
    assert (alert["kind"], alert["level"], alert["detail"]["version"]) == ("foreign_version", "CRITICAL", 2)
    assert tenant.rows(tables.predictions) == []


def test_nothing_after_as_of_is_visible(tenant, make_issues, as_known):
    whole, then = tenant.named("whole"), tenant.named("then")
    whole.holds(make_issues(60)).train(40)
    then.holds(as_known(make_issues(60), 40)).train(40)
    assert whole.rows(tables.feature_sets)[0]["snapshot_hash"] == then.rows(tables.feature_sets)[0]["snapshot_hash"]
    assert [(row["entity_id"], row["value"]) for row in whole.rows(tables.predictions)] == [
        (row["entity_id"], row["value"]) for row in then.rows(tables.predictions)
    ]


def test_a_champion_does_not_predict_at_a_moment_before_its_own_training(tenant, make_issues):
    tenant.holds(make_issues(60)).train(60)
    before = len(tenant.rows(tables.predictions))
    report = tenant.train(40, (PREDICTIONS,))
    assert report.error is None
    assert report.done[PREDICTIONS]["scored"] == 0
    assert "version 1 was trained on what was known at 2026-03-02" in report.done[PREDICTIONS]["reason"]
    assert len(tenant.rows(tables.predictions)) == before


def test_a_version_that_stands_earlier_is_not_promoted_over_the_champion(tenant, make_issues):
    tenant.holds(make_issues(60)).train(60)
    report = tenant.train(40)
    assert report.error is None
    assert report.done[MODEL]["decision"] == "reject"
    assert report.done[MODEL]["reason"].startswith(
        "older_than_champion: version 1 was trained on what was known at 2026-03-02"
    )
    assert tenant.aliases()["champion"] == 1


def test_a_champion_that_lost_to_the_constant_gives_way_to_it(tenant, make_issues):
    """The types lose their meaning: any issue has one point or two, which no model can foresee."""
    frame = make_issues(160)
    later = frame["created_at"] > frame["created_at"].iloc[0] + pd.Timedelta(days=40)
    tenant.holds(frame).train(40)
    frame.loc[later, "story_points"] = np.random.default_rng(1).choice([1.0, 2.0], later.sum())
    since = (frame["created_at"].iloc[0] + pd.Timedelta(days=40)).date().isoformat()
    decision = decided(tenant, since)
    report = run_training(dataclasses.replace(tenant.holds(frame).task(70), decision=decision))
    assert report.error is None
    champion, constant = tenant.aliases()[CHAMPION], tenant.versions()[-1]
    (judged,) = tenant.rows(tables.decisions, kind="promote", version=constant.number)
    assert (champion, constant.tags["candidate"], judged["verdict"]) == (constant.number, "median", "fall_back")
    assert judged["reason"].startswith("champion_worse_than_baseline: the baseline has mean loss ")
    assert constant.tags["changed_at"].startswith(since)
    assert tenant.aliases()[PREVIOUS] == 1
    again = run_training(dataclasses.replace(tenant.task(70), decision=decision))
    assert again.done[MODEL]["decision"] == "unchanged"
    assert len(tenant.versions()) == len({version.tags["key"] for version in tenant.versions()})


def decided(tenant, since: str) -> str:
    """The identifier of an approved retraining, for outcomes that changed on a day."""
    identifier, now = uuid.uuid4(), pd.Timestamp.now("UTC").to_pydatetime()
    numbers = {"trigger": "degradation", "severity": "CRITICAL", "since": since, "action": "train"}
    with Warehouse(tenant.settings).tenant(tenant.name) as connection:
        record = DecisionRecord(
            tenant.name,
            tenant.spec.name,
            kind="retrain",
            verdict="retrain",
            reason="the loss rose",
            as_of=now,
            numbers=numbers,
            decision_id=identifier,
            state="approved",
        )
        record_decision(connection, record)
    return str(identifier)


def test_a_model_whose_feature_is_the_label_is_not_trained_and_says_which(tenant, make_issues):
    rows = make_issues(40)
    copy = rows["story_points"].map("{:.0f}".format)
    report = tenant.changed("features", categorical=["team"], history=[]).holds(rows.assign(team=copy)).train(40)
    assert report.done[MODEL]["decision"] == "low_quality"
    assert "'team' equals the label in 100.0% of the rows. Remove it from features" in report.done[MODEL]["reason"]
    assert tenant.versions() == []
