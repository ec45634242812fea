"""Predictions of one tenant: by the serving version, and in shadow by the version that it replaced."""

from __future__ import annotations

import datetime as dt
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import distinct_on

from ml_pipeline.resources import tables
from ml_pipeline.resources.registry import CHAMPION, NoSuchVersion, TamperedArtifact, Version
from ml_pipeline.specs import ModelSpec
from ml_pipeline.training.fitted_model import FittedModel
from ml_pipeline.training.intervals.online import MIN_OUTCOMES, Predictions, waiting_unit
from ml_pipeline.work.alerts.raising import NewAlert, raise_alert
from ml_pipeline.work.context import Clients
from ml_pipeline.work.deployment.deployer import OPEN
from ml_pipeline.work.monitoring.report_store import json_safe
from ml_pipeline.work.training.version_files import fingerprint_of, read_files

LIVE, SHADOW = "live", "shadow"
KEPT_VERSIONS = 2  # a champion, and the version that it replaced, which predicts in shadow

_kept: dict[str, tuple[FittedModel, pd.DataFrame]] = {}  # by hash of the manifest, the least recently used first


def is_compatible(spec: ModelSpec, version: Version) -> bool:
    """Whether the version predicts what the specification asks for, from the same features and in the same unit."""
    return version.tags["question_hash"] == fingerprint_of(spec).question


def load_version(clients: Clients, spec: ModelSpec, version: Version) -> tuple[FittedModel, pd.DataFrame]:
    """The fitted model of a version, and its out-of-sample predictions for its own test part.

    The process keeps the last two. All files are checked each time, also those of a kept version. Do not change what is
    returned.

    Raises
    ------
    TamperedArtifact
        If a file is not the one that was registered. An alert is raised too.
    """
    try:
        with clients.registry.files(version) as folder:
            return _kept_or_read(version.tags["manifest_sha256"], folder)
    except TamperedArtifact as error:
        alert_tampered(clients, version.tenant, spec.name, version.number, error)
        raise


def _kept_or_read(manifest_hash: str, folder: Path) -> tuple[FittedModel, pd.DataFrame]:
    _kept[manifest_hash] = found = _kept.pop(manifest_hash, None) or read_files(folder)
    while len(_kept) > KEPT_VERSIONS:
        del _kept[next(iter(_kept))]
    return found


def alert_tampered(clients: Clients, tenant: str, model: str, number: int, error: TamperedArtifact) -> None:
    """Raises an alert: the stored files of a version are not those that were registered."""
    _alert(clients, tenant, model, number, "tampered_artifact", error, dt.datetime.now(dt.UTC))


def alert_foreign(
    clients: Clients, tenant: str, model: str, number: int, error: TamperedArtifact, now: dt.datetime
) -> None:
    """Raises an alert: the pipeline did not register the version that the champion alias points at."""
    _alert(clients, tenant, model, number, "foreign_version", error, now)


def _alert(
    clients: Clients, tenant: str, model: str, number: int, kind: str, error: TamperedArtifact, now: dt.datetime
) -> None:
    alert = NewAlert(tenant, model, kind, "CRITICAL", str(error), as_of=now, detail={"version": number})
    with clients.warehouse.tenant(tenant) as connection:
        raise_alert(connection, alert)


