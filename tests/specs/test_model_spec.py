"""Specifications: what the shipped ones say, and that a wrong one is refused with file, key, value and remedy."""

from __future__ import annotations

import pandas as pd
import pytest

from ml_pipeline.specs import ModelSpec, SpecError, load_spec, load_specs
from ml_pipeline.specs.model_spec import TENANT_HISTORY
from tests.specs.minimal import MINIMAL, changed, written


def test_the_package_describes_three_models():
    assert list(load_specs()) == ["lead_time", "rework_risk", "story_points"]


@pytest.mark.parametrize("spec", load_specs().values(), ids=lambda spec: spec.name)
def test_no_shipped_model_has_a_feature_known_at_label_time(spec):
    label_columns = {name for name, column in spec.source.columns.items() if column.known_at == "label"}
    assert not label_columns & set(spec.feature_columns.all)


@pytest.mark.parametrize("spec", load_specs().values(), ids=lambda spec: spec.name)
def test_a_specification_survives_json(spec):
    assert ModelSpec.model_validate_json(spec.model_dump_json()) == spec


def test_feature_columns_follow_from_the_chosen_features():
    chosen = {"text": ["title"], "categorical": ["team"], "numeric": ["size"], "calendar": False, "history": ["team"]}
    columns = ModelSpec.model_validate(changed("features", chosen)).feature_columns
    team = ("history_team_known", "history_team_mean", "history_team_open")
    assert columns.numeric == ("size", "title_chars", "title_words", *TENANT_HISTORY, *team)
    assert (columns.categorical, columns.text) == (("team",), ("text",))


def test_temporal_columns_follow_those_that_were_there_and_products_come_last():
    temporal = {"calendar": True, "queue": True, "polynomial": ["history_mean"], "rank": ["size"]}
    chosen = {"numeric": ["size"], "history": ["team"], "temporal": temporal}
    numeric = ModelSpec.model_validate(changed("features", chosen)).feature_columns.numeric
    without = ModelSpec.model_validate(changed("features", chosen | {"temporal": {}})).feature_columns.numeric
    assert numeric[: len(without)] == without
    assert numeric[-2:] == ("history_size_rank", "history_mean_x_history_mean")
    assert len(set(numeric)) == len(numeric)
    assert {"calendar_is_weekend", "history_team_in_progress_30d"} <= set(numeric)


def with_columns(features: dict, **columns: str) -> dict:
    """The minimal specification with these features, and further source columns of these types."""
    content = changed("features", features)
    content["source"]["columns"] |= {name: {"type": kind} for name, kind in columns.items()}
    return content


def test_a_source_column_named_as_a_column_of_the_frame_is_a_feature_beside_it():
    chosen = {"numeric": ["calendar_half", "weight"], "categorical": ["state"], "temporal": {"calendar": True}}
    columns = ModelSpec.model_validate(
        with_columns(chosen, calendar_half="number", weight="number", state="category")
    ).feature_columns
    assert columns.numeric[:2] == ("column.calendar_half", "column.weight")
    assert "calendar_half" in columns.numeric
    assert columns.categorical == ("column.state",)


@pytest.mark.parametrize(
    ("features", "columns", "owners"),
    [
        (
            {"text": ["note"], "numeric": ["note_chars"]},
            {"note": "text", "note_chars": "number"},
            "features.numeric 'note_chars' and the lengths of features.text 'note' both give the feature 'note_chars'",
        ),
        (
            {"numeric": ["age", "age_is_missing"]},
            {"age": "number", "age_is_missing": "number"},
            "features.numeric 'age_is_missing' and the flag of missing values of 'age' both give",
        ),
        (
            {"numeric": ["size", "size_log1p"], "temporal": {"log1p": ["size"]}},
            {"size_log1p": "number"},
            "features.numeric 'size_log1p' and features.temporal.log1p of 'size' both give",
        ),
        (
            {"numeric": ["size", "size_x_size"], "temporal": {"polynomial": ["size"]}},
            {"size_x_size": "number"},
            "features.numeric 'size_x_size' and features.temporal's product of 'size' and 'size' both give",
        ),
        (
            {"history": ["rolling_3d"], "temporal": {"rolling": True}},
            {"rolling_3d": "category"},
            "features.history of 'rolling_3d' and the tenant's history both give the feature 'history_rolling_3d_mean'",
        ),
    ],
)
def test_two_things_that_make_one_feature_are_refused_with_both_names(features, columns, owners):
    with pytest.raises(ValueError, match=owners):
        ModelSpec.model_validate(with_columns(features, **columns))


def test_the_hash_does_not_change_with_temporal_features_that_are_all_off():
    assert "temporal" not in ModelSpec.model_validate(MINIMAL).model_dump_json()
    assert ModelSpec.model_validate(changed("features.temporal", {"lags": True})).hash != (
        ModelSpec.model_validate(MINIMAL).hash
    )


