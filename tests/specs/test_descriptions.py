"""Every setting, specification key and policy field has a description: the reference documentation consists of them."""

from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from ml_pipeline.lifecycle.policy import Policy
from ml_pipeline.settings import Settings
from ml_pipeline.specs import ModelSpec


def models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The pydantic models in a type annotation, with those of their fields."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for field in annotation.model_fields.values():
            yield from models(field.annotation)
    for part in get_args(annotation):
        yield from models(part)


@pytest.mark.parametrize("root", [Settings, ModelSpec, Policy])
def test_every_field_has_a_description(root):
    lacking = {
        f"{model.__name__}.{name}"
        for model in models(root)
        for name, field in model.model_fields.items()
        if not field.description
    }
    assert lacking == set()