def score_open_entities(
    clients: Clients, spec: ModelSpec, tenant: str, frame: pd.DataFrame, as_of: dt.datetime
) -> dict[str, Any]:
    """Stores the champion's predictions for the open entities of a feature frame; returns metadata for people.

    While the rollback watch over the champion is open, the previous version predicts too, in shadow.
    """
    try:
        champion = clients.registry.aliased(tenant, spec.name)
    except TamperedArtifact as error:
        number = clients.registry.aliases_of(tenant, spec.name)[CHAMPION]
        alert_foreign(clients, tenant, spec.name, number, error, dt.datetime.now(dt.UTC))
        raise
    if champion is None:
        return {"scored": 0, "reason": "no version serves: see the decision about the model"}
    if not is_compatible(spec, champion):
        reason = f"version {champion.number} does not fit the specification, which has changed since"
        return {"scored": 0, "reason": f"{reason}. Materialize {spec.name}/model, and see its decision"}
    if pd.Timestamp(champion.as_of) > as_of:
        known = f"version {champion.number} was trained on what was known at {champion.as_of}"
        return {"scored": 0, "reason": f"{known}, after {as_of.isoformat()}: it cannot predict for that time"}
    scored, seconds = _score(clients, spec, champion, LIVE, frame, as_of)
    shadow = _watched_predecessor(clients, spec, champion)
    if shadow is not None:
        try:
            _score(clients, spec, shadow, SHADOW, frame, as_of)
        except TamperedArtifact:  # load_version raised an alert, and the champion has predicted
            shadow = None
    return {
        "scored": scored,
        "open": int((frame["state"] == "open").sum()),
        "version": champion.number,
        "seconds": round(seconds, 4),
        "in shadow": f"version {shadow.number}, while version {champion.number} is watched" if shadow else None,
    }


def _score(
    clients: Clients, spec: ModelSpec, version: Version, origin: str, frame: pd.DataFrame, as_of: dt.datetime
) -> tuple[int, float]:
    """Stores a version's predictions for the open entities that it has not scored; returns their number and seconds."""
    oldest = pd.Timestamp(as_of) - pd.Timedelta(days=spec.max_open_days)
    waiting = frame[(frame["state"] == "open") & (frame["event_time"] >= oldest)]
    waiting = waiting[~waiting["entity_id"].isin(_scored(clients, spec, version, origin))]
    if waiting.empty:
        return 0, 0.0
    model, own_test = load_version(clients, spec, version)
    model = _adapted(clients, spec, version, model, frame, own_test["event_time"].min(), as_of)
    started = time.perf_counter()
    values = model.predict(waiting, frame)
    seconds = time.perf_counter() - started
    rows = prediction_rows(spec, version, waiting, values, as_of, origin, 1000 * seconds / len(waiting))
    with clients.warehouse.tenant(version.tenant) as connection:
        clients.warehouse.upsert(connection, tables.predictions, rows)
    return len(waiting), seconds


def _adapted(
    clients: Clients,
    spec: ModelSpec,
    version: Version,
    model: FittedModel,
    frame: pd.DataFrame,
    since: pd.Timestamp,
    as_of: dt.datetime,
) -> FittedModel:
    """The version with its interval adapted to the outcomes of its own live predictions, if there are enough.

    Entities from before ``since``, the start of its held-out part, are left out: the residuals of that part lack the
    entities that were slow.
    """
    trained_at = pd.Timestamp(version.as_of)
    if model.interval is None or (frame["label_time"] > trained_at).sum() < MIN_OUTCOMES:
        return model
    made = _live_predictions(clients, spec, version, trained_at, since)
    made = made.merge(frame.loc[frame["state"] != "excluded", ["entity_id", "label_time", "label"]], on="entity_id")
    unit, times = waiting_unit(spec), ("event_time", "label_time", "predicted_at")
    event_time, label_time, predicted_at = (made[name].dt.tz_convert(None).to_numpy("datetime64[us]") for name in times)
    value, lower, upper, label = (made[name].to_numpy(np.float64) for name in ("value", "lower", "upper", "label"))
    is_new = event_time > trained_at.tz_convert(None).to_datetime64()
    if unit is not None:  # a version that serves again may predict entities that had waited longer than the upper end
        is_new &= (predicted_at - event_time) / np.timedelta64(1, "s") / unit <= upper
    lived = Predictions(value, lower, upper, event_time, label_time, label, is_new)
    now = pd.Timestamp(as_of).tz_convert(None).to_datetime64()
    return model.adapted(lived.known_at(now, unit), spec.training.interval)


