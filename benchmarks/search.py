"""Seconds of a search of 100 trials x 3 folds with XGBoost, in one process and in two."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.common import parse_arguments, print_result, print_table
from ml_pipeline.resources.compute import PRELOAD
from ml_pipeline.specs.search import Search
from ml_pipeline.training.learners.base import fit_learner
from ml_pipeline.training.learners.data import FitData
from ml_pipeline.training.search.search import search
from ml_pipeline.training.search.spaces import space_of
from ml_pipeline.training.search.trials import SearchResult
from ml_pipeline.training.splits import Fold, folds

ROWS, FEATURES, FOLDS = 1_000, 60, 3
TRIALS, QUICK_TRIALS = 100, 20
ROUNDS, QUICK_ROUNDS = 3, 1
PROCESSES = 2
RANGES: dict[str, list[bool | int | float | str]] = {"n_estimators": [50, 200], "max_depth": [2, 6]}
DECLARED = {"n_estimators": 100, "max_depth": 4, "learning_rate": 0.1}
SPACE = space_of("xgboost", RANGES)


class Fits:
    """Mean absolute error of a booster in a fold of rows whose target is partly predictable."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.matrix = random.normal(size=(ROWS, FEATURES)).astype("float32")
        noise = random.normal(size=ROWS)
        self.target = 10 + 2 * self.matrix[:, 0] + self.matrix[:, 1] * self.matrix[:, 2] + noise
        self.folds = _folds()

    def __call__(self, params: dict[str, Any], fold: int) -> float:
        part = self.folds[fold]
        matrix, target = self.matrix[part.train], self.target[part.train]
        learner = fit_learner("xgboost", params, "absolute_error", FitData(matrix, target, 0))
        predicted = learner.margin(self.matrix[part.validation])
        return float(np.abs(predicted - self.target[part.validation]).mean())


def no_fit(params: dict[str, Any], fold: int) -> float:
    """A loss without computation, so that only the search itself is measured."""
    return fold + float(params["learning_rate"])


def wait(params: dict[str, Any], fold: int) -> float:
    """Sleeps as long as a fit takes, so that the overhead of the search is measured also on a busy machine."""
    time.sleep(params["n_estimators"] * params["max_depth"] / 12_000)
    return fold + float(params["learning_rate"])


def _folds() -> list[Fold]:
    days = pd.date_range("2024-01-01", periods=ROWS, freq="h", tz="UTC")
    frame = pd.DataFrame({"entity_id": np.arange(ROWS).astype(str), "event_time": days, "label_time": days})
    return folds(frame, "expanding", FOLDS)


class Runs:
    """Searches of one size, each with its seconds and the load of the machine before it."""

    def __init__(self, trials: int, seed: int) -> None:
        self.trials = trials
        self.seed = seed
        self.fits = Fits(seed)
        self.rows: list[dict[str, Any]] = []

    def search(self, run: str, processes: int, **more: Any) -> SearchResult:
        settings = Search(trials=self.trials, processes=processes, pruning=more.pop("pruning", None))
        objective = more.pop("objective", self.fits)
        load, started = os.getloadavg()[0], time.perf_counter()
        result = search(objective, SPACE, DECLARED, settings, seed=self.seed, **more)
        self._add(run, started, load)
        return result

    def ceiling(self, result: SearchResult) -> None:
        """The same fits in two processes without a search: the current capacity of the machine."""
        context = multiprocessing.get_context("forkserver")
        jobs = [(trial.params, fold) for trial in result.trials for fold in range(FOLDS)]
        load, started = os.getloadavg()[0], time.perf_counter()
        with ProcessPoolExecutor(PROCESSES, context, initializer=_receive, initargs=(self.fits,)) as pool:
            list(pool.map(_fit, *zip(*jobs, strict=True), chunksize=3))
        self._add("bare fits, 2 processes", started, load)

    def _add(self, run: str, started: float, load: float) -> None:
        seconds = time.perf_counter() - started
        self.rows.append({"run": run, "seconds": seconds, "load_before": load})


_received: list[Fits] = []


def _receive(fits: Fits) -> None:
    _received[:] = [fits]


def _fit(params: dict[str, Any], fold: int) -> float:
    return _received[0](params, fold)


def measured(runs: Runs, rounds: int) -> SearchResult:
    """All variants in alternation, so that other load on the machine affects them equally."""
    for _ in range(rounds):
        result = runs.search("1 process", 1)
        runs.search("2 processes", PROCESSES)
        runs.ceiling(result)
        runs.search("2 processes, pruning", PROCESSES, pruning="median")
        runs.search("waits, 1 process", 1, objective=wait)
        runs.search("waits, 2 processes", PROCESSES, objective=wait)
        runs.search("no fit", 1, objective=no_fit)
    return result


def summary(runs: Runs, result: SearchResult) -> dict[str, Any]:
    table = pd.DataFrame(runs.rows)
    seconds = table.groupby("run")["seconds"].median()
    return {
        f"search_seconds_{runs.trials}": float(seconds["2 processes"]),
        f"search_seconds_{runs.trials}_serial": float(seconds["1 process"]),
        f"search_seconds_{runs.trials}_pruning": float(seconds["2 processes, pruning"]),
        "search_parallel_speedup": _ratio(table, "1 process", "2 processes"),
        "bare_fits_speedup": _ratio(table, "1 process", "bare fits, 2 processes"),
        "waits_speedup": _ratio(table, "waits, 1 process", "waits, 2 processes"),
        "search_ms_per_trial": 1000 / runs.trials * float(seconds["no fit"]),
        "gain_in_folds": result.gain,
        "load_median": statistics.median(table["load_before"]),
        "trials": runs.trials,
        "folds": FOLDS,
        "rows": ROWS,
        "features": FEATURES,
    }


def _ratio(table: pd.DataFrame, slow: str, fast: str) -> float:
    """Median over the rounds of the ratio within a round."""
    pairs = zip(table.loc[table["run"] == slow, "seconds"], table.loc[table["run"] == fast, "seconds"], strict=True)
    return float(statistics.median(one / other for one, other in pairs))


def main() -> None:
    arguments = parse_arguments(__doc__ or "")
    multiprocessing.get_context("forkserver").set_forkserver_preload([*PRELOAD, "benchmarks.search"])
    runs = Runs(QUICK_TRIALS if arguments.quick else TRIALS, arguments.seed)
    search(runs.fits, SPACE, DECLARED, Search(trials=4, processes=PROCESSES), seed=0)  # warm-up
    result = measured(runs, QUICK_ROUNDS if arguments.quick else ROUNDS)
    print_table(runs.rows)
    print_result(summary(runs, result), arguments.seed, arguments.json)


if __name__ == "__main__":
    main()