def test_a_specification_in_another_country_is_another_specification():
    spec = ModelSpec.model_validate(changed("features.temporal", {"business": True, "country": "CZ"}))
    assert spec.in_place(None, None) == spec
    moved = spec.in_place("US", "America/New_York")
    assert (moved.features.temporal.country, moved.features.temporal.time_zone) == ("US", "America/New_York")
    assert moved.hash != spec.hash
    assert moved.feature_columns == spec.feature_columns
    weeks = ModelSpec.model_validate(changed("features.temporal", {"calendar": True}))
    assert weeks.in_place("US", None) == weeks


def test_label_times_have_a_column_and_a_delay():
    spec = ModelSpec.model_validate(changed("label.time", ["done_at", "created_at + 14d"]))
    assert spec.label.times == [("done_at", pd.Timedelta(0)), ("created_at", pd.Timedelta(days=14))]


def test_source_columns_begin_with_entity_and_event_time():
    spec = ModelSpec.model_validate(MINIMAL)
    assert spec.source_columns == ("key", "created_at", "team", "kind", "size", "title", "done_at", "points")


def test_the_hash_changes_with_what_the_specification_says():
    first = ModelSpec.model_validate(MINIMAL)
    assert first.hash == ModelSpec.model_validate(MINIMAL).hash
    assert first.hash != ModelSpec.model_validate(changed("training.seed", 1)).hash


@pytest.mark.parametrize(
    ("task", "loss", "metric"), [("regression", "squared_error", "mae"), ("binary", "log_loss", "brier")]
)
def test_the_headline_metric_follows_from_the_task(task, loss, metric):
    content = changed("training.loss", loss) | {"task": task}
    assert ModelSpec.model_validate(content).headline_metric == metric


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("name", "Story Points", "name: 'Story Points': use at most 63 lower-case letters"),
        ("task", "ranking", "task: 'ranking'"),
        ("colour", "red", r"colour: is not a key of a specification \(value 'red'\). Remove it"),
        ("source.table", "items", "source.table: 'items': write it as schema.name"),
        ("source.table", "source.items; drop table x", "write it as schema.name"),
        ("features.numeric", ["points"], "'points', which is known only at label time"),
        (
            "features.numeric",
            ["weight"],
            "'weight', which source.columns does not declare. Declare it there or remove it",
        ),
        ("features.numeric", ["team"], "'team', a column of type category; this list takes number or boolean"),
        ("features.categorical", ["team", "team"], "features.categorical names 'team' more than once"),
        ("features.numeric", ["size", "size"], "features.numeric names 'size' more than once"),
        (
            "label.value",
            "kind == 1",
            "compares a text with a number, .* Declare 'kind' as boolean if it contains true and false",
        ),
        ("label.value", "not kind", "needs a number or a condition; 'kind' is a text"),
        ("label.value", "done_at", "'done_at' is a time, not a number or a condition"),
        ("label.value", "done_at + created_at", "computes with a time and a time; only two numbers"),
        ("label.value", "kind in ['a', 2]", "compares a text with a number"),
        ("label.value", "max(points, done_at)", "compares a number with a time"),
        ("source.entity", "size", "source.entity names 'size', which source.columns declares as number"),
        ("source.columns.open", {"type": "bool"}, "source.columns.open.type: 'bool'"),
        ("source.include", {"points": ["1"]}, "source.include filters by 'points', which is known only at label time"),
        ("source.require", ["weight"], "source.require names 'weight', which source.columns does not declare"),
        ("label.value", "points +", "'points .' is not an expression"),
        ("label.value", "weight", "label.value names 'weight'"),
        ("label.time", "done_at + 2 weeks", "must be written as 'column' or 'column . 14d'"),
        ("label.time", "team", "label.time names 'team', which is a category column, not a time"),
        ("features.temporal", {"business": True}, "features.temporal.business needs a country. Add"),
        (
            "features.temporal",
            {"country": "XX"},
            "features.temporal.country: 'XX': no holiday calendar for 'XX'. Write",
        ),
        ("features.temporal", {"time_zone": "Mars"}, "unknown time zone 'Mars'. Write an IANA name"),
        (
            "features.temporal",
            {"log1p": ["size"]},
            "features.temporal.log1p names 'size', which is not in features.numeric",
        ),
        (
            "features.temporal",
            {"polynomial": ["size"]},
            "polynomial names 'size', which is not a numeric column of the frame",
        ),
        ("features.temporal", {"polynomial": ["history_open"]}, "'history_open', a count that grows with time"),
        ("training.loss", "log_loss", "a regression takes absolute_error or squared_error"),
        ("task", "binary", "a binary model takes log_loss"),
        ("monitoring.baseline_to", 5, "needs baseline_from > baseline_to >= current"),
        ("training.test_share", 0.9, "training.test_share: 0.9"),
    ],
)
def test_a_wrong_value_is_refused_with_file_key_and_remedy(tmp_path, key, value, message):
    path = written(tmp_path, changed(key, value))
    with pytest.raises(SpecError, match=message) as caught:
        load_spec(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("features", {"numeric": ["size"]}, "features.numeric names 'size', which label.value uses"),
        ("features", {"categorical": ["team"], "history": ["team"]}, "'team', which label.value uses"),
        ("features", {"history": ["team"]}, "features.history names 'team', which label.value uses"),
        ("features", {"text": ["title"]}, "features.text names 'title', which label.value uses"),
    ],
)
def test_the_label_is_no_feature_whatever_it_is_said_to_be_known_at(key, value, said):
    content = changed(key, value)
    content["label"]["value"] = ["points", "size > 2", "team == 'a'", "title == 'b'"]
    with pytest.raises(ValueError, match=said):
        ModelSpec.model_validate(content)