def _live_predictions(
    clients: Clients, spec: ModelSpec, version: Version, as_of: pd.Timestamp, since: pd.Timestamp
) -> pd.DataFrame:
    """The version's live predictions for entities that were created at ``since`` or later."""
    table = tables.predictions
    names = ["entity_id", "event_time", "predicted_at", "value", "lower", "upper"]
    query = sa.select(*(table.c[name] for name in names)).where(
        table.c.tenant_id == version.tenant,
        table.c.model == spec.name,
        table.c.origin == LIVE,
        table.c.version == version.number,
        table.c.predicted_at >= as_of,  # true for all of them; the index begins with this time
        table.c.event_time >= since,
    )
    with clients.warehouse.tenant(version.tenant) as connection:
        found = pd.DataFrame(connection.execute(query).all(), columns=names)
    times = {name: pd.to_datetime(found[name], utc=True).astype("datetime64[us, UTC]") for name in names[1:3]}
    return found.astype(dict.fromkeys(("value", "lower", "upper"), "float64")).assign(**times)


def _watched_predecessor(clients: Clients, spec: ModelSpec, champion: Version) -> Version | None:
    """The version that the champion replaced, while the rollback watch over the champion is open."""
    table = tables.deployments
    query = sa.select(table.c.replaced).where(
        table.c.tenant_id == champion.tenant,
        table.c.model == spec.name,
        table.c.version == champion.number,
        table.c.watch == OPEN,
    )
    with clients.warehouse.tenant(champion.tenant) as connection:
        replaced = connection.scalar(query.limit(1))
    if replaced is None:
        return None
    try:
        previous = clients.registry.version(champion.tenant, spec.name, replaced)
    except (NoSuchVersion, TamperedArtifact):  # the watch reports that there is nothing to compare with
        return None
    return previous if is_compatible(spec, previous) else None


def _scored(clients: Clients, spec: ModelSpec, version: Version, origin: str) -> list[str]:
    """Entities whose newest live prediction is by this version; in shadow, all entities that it has predicted.

    A version that serves again after a rollback thus predicts again the entities that the version in between predicted.
    """
    table = tables.predictions
    own = (table.c.tenant_id == version.tenant, table.c.model == spec.name)
    if origin == SHADOW:
        query = sa.select(table.c.entity_id).where(
            *own, table.c.version == version.number, table.c.origin.in_([LIVE, SHADOW])
        )
    else:
        newest = (
            sa.select(table.c.entity_id, table.c.version)
            .ext(distinct_on(table.c.entity_id))
            .where(*own, table.c.origin == LIVE)
            # A prediction dated in the future was made before the clock was set back; it does not count.
            .where(table.c.predicted_at <= dt.datetime.now(dt.UTC))
            .order_by(table.c.entity_id, table.c.predicted_at.desc(), table.c.version.desc())
            .subquery()
        )
        query = sa.select(newest.c.entity_id).where(newest.c.version == version.number)
    with clients.warehouse.tenant(version.tenant) as connection:
        return list(connection.scalars(query))


def prediction_rows(
    spec: ModelSpec,
    version: Version,
    entities: pd.DataFrame,
    values: pd.DataFrame,
    as_of: dt.datetime,
    origin: str,
    latency_ms: float | None,
) -> list[dict[str, Any]]:
    """Rows of the prediction log; features are stored with the champion's row only, not again in shadow."""
    columns = spec.feature_columns
    used = json_safe(entities[[*columns.numeric, *columns.categorical]].to_dict("records"))
    shared = {
        "tenant_id": version.tenant,
        "model": spec.name,
        "origin": origin,
        "version": version.number,
        "predicted_at": as_of,
        "latency_ms": latency_ms,
    }
    return [
        {
            **shared,
            "entity_id": entity,
            "event_time": event_time,
            "features": features if origin == LIVE else None,
            **prediction,
        }
        for entity, event_time, features, prediction in zip(
            entities["entity_id"],
            entities["event_time"].dt.to_pydatetime(),
            used,
            json_safe(values.to_dict("records")),
            strict=True,
        )
    ]
