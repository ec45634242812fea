"""Cost of a registered version beyond its fits, compared with MLflow's defaults; peak memory; seconds of a search."""

from __future__ import annotations

import datetime as dt
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd

from benchmarks.common import parse_arguments, print_result, print_table
from benchmarks.installation import temporary_installation
from ml_pipeline.resources import tables
from ml_pipeline.resources.compute import PRELOAD
from ml_pipeline.resources.registry import Registry, tracking_url
from ml_pipeline.resources.snapshots import Snapshots
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.settings import Settings
from ml_pipeline.specs import ModelSpec
from ml_pipeline.specs.search import Search
from ml_pipeline.training.fitted_model import FittedModel
from ml_pipeline.training.learners.base import fit_learner
from ml_pipeline.training.learners.boosters import BoostedTrees
from ml_pipeline.training.learners.data import FitData
from ml_pipeline.training.selection import ensembles
from ml_pipeline.work.training.task import MODEL, TrainingTask, run_training

ROWS, FEATURES, TREES = 500, 80, 100
NEWER = 50  # new rows when a tenant is trained again
TENANTS, QUICK_TENANTS = 10, 5
DEFAULT_CALLS = 2
SEARCH_ROWS, SEARCH_FEATURES, SEARCH_TRIALS = 1_000, 60, 100
SEARCH_ROUNDS = 3
MEMORY_SIZES = {"10k": (10_000, 80), "100k": (100_000, 100)}
QUICK_MEMORY_SIZES = {"10k": (10_000, 80)}
# The history columns that a learner takes; counts that grow with time are left out.
HISTORY_FEATURES = 4
FLAWLESS = {"name": "missing", "dimension": "completeness", "score": 100.0, "recommendation": None}
SINCE = pd.Timestamp("2025-01-01", tz="UTC")
# Set by the package for its own use; MLflow's defaults are without.
OURS_FOR_MLFLOW = ("MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK", "MLFLOW_UV_AUTO_DETECT")


def wide_spec(features: int) -> ModelSpec:
    """A regression whose learner takes ``features`` numeric columns."""
    numeric = [f"x{number:03d}" for number in range(features - HISTORY_FEATURES)]
    times = {"created_at": {"type": "time"}, "closed_at": {"type": "time", "known_at": "label"}}
    outcome = {"outcome": {"type": "number", "known_at": "label"}}
    return ModelSpec.model_validate(
        {
            "name": "wide",
            "title": "A wide table",
            "task": "regression",
            "source": {
                "table": "source.wide",
                "entity": "row",
                "event_time": "created_at",
                "columns": {name: {"type": "number"} for name in numeric} | times | outcome,
            },
            "label": {"value": "outcome", "time": "closed_at"},
            "features": {"numeric": numeric, "calendar": False},
            "training": {
                "estimator": "xgboost",
                "params": {"n_estimators": TREES, "max_depth": 6, "learning_rate": 0.1},
                "loss": "absolute_error",
            },
        }
    )


def feature_frame(spec: ModelSpec, rows: int, seed: int) -> pd.DataFrame:
    """Matured rows, ten per hour, whose labels are partly predictable."""
    random = np.random.default_rng(seed)
    names = spec.feature_columns.numeric
    values = random.normal(size=(rows, len(names)))
    label = 10 + 2 * values[:, 0] + values[:, 1] * values[:, 2] + random.normal(size=rows)
    event_time = pd.DatetimeIndex(SINCE + pd.to_timedelta(np.arange(rows) * 6, unit="min")).as_unit("us")
    frame = pd.DataFrame(
        {
            "entity_id": pd.Series([f"row-{number:06d}" for number in range(rows)], dtype="str"),
            "event_time": event_time,
            "label_time": event_time + pd.Timedelta(hours=1),
            "label": label,
            "state": "matured",
        }
    )
    features = pd.DataFrame(values, columns=names)
    features["history_recent_median"] = pd.Series(label).rolling(50, min_periods=1).median().shift()
    return pd.concat([frame, features], axis=1)


def store_snapshot(settings: Settings, spec: ModelSpec, tenant: str, frame: pd.DataFrame) -> None:
    """Store the result of the features step: the snapshot and its row, as of an hour after the last label."""
    digest, url = Snapshots(settings).write(tenant, spec.name, frame)
    row = {
        "tenant_id": tenant,
        "model": spec.name,
        "snapshot_hash": digest,
        "as_of": frame["label_time"].max().to_pydatetime() + dt.timedelta(hours=1),
        "rows": len(frame),
        "matured": len(frame),
        "path": url,
        "quality_score": 100.0,
        "quality": {"score": 100.0, "measures": [FLAWLESS]},
        "created_at": dt.datetime.now(dt.UTC),
    }
    warehouse = Warehouse(settings)
    with warehouse.tenant(tenant) as connection:
        warehouse.upsert(connection, tables.feature_sets, [row])


