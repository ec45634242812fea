"""Shared by the benchmarks: arguments, the Jira exports as source rows, a table, and the last line of JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ml_pipeline.specs import ModelSpec

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
PACKAGES = ("numpy", "pandas", "scikit-learn", "xgboost", "lightgbm")
QUICK_TENANTS = 4
AFTER_EVERYTHING = pd.Timestamp("2100-01-01", tz="UTC")


def parse_arguments(description: str, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """``--data``, ``--seed``, ``--quick`` and ``--json``, the same in every benchmark."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, default=DATA, help="folder laid out like the shared data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help=f"the {QUICK_TENANTS} smallest tenants only")
    parser.add_argument("--json", type=Path, help="also write the last line to this file")
    return parser.parse_args(arguments)


def jira_tenants(data: Path) -> Iterator[tuple[str, pd.DataFrame]]:
    """The exports under ``data``/jira with their tenants, smallest file first, with aware times.

    Raises
    ------
    SystemExit
        If there is no export.
    """
    paths = sorted((data / "jira").glob("*.csv.gz"), key=lambda path: (path.stat().st_size, path.name))
    if not paths:
        raise SystemExit(f"{data / 'jira'} contains no *.csv.gz. Set --data to a folder laid out like the shared data")
    for path in paths:
        issues = pd.read_csv(path)
        for column in ("created_at", "resolved_at"):
            issues[column] = pd.to_datetime(issues[column], utc=True)
        yield path.name.removesuffix(".csv.gz"), issues


def source_rows(spec: ModelSpec, export: pd.DataFrame) -> pd.DataFrame:
    """The columns that the specification reads; columns that the export does not have contain missing values."""
    rows = export.reindex(columns=list(spec.source_columns))
    for name, column in spec.source.columns.items():
        if column.type in ("text", "category"):
            rows[name] = rows[name].astype(object).where(rows[name].notna(), None)
        elif column.type == "time":
            rows[name] = pd.to_datetime(rows[name], utc=True)
    return rows


def mean_absolute_error(label: np.ndarray, value: np.ndarray | float) -> float:
    return float(np.abs(label - value).mean())


def gain_over_tenants(loss: np.ndarray, reference: np.ndarray, seed: int, resamples: int = 2_000) -> dict[str, float]:
    """Mean over tenants of 1 - loss / reference, with its 95% bootstrap interval over tenants."""
    gain = 1 - loss / reference
    drawn = np.random.default_rng(seed).integers(0, len(gain), (resamples, len(gain)))
    lower, upper = np.quantile(gain[drawn].mean(axis=1), [0.025, 0.975])
    return {"gain": float(gain.mean()), "gain_lower": float(lower), "gain_upper": float(upper)}


def print_table(rows: list[dict[str, Any]]) -> None:
    """One line per row; numbers with three decimals."""
    print(pd.DataFrame(rows).to_string(index=False, float_format=lambda number: f"{number:.3f}"))


def print_result(figures: dict[str, Any], seed: int, path: Path | None) -> None:
    """The last line: every figure, the seed and the packages' versions, as JSON."""
    line = json.dumps(figures | {"seed": seed, "packages": {name: version(name) for name in PACKAGES}}, allow_nan=False)
    if path is not None:
        path.write_text(line + "\n", encoding="utf-8")
    print(line)
