import pytest
from pydantic import ValidationError

from ml_pipeline.specs import ModelSpec, load_specs
from ml_pipeline.specs.experts import ONLINE_EXPERTS, kind_and_number


def changed(name: str, **training) -> ModelSpec:
    content = load_specs()[name].model_dump(exclude_none=True)
    content["training"] |= training
    return ModelSpec.model_validate(content)


@pytest.mark.parametrize("name", ["last", "last:0", "last:x", "first:5", "training:3"])
def test_an_unknown_expert_is_named_with_those_that_exist(name):
    with pytest.raises(ValueError, match=f"'{name}' is not an expert. Use one of last:<number>, "):
        kind_and_number(name)


def test_experts_may_be_chosen():
    assert changed("story_points", experts=["training", "last:30"]).training.mixed_experts == ("training", "last:30")
    assert load_specs()["story_points"].training.mixed_experts == ONLINE_EXPERTS


@pytest.mark.parametrize(
    ("name", "training", "message"),
    [
        ("story_points", {"experts": ["last:50"]}, "lacks 'training', the only expert that can forecast before"),
        ("story_points", {"experts": ["training", "training"]}, "'training' occurs more than once"),
        ("story_points", {"experts": ["training", "newest:5"]}, "'newest:5' is not an expert"),
        ("story_points", {"ensemble": "voting", "experts": ["training"]}, "needs training.ensemble 'online' or 'mean'"),
        ("story_points", {"ensemble": "mean"}, "'mean', which is for task 'binary'; the task is 'regression'"),
        ("rework_risk", {"ensemble": "online"}, "'online', which is for task 'regression'; the task is 'binary'"),
        ("rework_risk", {"experts": []}, "training.experts is empty"),
    ],
)
def test_a_mistake_in_the_experts_is_named_with_its_remedy(name, training, message):
    with pytest.raises(ValidationError, match=message):
        changed(name, **training)


@pytest.mark.parametrize("name", ["half_life:7", "forest:100000"])
def test_a_half_life_is_bounded(name):
    with pytest.raises(ValueError, match="Use 30 to 36500"):
        kind_and_number(name)


def test_a_mean_needs_an_expert_that_always_forecasts():
    with pytest.raises(ValidationError, match="Add 'forest:365'"):
        changed("rework_risk", experts=["neighbours:10", "learners"])
