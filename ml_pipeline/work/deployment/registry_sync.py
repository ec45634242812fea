"""Champion aliases that a person moved in MLflow are accepted and recorded."""

from __future__ import annotations

import datetime as dt
import logging

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import distinct_on

from ml_pipeline.resources import tables
from ml_pipeline.resources.registry import CHAMPION, TamperedArtifact
from ml_pipeline.work.context import Clients
from ml_pipeline.work.deployment.deployer import NOBODY, Deployment
from ml_pipeline.work.scoring import alert_foreign

logger = logging.getLogger(__name__)


def follow_aliases(clients: Clients, now: dt.datetime) -> list[Deployment]:
    """Records every champion alias that was moved since its last deployment; if none was, this costs a few queries.

    An alias on a version that the pipeline did not register is not recorded as a deployment: nothing proves its files,
    so it does not serve, and an alert is raised.
    """
    aliases = {key: found.get(CHAMPION, NOBODY) for key, found in clients.registry.aliases().items()}
    recorded = _recorded(clients)
    tenants = set(clients.warehouse.tenants())
    followed = []
    for (tenant, model), version in sorted(aliases.items()):
        if tenant not in tenants or version == recorded.get((tenant, model), NOBODY):
            continue
        try:
            deployment = clients.deployer.follow_alias(tenant, model, now)
        except TamperedArtifact as error:
            alert_foreign(clients, tenant, model, version, error, now)
            continue
        except Exception as error:  # noqa: BLE001 - logged, and tried again at the next tick; the other tenants go on
            logger.error("tenant %s, model %s: %s: %s", tenant, model, type(error).__name__, error)
            continue
        if deployment is not None:
            followed.append(deployment)
    return followed


def _recorded(clients: Clients) -> dict[tuple[str, str], int]:
    """The version of each tenant's and model's newest deployment."""
    table = tables.deployments
    key = (table.c.tenant_id, table.c.model)
    query = (
        sa.select(*key, table.c.version)
        .ext(distinct_on(*key))
        .where(table.c.state != "undone")
        .order_by(*key, table.c.sequence.desc())
    )
    with clients.warehouse.operator() as connection:
        return {(row.tenant_id, row.model): row.version for row in connection.execute(query)}
