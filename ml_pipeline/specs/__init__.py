"""One YAML file a model, and the ``ModelSpec`` that reads them."""

from ml_pipeline.specs.model_spec import FeatureColumns, ModelSpec, SpecError, load_spec, load_specs

__all__ = ["FeatureColumns", "ModelSpec", "SpecError", "load_spec", "load_specs"]
