"""Moves the champion alias. A deployment is idempotent and may be killed between any two of its steps.

First the intent is stored, then the alias moves, then the intent is marked as done. After an
interruption, the alias determines the outcome: the reconciler finishes an intent whose alias has moved, and marks an
intent whose alias has not moved as undone.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy as sa

from ml_pipeline.errors import UserError
from ml_pipeline.resources import tables
from ml_pipeline.resources.registry import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    NoSuchVersion,
    Registry,
    TamperedArtifact,
    Version,
)
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.work.retraining.decisions import DecisionRecord, record_decision

PROMOTE, PROMOTE_BY_HAND, ROLLBACK, ALIAS_BY_HAND = "promote", "promote_by_hand", "rollback", "alias_by_hand"
VERDICTS = {ROLLBACK: "roll_back", ALIAS_BY_HAND: "follow"}
NOBODY = 0  # version of a deployment that removed the alias
# States of the rollback watch over a promoted version.
OPEN, KEPT, ROLLED_BACK, SUPERSEDED = "open", "kept", "rolled_back", "superseded"


class NothingToRollBackTo(UserError):
    """There is no earlier version to roll back to; the message lists the versions."""


@dataclass(frozen=True)
class Deployment:
    """An intended or finished move of the champion alias."""

    deployment_id: uuid.UUID
    tenant: str
    model: str
    action: str
    version: int
    replaced: int | None
    reason: str
    as_of: dt.datetime


class Deployer:
    """Promotes and rolls back versions of tenants' models."""

    def __init__(self, warehouse: Warehouse, registry: Registry) -> None:
        self.warehouse = warehouse
        self.registry = registry

    def deploy(
        self,
        tenant: str,
        model: str,
        version: int,
        *,
        action: str,
        reason: str,
        as_of: dt.datetime,
        expected: int | None = None,
    ) -> Deployment:
        """Makes a version the champion. Nothing happens if it is the champion already.

        Parameters
        ----------
        action : str
            PROMOTE, PROMOTE_BY_HAND or ROLLBACK.
        reason : str
            Stored with the deployment.
        as_of : datetime
            From when the version serves.
        expected : int or None
            The version that has to be serving now; if another one serves, nothing happens.

        Raises
        ------
        NoSuchVersion
            If the version is not registered.
        TamperedArtifact
            If its files are not those that were registered, so that it could not predict.
        """
        target = self.registry.version(tenant, model, version)
        if action != PROMOTE:  # a promoted version has just been registered
            self.registry.check(target)
        # Without the lock, a run and a person at the same time could mix their steps.
        with self.warehouse.advisory_lock(tenant, f"deploy {model}"):
            last = self.last_deployment(tenant, model)
            if last is not None and last["state"] == "intent":  # of a process that died
                self._settle(_deployment(last))
            champion = self._ours(tenant, model, CHAMPION)
            replaced = champion.number if champion else None
            deployment = Deployment(uuid.uuid4(), tenant, model, action, target.number, replaced, reason, as_of)
            if replaced != target.number and expected in (None, replaced):
                for _ in self.steps(deployment):
                    pass
        return deployment

    def _ours(self, tenant: str, model: str, alias: str) -> Version | None:
        """The version that an alias points at; None if the pipeline did not register it, so that it cannot serve."""
        try:
            return self.registry.aliased(tenant, model, alias)
        except TamperedArtifact:
            return None

    def steps(self, deployment: Deployment) -> Iterator[str]:
        """The steps of a deployment, one at a time; the reconciler relies on their order."""
        self._write_intent(deployment)
        yield "intent written"
        self.registry.set_alias(deployment.tenant, deployment.model, CHAMPION, deployment.version)
        yield "champion moved"
        yield from self._after_move(deployment)

    def _after_move(self, deployment: Deployment) -> Iterator[str]:
        tenant, model = deployment.tenant, deployment.model
        earlier = self._served_before(deployment) if deployment.action == ROLLBACK else deployment.replaced
        if earlier is not None and self._known(tenant, model, earlier) is not None:
            self.registry.set_alias(tenant, model, PREVIOUS, earlier)
        else:
            self.registry.delete_alias(tenant, model, PREVIOUS)
        yield "previous kept"
        if self.registry.aliases_of(tenant, model).get(CHALLENGER) == deployment.version:
            self.registry.delete_alias(tenant, model, CHALLENGER)
        worse = self._known(tenant, model, deployment.replaced) if deployment.action == ROLLBACK else None
        if worse is not None:
            self.registry.tag(worse, "rolled_back", deployment.reason)
        yield "marks set"
        self._finish(deployment, "done")
        yield "done"

    def _known(self, tenant: str, model: str, number: int | None) -> Version | None:
        """A version that the pipeline registered; None if it was deleted or tampered with."""
        if number is None:
            return None
        try:
            return self.registry.version(tenant, model, number)
        except (NoSuchVersion, TamperedArtifact):
            return None

    def _served_before(self, deployment: Deployment) -> int | None:
        """The version that was champion before the one that a rollback returns to."""
        table = tables.deployments
        query = (
            sa.select(table.c.replaced)
            .where(table.c.tenant_id == deployment.tenant, table.c.model == deployment.model)
            .where(table.c.version == deployment.version, table.c.action != ROLLBACK, table.c.state == "done")
            .order_by(table.c.sequence.desc())
            .limit(1)
        )
        with self.warehouse.tenant(deployment.tenant) as connection:
            return connection.scalar(query)

    def _write_intent(self, deployment: Deployment) -> None:
        with self.warehouse.tenant(deployment.tenant) as connection:
            connection.execute(
                sa.insert(tables.deployments).values(
                    tenant_id=deployment.tenant,
                    deployment_id=deployment.deployment_id,
                    model=deployment.model,
                    action=deployment.action,
                    version=deployment.version,
                    replaced=deployment.replaced,
                    state="intent",
                    reason=deployment.reason,
                    as_of=deployment.as_of,
                )
            )

    def _finish(self, deployment: Deployment, state: str) -> None:
        table = tables.deployments
        with self.warehouse.tenant(deployment.tenant) as connection:
            if state == "done":  # the watch over a version ends when that version no longer serves
                ended = ROLLED_BACK if deployment.action == ROLLBACK else SUPERSEDED
                connection.execute(
                    sa.update(table)
                    .where(table.c.tenant_id == deployment.tenant, table.c.model == deployment.model)
                    .where(table.c.watch == OPEN)
                    .values(watch=ended)
                )
            replaces = deployment.version != NOBODY and (deployment.replaced or NOBODY) != NOBODY
            watched = state == "done" and deployment.action != ROLLBACK and replaces
            connection.execute(
                sa.update(table)
                .where(table.c.tenant_id == deployment.tenant, table.c.deployment_id == deployment.deployment_id)
                .values(state=state, finished_at=sa.func.now(), watch=OPEN if watched else None)
            )
            if deployment.action != PROMOTE and state == "done":  # a promotion is recorded where it is judged
                record = DecisionRecord(
                    deployment.tenant,
                    deployment.model,
                    kind=deployment.action,
                    verdict=VERDICTS.get(deployment.action, "promote"),
                    reason=deployment.reason,
                    as_of=deployment.as_of,
                    numbers={"from": deployment.replaced, "to": deployment.version},
                    version=deployment.version,
                    decision_id=uuid.uuid5(deployment.deployment_id, "done"),
                )
                record_decision(connection, record)

    def follow_alias(self, tenant: str, model: str, as_of: dt.datetime) -> Deployment | None:
        """Records a champion alias that a person has moved in MLflow since the last deployment.

        The alias decides, so nothing is moved back; the version is watched like a promoted one. Returns None if alias
        and record agree, or if a deployment is unfinished.
        """
        with self.warehouse.advisory_lock(tenant, f"deploy {model}"):
            champion = self.registry.aliased(tenant, model)
            number = champion.number if champion else NOBODY
            last = self.last_deployment(tenant, model)
            if last is not None and last["state"] == "intent":
                return None
            recorded = last["version"] if last is not None else NOBODY
            if number == recorded:
                return None
            what = f"version {number} was made" if number else "no version was left as"
            before = f"version {recorded}" if recorded else "no version"
            reason = f"in MLflow, {what} the champion by hand; before it was {before}"
            replaced = recorded or None
            deployment = Deployment(uuid.uuid4(), tenant, model, ALIAS_BY_HAND, number, replaced, reason, as_of)
            self._write_intent(deployment)
            for _ in self._after_move(deployment):
                pass
            return deployment

    def last_deployment(self, tenant: str, model: str) -> sa.RowMapping | None:
        """The newest deployment that was not undone."""
        table = tables.deployments
        query = (
            sa.select(table)
            .where(table.c.tenant_id == tenant, table.c.model == model, table.c.state != "undone")
            .order_by(table.c.sequence.desc())
            .limit(1)
        )
        with self.warehouse.tenant(tenant) as connection:
            return connection.execute(query).mappings().first()

    def reconcile(self, older_than: dt.timedelta = dt.timedelta(0)) -> list[tuple[Deployment, str]]:
        """Finishes or undoes every interrupted deployment; returns each with its outcome.

        Deployments younger than ``older_than`` are left out: another process may still be working on them.
        """
        table = tables.deployments
        with self.warehouse.operator() as connection:
            begun, now = table.c.created_at, sa.func.now()
            # A deployment dated in the future was begun before the clock was set back.
            interrupted = (begun <= now - older_than) | (begun > now + older_than)
            query = sa.select(table).where(table.c.state == "intent", interrupted).order_by(table.c.sequence)
            rows = connection.execute(query).mappings().all()
        return [(deployment, self._reconciled(deployment)) for deployment in map(_deployment, rows)]

    def _reconciled(self, deployment: Deployment) -> str:
        """The outcome of one interrupted deployment; an error is its outcome too, so that the others go on."""
        tenant, model = deployment.tenant, deployment.model
        try:
            with self.warehouse.advisory_lock(tenant, f"deploy {model}"):
                last = self.last_deployment(tenant, model)
                if last is None or last["deployment_id"] != deployment.deployment_id or last["state"] != "intent":
                    table = tables.deployments
                    state = sa.select(table.c.state).where(
                        table.c.tenant_id == tenant, table.c.deployment_id == deployment.deployment_id
                    )
                    with self.warehouse.tenant(tenant) as connection:
                        is_settled = connection.scalar(state) != "intent"
                    return "settled meanwhile" if is_settled else self._undo(deployment)
                return self._settle(deployment)
        except Exception as error:  # noqa: BLE001 - reported as its outcome, and tried again at the next tick
            return f"not settled: {type(error).__name__}: {error}"

    def _undo(self, deployment: Deployment) -> str:
        """Marks an intent as undone."""
        self._finish(deployment, "undone")
        return "undone"

    def _settle(self, deployment: Deployment) -> str:
        champion = self._ours(deployment.tenant, deployment.model, CHAMPION)
        if (champion.number if champion else NOBODY) == deployment.version:
            for _ in self._after_move(deployment):
                pass
            return "done"
        return self._undo(deployment)

    def roll_back(
        self,
        tenant: str,
        model: str,
        *,
        to: int | None = None,
        reason: str,
        as_of: dt.datetime,
        expected: int | None = None,
    ) -> Deployment:
        """Returns to the version ``to``, or to the one that served before the champion; see :meth:`deploy`.

        Raises
        ------
        NothingToRollBackTo
            If ``to`` is not given and no earlier version has served.
        """
        if to is None:
            previous = self._ours(tenant, model, PREVIOUS)
            if previous is None:
                known = ", ".join(str(version.number) for version in self.registry.versions(tenant, model)) or "none"
                raise NothingToRollBackTo(
                    f"tenant {tenant}, model {model}: no earlier version has served. Name one with --to; "
                    f"the versions are: {known}"
                )
            to = previous.number
        return self.deploy(tenant, model, to, action=ROLLBACK, reason=reason, as_of=as_of, expected=expected)


def _deployment(row: sa.RowMapping) -> Deployment:
    return Deployment(
        row["deployment_id"],
        row["tenant_id"],
        row["model"],
        row["action"],
        row["version"],
        row["replaced"],
        row["reason"],
        row["as_of"],
    )
