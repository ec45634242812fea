"""Persistent record of a search, from which an interrupted search continues."""

from __future__ import annotations

import json
import queue
import threading
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial, TrialState

HEARTBEAT_SECONDS = 15
GRACE_SECONDS = 60  # a running trial without a heartbeat for this long counts as lost
_DESCRIPTION = "search"


class Ending(NamedTuple):
    """End of a trial; FAIL without ``error`` means interrupted. ``elapsed`` is the search time so far in seconds."""

    state: TrialState
    losses: list[float]
    error: str | None
    elapsed: float


class Record(Protocol):
    """A store for trials, numbered as in the search."""

    past: list[FrozenTrial]

    def begin(
        self, number: int, params: dict[str, Any], distributions: dict[str, BaseDistribution], declared: bool
    ) -> None: ...

    def end(self, number: int, ending: Ending) -> None: ...

    def close(self) -> None: ...


class NoRecord:
    """A record that stores nothing: an interrupted search starts again."""

    def __init__(self) -> None:
        self.past: list[FrozenTrial] = []

    def begin(self, *_: Any) -> None:
        return

    def end(self, *_: Any) -> None:
        return

    def close(self) -> None:
        return


class StoredRecord:
    """An Optuna study in a relational database, readable by other Optuna tools.

    A separate thread writes each trial in four short transactions, so that neither fits nor sampler wait for the
    database. Running trials have a heartbeat; trials of a killed process become FAIL when the search is opened at least
    a minute later.

    Parameters
    ----------
    study
        Name of the study.
    url
        SQLAlchemy URL, for PostgreSQL ``postgresql+psycopg2://``. Tables are created in the first schema of its search
        path.
    description
        What the losses depend on.

    Raises
    ------
    ValueError
        If the study exists with another description, so that its losses cannot be compared.
    """

    def __init__(self, study: str, url: str, description: dict[str, Any]) -> None:
        from optuna.exceptions import ExperimentalWarning

        with warnings.catch_warnings():  # Optuna marks heartbeats as experimental
            warnings.simplefilter("ignore", ExperimentalWarning)
            self._storage = _open(url)
            self.past = _past(self._storage, study, description)
        self._study_id = self._storage.get_study_id_from_name(study)
        self._running: dict[int, int] = {}  # storage identifier by trial number; used by the thread only
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._write, name="search record", daemon=True)
        self._thread.start()

    def begin(
        self, number: int, params: dict[str, Any], distributions: dict[str, BaseDistribution], declared: bool
    ) -> None:
        from optuna.trial import TrialState, create_trial

        attributes = {"declared": True} if declared else {}
        state = TrialState.RUNNING
        template = create_trial(state=state, params=params, distributions=distributions, user_attrs=attributes)

        def job() -> None:
            self._running[number] = self._storage.create_new_trial(self._study_id, template)
            self._storage.record_heartbeat(self._running[number])

        self._add(job)

    def end(self, number: int, ending: Ending) -> None:
        def job() -> None:
            identifier = self._running.pop(number)
            outcome = {"losses": ending.losses, "error": ending.error, "elapsed": ending.elapsed}
            self._storage.set_trial_user_attr(identifier, "outcome", outcome)
            values = [sum(ending.losses) / len(ending.losses)] if ending.losses else None
            self._storage.set_trial_state_values(identifier, ending.state, values)

        self._add(job)

    def close(self) -> None:
        """Wait for the thread, then mark the trials that are still running as failed.

        Raises
        ------
        Exception
            The error of a failed write.
        """
        self._jobs.put(None)
        self._thread.join()
        self._storage.engine.dispose()
        if self._error is not None:
            raise self._error

    def _add(self, job: Callable[[], None]) -> None:
        if self._error is not None:
            raise self._error
        self._jobs.put(job)

    def _write(self) -> None:
        try:
            self._write_until_closed()
        except Exception as error:  # noqa: BLE001 - raised in the thread that searches, at its next step
            self._error = error
        finally:
            self._storage.remove_session()

    def _write_until_closed(self) -> None:
        from optuna.trial import TrialState

        beaten = time.monotonic()
        while True:
            try:
                job = self._jobs.get(timeout=HEARTBEAT_SECONDS)
            except queue.Empty:
                job = _nothing
            if job is None:
                break
            job()
            if time.monotonic() - beaten >= HEARTBEAT_SECONDS:
                beaten = time.monotonic()
                for identifier in self._running.values():
                    self._storage.record_heartbeat(identifier)
        for identifier in self._running.values():
            self._storage.set_trial_state_values(identifier, TrialState.FAIL)


def open_record(study: str, url: str | None, description: dict[str, Any]) -> Record:
    """The record stored at ``url``; :class:`NoRecord` if it is None."""
    return NoRecord() if url is None else StoredRecord(study, url, description)


def _open(url: str) -> RDBStorage:
    from optuna.storages import RDBStorage

    return RDBStorage(url, heartbeat_interval=HEARTBEAT_SECONDS, grace_period=GRACE_SECONDS)


def _past(storage: RDBStorage, name: str, description: dict[str, Any]) -> list[FrozenTrial]:
    import optuna

    study = optuna.create_study(storage=storage, study_name=name, load_if_exists=True)
    described = json.loads(json.dumps(description))
    stored = study.user_attrs.get(_DESCRIPTION)
    if stored is None:
        study.set_user_attr(_DESCRIPTION, described)
    elif stored != described:
        changed = sorted(key for key in described if described[key] != stored.get(key))
        raise ValueError(
            f"study {name!r} was started with another {' and '.join(changed)}, so its losses cannot be compared. "
            "Search under another study name"
        )
    optuna.storages.fail_stale_trials(study)
    trials = study.get_trials(deepcopy=False)
    storage.remove_session()
    return trials


def _nothing() -> None:
    return
