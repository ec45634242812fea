"""One YAML file a model, and the ``ModelSpec`` that reads them."""

from ml_pipeline.specs.model_spec import FeatureColumns, ModelSpec, SpecError, load_spec, load_specs
from ml_pipeline.specs.preprocessing import Preprocessing, Selection, choices, with_choices

__all__ = [
    "FeatureColumns",
    "ModelSpec",
    "Preprocessing",
    "Selection",
    "SpecError",
    "choices",
    "load_spec",
    "load_specs",
    "with_choices",
]
