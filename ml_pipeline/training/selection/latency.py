"""Latency limit: slow members of an ensemble are dropped until one prediction is fast enough."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace

import numpy as np
import pandas as pd

from ml_pipeline.training.fitted_model import FittedModel
from ml_pipeline.training.selection.model_selection import Predicts, SelectionResult
from ml_pipeline.training.selection.predictors import Ensemble

CALLS = 7


def within_latency(
    selection: SelectionResult, model: FittedModel, rows: pd.DataFrame, most: float
) -> tuple[SelectionResult, FittedModel, list[str]]:
    """Drop members until one prediction takes at most ``most`` milliseconds.

    The slowest member is dropped first, but never the one with the largest weight; the others keep their relative
    weights. Model selection judged all members together; the test part judges the remaining ones. The time is the
    median of 7 predictions of one row by ``model`` on the training machine, so a member close to the limit may be
    dropped in one training and kept in the next.

    Returns
    -------
    SelectionResult, FittedModel
        Both arguments with the remaining members.
    list of str
        Notes on what was dropped, or on a limit that cannot be met.
    """
    if not isinstance(model.predictor, Ensemble) or not isinstance(selection.predictor, Ensemble):
        return selection, model, []
    row, whole = rows.iloc[[-1]], model.predictor
    kept = list(range(len(whole.members)))
    best = int(np.argmax(whole.weights))
    alone = [_milliseconds(whole.only([at]), row) for at in kept]
    first = taken = _milliseconds(whole, row)
    while taken > most and len(kept) > 1:
        kept.remove(max((at for at in kept if at != best), key=lambda at: alone[at]))
        taken = _milliseconds(whole.only(kept), row)
    notes = []
    if dropped := [whole.members[at].name for at in range(len(whole.members)) if at not in kept]:
        notes.append(
            f"left out because one prediction took {first:.1f} ms, more than training.latency_ms {most:g}: "
            f"{', '.join(dropped)}"
        )
    notes += _slow(taken, most)
    names = {whole.members[at].name for at in kept}
    judged = selection.predictor
    positions = [at for at, member in enumerate(judged.members) if member.name in names]
    left = replace(selection, predictor=judged.only(positions), curve=[] if dropped else selection.curve)
    return left, replace(model, predictor=whole.only(kept)), notes


def latency_notes(predictor: Predicts, rows: pd.DataFrame, most: float) -> list[str]:
    """A note if one prediction takes more than ``most`` milliseconds, for a predictor of which nothing is dropped."""
    return _slow(_milliseconds(predictor, rows.iloc[[-1]]), most)


def _slow(taken: float, most: float) -> list[str]:
    if taken <= most:
        return []
    return [f"one prediction takes {taken:.1f} ms, training.latency_ms is {most:g}: raise it or fit less"]


def _milliseconds(ensemble: Predicts, row: pd.DataFrame) -> float:
    ensemble.predict(row)
    seconds = []
    for _ in range(CALLS):
        started = time.perf_counter()
        ensemble.predict(row)
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds)
