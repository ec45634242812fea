"""``preprocessing`` and ``features.selection`` of a specification: one value or a list, and what the search chooses."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ml_pipeline.specs import ModelSpec, Preprocessing, SpecError, choices, load_spec, load_specs, with_choices

LEAD_TIME = Path(__file__).resolve().parents[2] / "ml_pipeline" / "specs" / "models" / "lead_time.yaml"


def said(tmp_path: Path, **keys: object) -> ModelSpec:
    """The shipped lead_time with other preprocessing."""
    path = tmp_path / "model.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(LEAD_TIME.read_text()) | {"preprocessing": keys}))
    return load_spec(path)


@pytest.mark.parametrize("spec", load_specs().values(), ids=lambda spec: spec.name)
def test_a_specification_that_says_nothing_leaves_nothing_open(spec):
    assert choices(spec) == {}


def test_a_list_is_what_the_search_may_choose_from(tmp_path):
    spec = said(tmp_path, missing=["none", "median"], outliers="cap", missing_indicator=[False, True])
    assert choices(spec) == {"missing": ["none", "median"], "missing_indicator": [False, True]}


def test_what_is_chosen_is_fixed_and_the_rest_stays_as_it_was(tmp_path):
    spec = said(tmp_path, missing=["none", "median"], outliers=["none", "cap"], categorical="onehot")
    chosen = with_choices(spec, {"missing": "median"})
    assert chosen.preprocessing == Preprocessing(missing="median", outliers=["none", "cap"], categorical="onehot")
    assert chosen.training == spec.training


@pytest.mark.parametrize("chosen", [{"missing": "knn"}, {"outliers": "robust"}, {"colour": "red"}], ids=str)
def test_a_choice_that_the_specification_does_not_leave_open_is_refused(tmp_path, chosen):
    key, value = next(iter(chosen.items()))
    spec = said(tmp_path, missing=["none", "median"], outliers="cap")
    with pytest.raises(ValueError, match=f"lead_time: preprocessing.{key} cannot be set to '{value}'"):
        with_choices(spec, chosen)


@pytest.mark.parametrize("value", ["mean", [], ["none", "mean"], ["none", "none"], {"none": 1}], ids=str)
def test_a_wrong_value_is_refused_with_those_that_are_allowed(tmp_path, value):
    message = r"preprocessing\.missing: .*: takes one of none, constant, median, knn, iterative, or a list"
    with pytest.raises(SpecError, match=message):
        said(tmp_path, missing=value)


@pytest.mark.parametrize("value", ["target", ["ordinal", "target"]], ids=str)
def test_target_encoding_of_a_column_without_a_history_is_refused(tmp_path, value):
    content = yaml.safe_load(LEAD_TIME.read_text()) | {"preprocessing": {"categorical": value}}
    path = tmp_path / "model.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(SpecError, match=r"which \['priority'\] do not have\. Add them to features\.history"):
        load_spec(path)


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"method": "boruta"}, r"features\.selection\.method: 'boruta'"),
        ({"method": "importance", "keep": 0}, "keep: 0"),
    ],
    ids=["method", "keep"],
)
def test_a_wrong_selection_is_refused(tmp_path, selection, message):
    content = yaml.safe_load(LEAD_TIME.read_text())
    content["features"]["selection"] = selection
    path = tmp_path / "model.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(SpecError, match=message):
        load_spec(path)


def test_open_choices_survive_json(tmp_path):
    spec = said(tmp_path, missing=["none", "median"])
    assert ModelSpec.model_validate_json(spec.model_dump_json()) == spec
