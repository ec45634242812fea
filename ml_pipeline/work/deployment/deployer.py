"""Moving the champion alias: idempotent, and safe to be killed between any two steps.

An intent row is written first, the alias moves, the intent becomes done. The alias is the truth: the reconciler
finishes an intent whose alias had moved, and marks one as undone whose alias had not.
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
from ml_pipeline.work.retraining.decisions import record_decision

PROMOTE, PROMOTE_BY_HAND, ROLLBACK, ALIAS_BY_HAND = "promote", "promote_by_hand", "rollback", "alias_by_hand"
VERDICTS = {ROLLBACK: "roll_back", ALIAS_BY_HAND: "follow"}
NOBODY = 0  # the version of a deployment that took the alias away
# What became of the watch over a promoted version.
OPEN, KEPT, ROLLED_BACK, SUPERSEDED = "open", "kept", "rolled_back", "superseded"


class NothingToRollBackTo(UserError):
    """No earlier version has served."""


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
        """Makes ``version`` the champion (``action``: PROMOTE, PROMOTE_BY_HAND or ROLLBACK). Nothing happens if it is,
        nor where ``expected`` is given and another version serves by now.

        Raises
        ------
        NoSuchVersion
            If the version is not registered.
        TamperedArtifact
            If its files are not those that were registered: it could predict nothing.
        """
        target = self.registry.version(tenant, model, version)
        if action != PROMOTE:  # a promoted one has just been registered
            self.registry.check(target)
        with self.warehouse.advisory_lock(
            tenant, f"deploy {model}"
        ):  # a run and a person at once would mix their steps
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
        """The version that an alias points at; None where it is not one of the pipeline's, which could serve nobody."""
        try:
            return self.registry.aliased(tenant, model, alias)
        except TamperedArtifact:
            return None

    def steps(self, deployment: Deployment) -> Iterator[str]:
        """The steps of a deployment, one at a time; its order is what the reconciler relies on."""
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
        """A version of ours; None where a person has deleted it."""
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
            if state == "done":
                self._close_watches(connection, deployment)
            watched = state == "done" and deployment.action != ROLLBACK and NOBODY not in _versions(deployment)
            connection.execute(
                sa.update(table)
                .where(table.c.tenant_id == deployment.tenant, table.c.deployment_id == deployment.deployment_id)
                .values(state=state, finished_at=sa.func.now(), watch=OPEN if watched else None)
            )
            if deployment.action != PROMOTE and state == "done":  # a judged promotion has a record of its judgement
                record_decision(
                    connection,
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

    @staticmethod
    def _close_watches(connection: sa.Connection, deployment: Deployment) -> None:
        """A watch ends when its version serves no longer: rolled back, or superseded by another."""
        table = tables.deployments
        ended = sa.case((sa.literal(deployment.action == ROLLBACK), ROLLED_BACK), else_=SUPERSEDED)
        connection.execute(
            sa.update(table)
            .where(table.c.tenant_id == deployment.tenant, table.c.model == deployment.model, table.c.watch == OPEN)
            .values(watch=ended)
        )

    def follow_alias(self, tenant: str, model: str, as_of: dt.datetime) -> Deployment | None:
        """Records that the champion alias is not where the last deployment left it: a person moved it in MLflow.

        The alias is the truth, so nothing is moved back; the version is watched like a promoted one. None where alias
        and record agree, or a deployment is under way.
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
            reason = f"in MLflow, {what} the champion by hand; before it was {_named(recorded)}"
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
        """Finishes or undoes every deployment that was cut off; returns each with what became of it.

        ``older_than`` leaves out those that another process may still be working on.
        """
        table = tables.deployments
        with self.warehouse.operator() as connection:
            begun, now = table.c.created_at, sa.func.now()
            # One that was begun in the future was begun before the clock went back.
            cut_off = (begun <= now - older_than) | (begun > now + older_than)
            query = sa.select(table).where(table.c.state == "intent", cut_off).order_by(table.c.sequence)
            rows = connection.execute(query).mappings().all()
        return [(deployment, self._reconciled(deployment)) for deployment in map(_deployment, rows)]

    def _reconciled(self, deployment: Deployment) -> str:
        """What became of one deployment; a tenant whose versions cannot be read stops no other."""
        tenant, model = deployment.tenant, deployment.model
        try:
            with self.warehouse.advisory_lock(tenant, f"deploy {model}"):
                last = self.last_deployment(tenant, model)
                if last is None or last["deployment_id"] != deployment.deployment_id or last["state"] != "intent":
                    return "settled meanwhile" if self._is_settled(deployment) else self._undo(deployment)
                return self._settle(deployment)
        except Exception as error:  # noqa: BLE001 - reported as what became of it, and tried again at the next look
            return f"not settled: {type(error).__name__}: {error}"

    def _is_settled(self, deployment: Deployment) -> bool:
        table = tables.deployments
        query = sa.select(table.c.state).where(
            table.c.tenant_id == deployment.tenant, table.c.deployment_id == deployment.deployment_id
        )
        with self.warehouse.tenant(deployment.tenant) as connection:
            return connection.scalar(query) != "intent"

    def _undo(self, deployment: Deployment) -> str:
        """An intent after which another deployment was made."""
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
        """Back to the version ``to``, or to the one that served before the champion; see :meth:`deploy`.

        Raises
        ------
        NothingToRollBackTo
            If ``to`` is not given and no other version has served.
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


def _versions(deployment: Deployment) -> tuple[int, int]:
    """The version that serves and the one it replaced."""
    return deployment.version, deployment.replaced or NOBODY


def _named(version: int) -> str:
    return f"version {version}" if version else "no version"


def _deployment(row) -> Deployment:
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
