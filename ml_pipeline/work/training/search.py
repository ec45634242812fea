"""The inputs of the parameter search of a training, and its results as tags, metrics and files of a version."""

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
from ml_pipeline.training.trained import Trained

GAIN, STOPPED = "search_gain", "search_stopped"
SEARCH = "search.json"


@contextmanager
def training_context(
    settings: Settings, spec: ModelSpec, versions: Sequence[Version], pooled: float | None
) -> Iterator[TrainingContext]:
    """The context of one training: gains of the tenant's past searches, processes, pooled outcome.

    ``versions`` are the tenant's, newest first. A search uses one process, and one more for each core that is free when
    it begins, up to ``training.search.processes``. On two cores, a single search uses both; each of five that begin
    together has one process.
    """
    search = spec.training.search
    if search is None:
        yield TrainingContext(pooled=pooled)
        return
    gains = tuple(float(version.tags[GAIN]) for version in reversed(versions) if GAIN in version.tags)
    # Without this preload, every process of the search would import the libraries again.
    get_context("forkserver").set_forkserver_preload(PRELOAD)
    with cores.acquire_cores(settings, search.processes - 1) as more:
        yield TrainingContext(gains, 1 + more, pooled)


def search_tags(trained: Trained) -> dict[str, str]:
    """Tags of a version: the gain, which limits later searches, and the reason for the end of the search."""
    report = trained.search
    if report is None or report.result is None:
        return {}
    return {GAIN: f"{report.gain:.6f}", STOPPED: report.result.stopped}


def search_params(spec: ModelSpec, trained: Trained) -> dict[str, Any]:
    """Parameters of the declared estimator in this version, and the preprocessing that the search selected."""
    if trained.search is None:
        return dict(trained.model.params or spec.training.params)
    found = {f"preprocessing.{name}": value for name, value in trained.search.preprocessing.items()}
    return trained.search.params | found


def search_metrics(trained: Trained) -> dict[str, float]:
    """Number of trials by state, seconds and gain of the search, and the stability of the feature selection."""
    metrics = {} if trained.stability is None else {"selection_stability": trained.stability}
    report = trained.search
    if report is None or report.result is None:
        return metrics
    counts = {f"search_{state}": float(count) for state, count in report.counts.items()}
    gains = {GAIN: report.gain, "search_gain_in_folds": report.result.gain or 0.0}
    return metrics | counts | gains | {"search_seconds": report.seconds, "search_used": float(report.used)}


def write_search(folder: Path, trained: Trained) -> None:
    """Writes every trial to a file of the version; writes nothing without a search."""
    if trained.search is not None:
        (folder / SEARCH).write_text(json.dumps(trained.search.to_dict(), indent=1) + "\n", encoding="utf-8")
