"""The assets of one model, made from its specification."""

import datetime as dt
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

from ml_pipeline import partitions
from ml_pipeline.assets.checks import Tally, check_specs
from ml_pipeline.assets.lineage import source_key
from ml_pipeline.assets.reporting import each_tenant, materialization, requested
from ml_pipeline.display import markdown
from ml_pipeline.resources.dagster_resources import Installation
from ml_pipeline.specs import ModelSpec
from ml_pipeline.work.context import parse_as_of
from ml_pipeline.work.monitoring.fleet_loss import loss_by_day
from ml_pipeline.work.monitoring.task import DAILY_METRICS, DRIFT_REPORT, MonitoringTask, run_monitoring
from ml_pipeline.work.training.register import TRAIN
from ml_pipeline.work.training.task import FEATURES, MODEL, PREDICTIONS, TrainingTask, run_training

DESCRIPTIONS = {
    FEATURES: "Point-in-time features and matured labels from the source rows, stored with a hash; data quality.",
    MODEL: "A version trained on the snapshot and registered, and the decision whether it serves.",
    PREDICTIONS: "The champion's predictions for the open entities, in the prediction log.",
    DAILY_METRICS: "The outcomes that became known on the day, compared with the predictions made before them.",
    DRIFT_REPORT: "The last days compared with the version's training rows: drift, degradation, anomalies, health.",
}


# The nightly run begins at 02:00, and predictions are made each hour. An asset that misses one run warns, then fails.
DAILY = dg.FreshnessPolicy.time_window(warn_window=dt.timedelta(hours=26), fail_window=dt.timedelta(hours=48))
HOURLY = dg.FreshnessPolicy.time_window(warn_window=dt.timedelta(hours=2), fail_window=dt.timedelta(hours=6))
FRESHNESS = {PREDICTIONS: HOURLY, DAILY_METRICS: DAILY, DRIFT_REPORT: DAILY}


class TrainingConfig(dg.Config):
    """The as-of time of a training run, and the decision that requested it."""

    as_of: str = ""  # empty: now; 'latest': each tenant's newest row; otherwise a date or time
    decision: str = ""  # identifier in ml.decisions of the approved retraining
    action: str = TRAIN  # or 'update': add trees to the champion, if its learner can


def _asset_specs(model: ModelSpec, chain: tuple[str, ...], upstream: dg.AssetKey) -> list[dg.AssetSpec]:
    """One skippable asset per step, each depending on the one before it."""
    keys = [dg.AssetKey([model.name, step]) for step in chain]
    return [
        dg.AssetSpec(
            key,
            deps=[previous],
            description=f"{markdown(model.title)}. {DESCRIPTIONS[step]}",
            group_name=model.name,
            skippable=True,
            kinds={"postgres"} if step != MODEL else {"mlflow"},
            owners=list(model.owners),
            freshness_policy=FRESHNESS.get(step),
        )
        for previous, key, step in zip([upstream, *keys[:-1]], keys, chain, strict=True)
    ]


def with_checks(events: Iterator[Any], tally: Tally) -> Iterator[Any]:
    """The events of a run, then its checks, even if the run fails at its end because some tenants failed."""
    try:
        yield from events
    except dg.Failure:
        yield from tally.results()
        raise
    yield from tally.results()


def by_step(done: Mapping[tuple[str, dt.date], Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """The metadata of a tenant's days by step, oldest day first."""
    found: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for (step, _), facts in sorted(done.items(), key=lambda item: item[0][1]):
        found[step].append(facts)
    return dict(found)


def _selected(context: dg.AssetExecutionContext) -> tuple[str, ...]:
    return tuple(key.path[-1] for key in context.selected_asset_keys)


def training_assets(model: ModelSpec) -> dg.AssetsDefinition:
    """``<model>/features``, ``<model>/model`` and ``<model>/predictions``, a batch of tenants at a time.

    One function makes all three: a worker takes a tenant from rows to predictions without waiting for other tenants,
    and a tenant that fails at one step keeps the results of the steps before it.
    """

    @dg.multi_asset(
        name=f"{model.name}_training",
        specs=_asset_specs(model, (FEATURES, MODEL, PREDICTIONS), source_key(model)),
        check_specs=check_specs(model, (FEATURES, MODEL, PREDICTIONS)),
        partitions_def=partitions.tenants,
        backfill_policy=dg.BackfillPolicy.single_run(),
        can_subset=True,
        pool="training",
    )
    def training(
        context: dg.AssetExecutionContext, config: TrainingConfig, installation: Installation
    ) -> Iterator[Any]:
        as_of = parse_as_of(config.as_of or dt.datetime.now(dt.UTC).isoformat())
        settings, steps = installation.settings(), _selected(context)
        tenants = requested(context)
        plots = len(tenants) <= settings.plots_up_to
        tasks = [
            (key, TrainingTask(settings.for_workers(), model, key, as_of, steps, config.decision, config.action, plots))
            for key in tenants
        ]
        results = installation.compute().map(run_training, tasks)
        tally = Tally(model, set(context.selected_asset_check_keys))

        def events() -> Iterator[dg.AssetMaterialization]:
            for tenant, done in each_tenant(context, results, len(tasks)):
                tally.add(tenant, {step: [facts] for step, facts in done.items()})
                for step, facts in done.items():
                    yield materialization(dg.AssetKey([model.name, step]), tenant, facts)

        yield from with_checks(events(), tally)

    return training


def monitoring_assets(model: ModelSpec) -> dg.AssetsDefinition:
    """``<model>/daily_metrics`` and ``<model>/drift_report``, a rectangle of tenants x days at a time."""

    @dg.multi_asset(
        name=f"{model.name}_monitoring",
        specs=_asset_specs(model, (DAILY_METRICS, DRIFT_REPORT), dg.AssetKey([model.name, PREDICTIONS])),
        check_specs=check_specs(model, (DAILY_METRICS, DRIFT_REPORT)),
        partitions_def=partitions.tenant_days,
        backfill_policy=dg.BackfillPolicy.single_run(),
        can_subset=True,
    )
    def monitoring(context: dg.AssetExecutionContext, installation: Installation) -> Iterator[Any]:
        settings, steps = installation.settings(), _selected(context)
        days_of: defaultdict[str, list[dt.date]] = defaultdict(list)
        for key in requested(context):
            dimensions = key.keys_by_dimension
            days_of[dimensions[partitions.TENANT]].append(dt.date.fromisoformat(dimensions[partitions.DATE]))
        own = settings.for_workers()
        tasks = [(name, MonitoringTask(own, model, name, tuple(days), steps)) for name, days in days_of.items()]
        results = installation.compute().map(run_monitoring, tasks)
        checks = set(context.selected_asset_check_keys)
        tally = Tally(model, checks, lambda: loss_by_day(settings, model, max(max(days) for days in days_of.values())))

        def events() -> Iterator[dg.AssetMaterialization]:
            for tenant, done in each_tenant(context, results, len(tasks)):
                tally.add(tenant, by_step(done))
                for (step, day), facts in done.items():
                    partition = dg.MultiPartitionKey({partitions.DATE: day.isoformat(), partitions.TENANT: tenant})
                    yield materialization(dg.AssetKey([model.name, step]), partition, facts)

        yield from with_checks(events(), tally)

    return monitoring
