from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from ml_pipeline.specs import ModelSpec, load_specs

AS_OF = pd.Timestamp("2026-01-01", tz="UTC")
WORDS = ("login", "page", "crash", "migrate", "cache", "typo", "report", "export")


def synthetic_frame(spec: ModelSpec, rows: int, seed: int = 0, signal: float = 1.0) -> pd.DataFrame:
    """A feature frame whose label depends on the first numeric column, on a word and on noise."""
    rng = np.random.default_rng(seed)
    columns = spec.feature_columns
    event_time = pd.Timestamp("2024-01-01", tz="UTC") + pd.to_timedelta(np.arange(rows) * 12, unit="h")
    frame = pd.DataFrame(
        {
            "entity_id": [f"E-{i:05d}" for i in range(rows)],
            "event_time": event_time,
            "label_time": event_time + pd.Timedelta(hours=6),
        }
    )
    effect = np.zeros(rows)
    for number, name in enumerate(columns.numeric):
        frame[name] = rng.normal(size=rows)
        effect += frame[name] if number == 0 else 0
    frame["history_recent_median"] = 5.0
    for name in columns.categorical:
        frame[name] = pd.Series(rng.choice(["a", "b", "c"], rows), dtype=object)
    if columns.text:
        words = rng.choice(WORDS, (rows, 4))
        frame["text"] = [" ".join(line) for line in words]
        effect += (words == "crash").any(axis=1)
    noise = rng.normal(size=rows)
    if spec.task == "binary":
        frame["label"] = (signal * effect * 1.5 + noise > 0.5).astype("float64")
    else:
        frame["label"] = np.clip(np.exp(1.5 + signal * effect / 2 + noise / 4), 0.1, 99)
    frame["state"] = "matured"
    return frame


@pytest.fixture(scope="session")
def make_frame() -> Callable[..., pd.DataFrame]:
    return synthetic_frame


@pytest.fixture
def as_of() -> pd.Timestamp:
    return AS_OF


@pytest.fixture(scope="session")
def specs() -> dict[str, ModelSpec]:
    """The shipped specifications with few, shallow trees, so that a fit takes milliseconds, all of them voting."""
    shallow = {"n_estimators": 40, "max_depth": 3, "learning_rate": 0.1}
    voting = {"params": shallow, "ensemble": "voting", "candidates": {"linear": {}}}
    return {
        name: spec.model_copy(update={"training": spec.training.model_copy(update=voting)})
        for name, spec in load_specs().items()
    }


@pytest.fixture
def story_points(specs) -> ModelSpec:
    return specs["story_points"]


@pytest.fixture
def rework_risk(specs) -> ModelSpec:
    return specs["rework_risk"]
