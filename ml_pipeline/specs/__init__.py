"""Model specifications: ``ModelSpec``, read from one YAML file per model."""

from ml_pipeline.specs.choices import choices, with_choices
from ml_pipeline.specs.loading import BrokenSpec, SpecError, Specs, load_spec, load_specs
from ml_pipeline.specs.model_spec import FeatureColumns, ModelSpec
from ml_pipeline.specs.preprocessing import Preprocessing, Selection

__all__ = [
    "BrokenSpec",
    "FeatureColumns",
    "ModelSpec",
    "Preprocessing",
    "Selection",
    "SpecError",
    "Specs",
    "choices",
    "load_spec",
    "load_specs",
    "with_choices",
]