def test_nothing_is_searched_for_unless_the_specification_says_so():
    assert ModelSpec.model_validate(MINIMAL).training.search is None


def test_a_search_takes_ranges_and_choices_in_place_of_the_usual_space():
    space = {"max_depth": [3, 8], "booster": ["gbtree", "dart"]}
    search = ModelSpec.model_validate(changed("training.search", {"trials": 20, "space": space})).training.search
    assert (search.trials, search.space) == (20, space)


@pytest.mark.parametrize(
    ("search", "message"),
    [
        (
            {"space": {"max_depth": [8, 3]}},
            "training.search.space: .* max_depth is a range from 8 to 3. Give the lower",
        ),
        ({"space": {"max_depth": []}}, "max_depth has no values"),
        ({"space": {"booster": ["dart", "dart"]}}, "booster repeats a value"),
        ({"split": "grouped"}, "search.split is 'grouped' and search.group is None"),
        ({"group": "team"}, "search.split is 'expanding' and search.group is 'team'"),
        ({"split": "grouped", "group": "squad"}, "training.search.group names 'squad', which source.columns does not"),
        ({"folds": 1}, "training.search.folds: 1: "),
        ({"budget": 5}, "training.search.budget: is not a key of a specification"),
    ],
)
def test_a_search_that_cannot_be_made_is_refused_with_its_key(tmp_path, search, message):
    with pytest.raises(SpecError, match=message):
        load_spec(written(tmp_path, changed("training.search", search)))


def test_a_gate_of_an_unknown_quality_measure_is_refused_by_name(tmp_path):
    with pytest.raises(
        SpecError, match=r"gate\.min_quality_of: .*'completenes' is not a dimension .* one of completeness"
    ):
        load_spec(written(tmp_path, changed("gate.min_quality_of", {"completenes": 50})))


def test_a_quality_gate_beyond_100_is_refused(tmp_path):
    with pytest.raises(SpecError, match=r"gate\.min_quality_of\.leakage: 200"):
        load_spec(written(tmp_path, changed("gate.min_quality_of", {"leakage": 200})))


METRIC = {"name": "close", "title": "Share within one point", "value": "abs(outcome - prediction) <= 1"}


def test_a_business_metric_is_a_mean_of_which_more_is_better_without_a_gate():
    (metric,) = ModelSpec.model_validate(changed("business_metrics", [METRIC])).business_metrics
    assert (metric.aggregate, metric.better, metric.gate) == ("mean", "higher", None)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "mae"}, r"business_metrics\.0\.name: 'mae': is the name of a technical metric"),
        ({"name": "baseline_close"}, "is the name of a technical metric"),
        ({"name": "Close"}, r"business_metrics\.0\.name: 'Close'"),
        ({"value": "forecast - outcome"}, "names 'forecast'; it can use prediction, outcome, baseline"),
        ({"value": "outcome ** 2"}, "which expressions do not support"),
        ({"value": "outcome < 'five'"}, "cannot be computed from numbers"),
        ({"better": "more"}, r"business_metrics\.0\.better"),
        ({"goal": 1}, r"business_metrics\.0\.goal: is not a key"),
    ],
)
def test_a_wrong_business_metric_is_refused_with_key_and_reason(tmp_path, change, said):
    with pytest.raises(SpecError, match=said):
        load_spec(written(tmp_path, changed("business_metrics", [METRIC | change])))


def test_two_business_metrics_of_one_name_are_refused(tmp_path):
    with pytest.raises(SpecError, match="two metrics are named 'close'"):
        load_spec(written(tmp_path, changed("business_metrics", [METRIC, METRIC])))