def train_version(settings: Settings, spec: ModelSpec, tenant: str) -> dict[str, Any]:
    """The product's model step: newest snapshot to a registered, judged version.

    Raises
    ------
    SystemExit
        If it registered no version of an ensemble; the figures would then measure something else.
    """
    report = run_training(TrainingTask(settings, spec, tenant, "latest", (MODEL,)))
    made = report.done.get(MODEL, {})
    if made.get("candidate") != spec.training.ensemble:
        raise SystemExit(f"no ensemble was registered: {report.error or made}")
    return made


class FitClock:
    """``fit_learner`` with a sum of its seconds."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, *arguments: Any) -> Any:
        started = time.perf_counter()
        learner = fit_learner(*arguments)
        self.seconds += time.perf_counter() - started
        return learner


def timed_version(settings: Settings, spec: ModelSpec, tenant: str, kind: str) -> dict[str, Any]:
    """Wall and CPU seconds of one version, and those of its fits."""
    clock = FitClock()
    with mock.patch.object(ensembles, "fit_learner", clock):
        started, cpu = time.perf_counter(), time.process_time()
        train_version(settings, spec, tenant)
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    beyond = seconds - clock.seconds
    return {"version": kind, "seconds": seconds, "cpu": cpu_seconds, "fits": clock.seconds, "beyond_fits": beyond}


def versions(settings: Settings, tenants: int, seed: int) -> list[dict[str, Any]]:
    """The first version of each tenant and, on newer rows, the next one, which is compared with the champion."""
    spec = wide_spec(FEATURES)
    store_snapshot(settings, spec, "warm-up", feature_frame(spec, ROWS, seed))
    train_version(settings, spec, "warm-up")
    measured = []
    for number in range(tenants):
        tenant, frame = f"tenant-{number:02d}", feature_frame(spec, ROWS + NEWER, seed + 1 + number)
        for kind, rows in (("first", frame[:ROWS]), ("next", frame[NEWER:])):
            store_snapshot(settings, spec, tenant, rows.reset_index(drop=True))
            measured.append(timed_version(settings, spec, tenant, kind))
    return measured


def mlflow_defaults(settings: Settings, seed: int) -> list[float]:
    """Seconds of ``mlflow.xgboost.log_model`` with its defaults, registering one of the same boosters."""
    import mlflow

    spec = wide_spec(FEATURES)
    frame = feature_frame(spec, ROWS, seed)
    matrix = frame[list(spec.feature_columns.numeric)].to_numpy("float32")
    training = spec.training
    label = frame["label"].to_numpy()
    fitted = fit_learner(training.estimator, training.params, training.loss, FitData(matrix, label, seed))
    assert isinstance(fitted, BoostedTrees)
    booster = fitted.booster
    mlflow.set_tracking_uri(tracking_url(settings))
    mlflow.set_registry_uri(tracking_url(settings))
    mlflow.create_experiment("defaults", artifact_location=(settings.home / "defaults").as_uri())
    mlflow.set_experiment("defaults")
    seconds = []
    with _without(OURS_FOR_MLFLOW):
        for number in range(DEFAULT_CALLS):
            started = time.perf_counter()
            with mlflow.start_run():
                mlflow.xgboost.log_model(booster, name="model", registered_model_name=f"defaults-{number}")
            seconds.append(time.perf_counter() - started)
    return seconds


@contextmanager
def _without(variables: tuple[str, ...]) -> Iterator[None]:
    kept = {name: value for name, value in os.environ.items() if name not in variables}
    with mock.patch.dict(os.environ, kept, clear=True):
        yield


def peak_megabytes(settings: Settings, rows: int, features: int, seed: int) -> tuple[float, float]:
    """Peak memory above the imports, and seconds, of the model step in its own process."""
    spec, tenant = wide_spec(features), f"rows-{rows}"
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(_store_large, settings, rows, features, seed).result()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_peak_of_training, settings, spec, tenant).result()


def _store_large(settings: Settings, rows: int, features: int, seed: int) -> None:
    spec = wide_spec(features)
    store_snapshot(settings, spec, f"rows-{rows}", feature_frame(spec, rows, seed))


def _peak_of_training(settings: Settings, spec: ModelSpec, tenant: str) -> tuple[float, float]:
    import ml_pipeline.work.preload  # noqa: F401 - what every worker process has imported

    Registry(settings).versions(tenant, spec.name)  # MLflow's client and its connection are there in a warm worker
    before = _status_megabytes("VmRSS")
    started = time.perf_counter()
    train_version(settings, spec, tenant)
    return _status_megabytes("VmHWM") - before, time.perf_counter() - started


def search_spec(processes: int) -> ModelSpec:
    """A model with a search of the default ranges of its booster."""
    spec = wide_spec(SEARCH_FEATURES)
    search = Search(trials=SEARCH_TRIALS, processes=processes, adaptive=False)
    return spec.model_copy(update={"training": spec.training.model_copy(update={"search": search})})


def searches(settings: Settings, rounds: int, seed: int) -> list[dict[str, Any]]:
    """Versions with a search of 100 trials, in one process and in two by turns, each with the load before it.

    The fork server that a search takes its processes from has been started before, as it has for all searches of a
    worker but its first.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    first = context.Process(target=os.getpid)
    first.start()
    first.join()
    registry, measured = Registry(settings), []
    for number in range(rounds):
        for processes in (1, 2):
            spec, tenant = search_spec(processes), f"search-{number}-{processes}"
            store_snapshot(settings, spec, tenant, feature_frame(spec, SEARCH_ROWS, seed + number))
            load, started = os.getloadavg()[0], time.perf_counter()
            train_version(settings, spec, tenant)
            seconds = time.perf_counter() - started
            metrics = registry.client.get_run(registry.versions(tenant, spec.name)[0].run_id).data.metrics
            told = {name: metrics[f"search_{name}"] for name in ("seconds", "complete", "pruned", "gain")}
            row = {"round": number, "processes": processes, "version_seconds": seconds, "load_before": load}
            measured.append(row | {f"search_{name}": value for name, value in told.items()})
    return measured


