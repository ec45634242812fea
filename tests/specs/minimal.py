"""A specification with as few keys as possible, for tests that change one of them."""

from __future__ import annotations

from pathlib import Path

import yaml

MINIMAL = {
    "name": "points",
    "title": "Points",
    "task": "regression",
    "source": {
        "table": "source.items",
        "entity": "key",
        "event_time": "created_at",
        "columns": {
            "team": {"type": "category"},
            "kind": {"type": "category", "known_at": "label"},
            "size": {"type": "number"},
            "title": {"type": "text"},
            "done_at": {"type": "time", "known_at": "label"},
            "points": {"type": "number", "known_at": "label"},
        },
    },
    "label": {"value": "points", "time": "done_at"},
    "features": {"categorical": ["team"]},
    "training": {"estimator": "xgboost", "loss": "absolute_error"},
}


def changed(key: str, value: object) -> dict:
    """The minimal specification with the value at a dotted key replaced."""
    content = yaml.safe_load(yaml.safe_dump(MINIMAL))
    *path, last = key.split(".")
    part = content
    for name in path:
        part = part.setdefault(name, {})
    part[last] = value
    return content


def written(folder: Path, content: object, name: str = "model.yaml") -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path
