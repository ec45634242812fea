"""Specifications and source rows for the tests of the pure feature functions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ml_pipeline.specs import ModelSpec, load_specs

JIRA = Path(__file__).resolve().parents[2] / "../shared/data/jira"
WORDS = ("login", "page", "crash", "migrate", "cache", "typo", "report", "export")
ABSENT = {"issue_type": None, "team": None, "reporter": None, "priority": None, "summary": "a summary"}
UNTIMED = {"description": None, "estimated_at": None, "resolved_at": None, "story_points": None}


@pytest.fixture(scope="session")
def specs() -> dict[str, ModelSpec]:
    return load_specs()


@pytest.fixture(scope="session")
def story_points(specs) -> ModelSpec:
    return specs["story_points"]


@pytest.fixture(scope="session")
def lead_time(specs) -> ModelSpec:
    return specs["lead_time"]


@pytest.fixture(scope="session")
def everything(specs) -> dict[str, ModelSpec]:
    """The models of issues with every family of ``features.temporal``; ``story_points`` and ``lead_time``."""

    def chosen(spec: ModelSpec) -> ModelSpec:
        content = spec.model_dump(mode="json")
        content["source"]["columns"]["effort"] = {"type": "number"}
        families = ("calendar", "business", "cyclical", "fourier", "lags", "rolling", "expanding", "trend", "queue")
        transforms = ("log1p", "sqrt", "rank", "zscore")
        content["features"] |= {
            "numeric": ["effort"],
            "temporal": dict.fromkeys(families, True)
            | {transform: ["effort"] for transform in transforms}
            | {"polynomial": ["effort", "history_mean"], "interactions": [["effort", "calendar_hour"]]}
            | {"country": "CZ", "time_zone": "Europe/Prague"},
        }
        return ModelSpec.model_validate(content)

    return {name: chosen(specs[name]) for name in ("story_points", "lead_time")}


@pytest.fixture(scope="session")
def issues() -> Callable[..., pd.DataFrame]:
    """Rows of source.issues: one per keyword dictionary, keyed A-1, A-2, ... unless it names its key."""

    def make(*given: dict) -> pd.DataFrame:
        rows = pd.DataFrame(
            [{"issue_key": f"A-{number}", **ABSENT, **UNTIMED, **row} for number, row in enumerate(given, start=1)],
            columns=["issue_key", "created_at", *ABSENT, *UNTIMED],
        )
        for column in ("created_at", "estimated_at", "resolved_at"):
            rows[column] = pd.to_datetime(rows[column], utc=True).dt.as_unit("us")
        rows["story_points"] = rows["story_points"].astype("float64")
        return rows

    return make


@pytest.fixture(scope="session")
def real_issues() -> pd.DataFrame:
    """A real project with all its oddities; its export names no reporter, so the issue type stands in for one."""
    path = JIRA / "MULE.csv.gz"
    if not path.exists():
        pytest.skip(f"needs {path.name} of the shared data, which this machine does not have")
    rows = pd.read_csv(path)
    for column in ("created_at", "resolved_at"):
        rows[column] = pd.to_datetime(rows[column], utc=True)
    rows["estimated_at"] = pd.Series(pd.NaT, index=rows.index, dtype="datetime64[us, UTC]")
    return rows.assign(team=None, priority=None, reporter=rows["issue_type"])


@pytest.fixture(scope="session")
def make_frame() -> Callable[..., pd.DataFrame]:
    """A matured feature frame of a specification: normal numbers, three levels a category, four words a text.

    The label is the first numeric column, 1 more where the text says "crash", and a little noise; binary: above 0.5.
    """

    def make(spec: ModelSpec, rows: int, seed: int = 0) -> pd.DataFrame:
        rng = np.random.default_rng(seed)
        columns = spec.feature_columns
        event_time = pd.Timestamp("2024-01-01", tz="UTC") + pd.to_timedelta(np.arange(rows) * 12, unit="h")
        frame = pd.DataFrame({"entity_id": [f"E-{i:05d}" for i in range(rows)], "event_time": event_time})
        frame = frame.assign(label_time=event_time + pd.Timedelta(hours=6), state="matured")
        for name in columns.numeric:
            frame[name] = rng.normal(size=rows)
        for name in columns.categorical:
            frame[name] = pd.Series(rng.choice(["a", "b", "c"], rows), dtype=object)
        label = frame[columns.numeric[0]] + rng.normal(scale=0.25, size=rows)
        if columns.text:
            frame["text"] = [" ".join(words) for words in rng.choice(WORDS, (rows, 4))]
            label = label + frame["text"].str.contains("crash")
        return frame.assign(label=(label > 0.5).astype("float64") if spec.task == "binary" else label + 10)

    return make


@pytest.fixture(scope="session")
def claims() -> ModelSpec:
    """A specification with two numbers, two categories and a text, trained by absolute error."""
    columns = {
        "size": {"type": "number"},
        "cost": {"type": "number"},
        "team": {"type": "category"},
        "kind": {"type": "category"},
        "title": {"type": "text"},
        "done_at": {"type": "time", "known_at": "label"},
        "effort": {"type": "number", "known_at": "label"},
    }
    return ModelSpec.model_validate(
        {
            "name": "claims",
            "title": "Effort of a claim",
            "task": "regression",
            "source": {"table": "shop.claims", "entity": "key", "event_time": "filed_at", "columns": columns},
            "label": {"value": "effort", "time": "done_at"},
            "features": {
                "numeric": ["size", "cost"],
                "categorical": ["team", "kind"],
                "text": ["title"],
                "text_components": 4,
                "history": ["team", "kind"],
                "calendar": False,
            },
            "training": {"estimator": "lightgbm", "loss": "absolute_error"},
        }
    )