def search_figures(measured: list[dict[str, Any]]) -> dict[str, Any]:
    table = pd.DataFrame(measured)
    versions = {processes: float(part["version_seconds"].median()) for processes, part in table.groupby("processes")}
    seconds = {processes: part["search_seconds"].to_numpy() for processes, part in table.groupby("processes")}
    return {
        f"search_seconds_{SEARCH_TRIALS}": versions[2],
        f"search_seconds_{SEARCH_TRIALS}_serial": versions[1],
        "search_alone_seconds": float(np.median(seconds[2])),
        "search_parallel_speedup": float(np.median(seconds[1] / seconds[2])),
        "search_load_median": float(table["load_before"].median()),
        "search_rows": SEARCH_ROWS,
        "search_features": SEARCH_FEATURES,
    }


def _status_megabytes(field: str) -> float:
    """A figure of this process alone: ``getrusage`` would also count what the parent held when it started it."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def parts_of_beyond(settings: Settings, seed: int) -> list[dict[str, Any]]:
    """Milliseconds of the larger steps beyond the fits, each called separately."""
    spec = wide_spec(FEATURES)
    registry = Registry(settings)
    version = registry.versions("warm-up", spec.name)[0]
    with registry.files(version) as folder:
        model = FittedModel.load(folder)
    frame = feature_frame(spec, ROWS, seed)
    snapshots = Snapshots(settings)
    digest, url = snapshots.write("warm-up", spec.name, frame)
    with tempfile.TemporaryDirectory() as folder:
        calls: dict[str, Callable[[], Any]] = {
            "read the snapshot": lambda: snapshots.read(url, digest, tenant="warm-up"),
            "predict 500 rows": lambda: model.predict(frame),
            "save the files": lambda: model.save(Path(folder) / "model"),
            "look the versions up": lambda: registry.versions("warm-up", spec.name),
            "move an alias": lambda: registry.set_alias("warm-up", spec.name, "benchmark", version.number),
        }
        return [{"part": name, "milliseconds": _median_milliseconds(call)} for name, call in calls.items()]


def _median_milliseconds(call: Callable[[], Any], repeats: int = 5) -> float:
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds)


def summary(measured: pd.DataFrame, defaults: list[float]) -> dict[str, Any]:
    """Medians over all versions, over first ones, and over next ones."""
    middle = measured.drop(columns="version").median()
    return {
        "versions": len(measured),
        "seconds_beyond_fits": float(middle["beyond_fits"]),
        "seconds_beyond_fits_worst": float(measured["beyond_fits"].max()),
        **{
            f"seconds_beyond_fits_{kind}": float(part["beyond_fits"].median())
            for kind, part in measured.groupby("version")
        },
        "seconds_fits": float(middle["fits"]),
        "seconds_version": float(middle["seconds"]),
        "cpu_seconds_version": float(middle["cpu"]),
        "models_per_core_hour": 3600 / float(middle["seconds"]),
        "models_per_core_hour_bare_fits": 3600 / float(middle["fits"]),
        "mlflow_default_seconds": statistics.median(defaults),
        "mlflow_default_calls": defaults,
    }


def main() -> None:
    arguments = parse_arguments(__doc__ or "")
    sizes = QUICK_MEMORY_SIZES if arguments.quick else MEMORY_SIZES
    with temporary_installation() as settings:
        measured = versions(settings, QUICK_TENANTS if arguments.quick else TENANTS, arguments.seed)
        print_table(measured)
        print_table(parts_of_beyond(settings, arguments.seed))
        figures = summary(pd.DataFrame(measured), mlflow_defaults(settings, arguments.seed))
        for name, (rows, features) in sizes.items():
            figures[f"peak_mb_{name}"], figures[f"seconds_{name}"] = peak_megabytes(
                settings, rows, features, arguments.seed
            )
        searched = searches(settings, 1 if arguments.quick else SEARCH_ROUNDS, arguments.seed)
        print_table(searched)
        figures |= search_figures(searched)
    missing = {"peak_mb_100k": None, "peak_mb_100k_reason": "--quick leaves it out"} if arguments.quick else {}
    figures = missing | figures | {"rows": ROWS, "features": FEATURES, "trees": TREES}
    print_table([{"figure": name, "value": value} for name, value in figures.items() if isinstance(value, int | float)])
    print_result(figures, arguments.seed, arguments.json)


if __name__ == "__main__":
    main()
