"""Files of specifications: a wrong one is refused by name, and the models of the others stay."""

from __future__ import annotations

import os

import pytest
import yaml

from ml_pipeline.specs import SpecError, load_spec, load_specs
from tests.specs.minimal import MINIMAL, changed, written


def test_a_missing_key_is_named(tmp_path):
    content = {key: value for key, value in MINIMAL.items() if key != "title"}
    with pytest.raises(SpecError, match=r"title: is missing. Add it"):
        load_spec(written(tmp_path, content))


def test_every_problem_of_a_file_is_listed(tmp_path):
    with pytest.raises(SpecError, match=r"(?s)name.*task"):
        load_spec(written(tmp_path, MINIMAL | {"name": "X", "task": "ranking"}))


@pytest.mark.parametrize("text", ["a: [", "- one\n- two", ""])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text):
    path = tmp_path / "broken.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError, match=r"broken\.yaml: "):
        load_spec(path)


def test_a_folder_of_further_models_is_read_beside_the_shipped_ones(tmp_path):
    written(tmp_path, MINIMAL)
    assert "points" in load_specs([tmp_path])


def test_the_second_file_for_a_model_is_left_out_and_the_first_one_stays(tmp_path):
    written(tmp_path, MINIMAL | {"name": "story_points"})
    specs = load_specs([tmp_path])
    assert specs["story_points"].title != "Points"
    [(model, error)] = specs.broken
    assert model == "story_points"
    assert error.endswith("'story_points' is also described by another file. Rename one of the two models")


def test_what_is_no_file_or_too_large_for_one_stops_no_model(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "endless.yaml").symlink_to("/dev/zero")
    (tmp_path / "large.yaml").write_text("#" * 1_000_001)
    specs = load_specs([tmp_path])
    assert list(specs) == ["lead_time", "rework_risk", "story_points"]
    assert [broken.model for broken in specs.broken] == ["endless", "large", "pipe"]


def test_a_folder_that_is_not_there_stops_no_model(tmp_path):
    specs = load_specs([tmp_path / "absent"])
    assert list(specs) == ["lead_time", "rework_risk", "story_points"]
    assert specs.broken[0].error == f"{tmp_path / 'absent'}: is not a folder. Correct ML_PIPELINE_SPECS"


@pytest.mark.parametrize(
    "text",
    [
        b"name: [unclosed",
        b"name: broken\ntitle: \xff\xfe",
        b"name: broken\nwhen: 2026-13-45",
        b"",
        b"- a list",
        b"name: broken",
        b"name: broken\nname: broken",
        b"name: 7\n",
        b"a: &a [*a]",
        b"{" * 3000,
        b"name: !!bool foo",
        b'a: !!int ""',
        b"a: !!timestamp foo",
    ],
    ids=[
        "no YAML",
        "no UTF-8",
        "no date",
        "empty",
        "a list",
        "incomplete",
        "a key twice",
        "a number",
        "a circle",
        "deep",
        "a tag without a reading",
        "a tag without a value",
        "a tag of another kind",
    ],
)
def test_a_file_that_can_not_be_used_stops_no_other_model(tmp_path, text):
    (tmp_path / "broken.yaml").write_bytes(text)
    written(tmp_path, MINIMAL)
    specs = load_specs([tmp_path])
    assert list(specs) == ["lead_time", "points", "rework_risk", "story_points"]
    assert [model for model, _ in specs.broken] == ["broken"]
    with pytest.raises(SpecError, match=rf"^{tmp_path}/broken\.yaml: "):
        specs["broken"]


def test_a_file_that_may_not_be_read_stops_no_other_model(tmp_path):
    (tmp_path / "broken.yaml").mkdir()  # also for a user who may read everything
    assert "cannot be read as YAML" in load_specs([tmp_path]).broken[0].error


def test_an_expression_that_is_too_deep_is_refused(tmp_path):
    written(tmp_path, changed("label.value", "(" * 400 + "points" + ")" * 400))
    assert "is not an expression" in load_specs([tmp_path]).broken[0].error


def test_a_key_that_is_given_twice_is_refused_where_the_last_would_have_won(tmp_path):
    text = yaml.safe_dump(MINIMAL).replace("    points:\n", "    points:\n      type: number\n    points:\n", 1)
    (tmp_path / "model.yaml").write_text(text)
    with pytest.raises(SpecError, match=r"'points' is given twice. Remove one of them"):
        load_spec(tmp_path / "model.yaml")
