"""What a search is given in a training, and what a version says of it in MLflow."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ml_pipeline.resources import cores
from ml_pipeline.resources.compute import PRELOAD
from ml_pipeline.resources.registry import Version
from ml_pipeline.settings import Settings
from ml_pipeline.specs import ModelSpec
from ml_pipeline.training.search.parameters import TrainingContext
from ml_pipeline.training.train import Trained

GAIN, STOPPED = "search_gain", "search_stopped"
SEARCH = "search.json"


@contextmanager
def training_context(
    settings: Settings, spec: ModelSpec, versions: Sequence[Version], pooled: float | None
) -> Iterator[TrainingContext]:
    """What the training of one piece of work goes by; ``versions`` are the tenant's, newest first.

    Beside the training itself a search has the cores that no other training has taken when it begins: of five that
    begin at once on a machine of two cores each has one process, one alone uses both.
    """
    search = spec.training.search
    if search is None:
        yield TrainingContext(pooled=pooled)
        return
    gains = tuple(float(version.tags[GAIN]) for version in reversed(versions) if GAIN in version.tags)
    # A worker of a run is no fork server's parent yet: its own would import everything again in every process.
    get_context("forkserver").set_forkserver_preload(PRELOAD)
    with cores.acquire_cores(settings, search.processes - 1) as more:
        yield TrainingContext(gains, 1 + more, pooled)


def search_tags(trained: Trained) -> dict[str, str]:
    """Tags of a version: the gain, which later searches go by, and what ended the search."""
    report = trained.search
    if report is None or report.result is None:
        return {}
    return {GAIN: f"{report.gain:.6f}", STOPPED: report.result.stopped}


def search_params(spec: ModelSpec, trained: Trained) -> dict[str, Any]:
    """Parameters of the declared estimator as the version has them, and the preprocessing that the search left."""
    if trained.search is None:
        return dict(trained.model.params or spec.training.params)
    found = {f"preprocessing.{name}": value for name, value in trained.search.preprocessing.items()}
    return trained.search.params | found


def search_metrics(trained: Trained) -> dict[str, float]:
    """Trials by what became of them, seconds and gain, and the stability of selected features."""
    metrics = {} if trained.stability is None else {"selection_stability": trained.stability}
    report = trained.search
    if report is None or report.result is None:
        return metrics
    counts = {f"search_{state}": float(count) for state, count in report.counts.items()}
    gains = {GAIN: report.gain, "search_gain_in_folds": report.result.gain or 0.0}
    return metrics | counts | gains | {"search_seconds": report.seconds, "search_used": float(report.used)}


def write_search(folder: Path, trained: Trained) -> None:
    """Every trial, as a file of the version; nothing without a search."""
    if trained.search is not None:
        (folder / SEARCH).write_text(json.dumps(trained.search.to_dict(), indent=1) + "\n", encoding="utf-8")
