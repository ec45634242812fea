"""Execution of the fits of a search, in this process or in worker processes that keep the data."""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait
from typing import Any, NamedTuple, Protocol

from pebble import ProcessExpired, ProcessPool

Objective = Callable[[dict[str, Any], int], float]


class Outcome(NamedTuple):
    """The loss of one fold, or its error."""

    loss: float | None
    error: str | None


class Pending(Protocol):
    """A submitted fit."""

    def result(self, seconds: float | None) -> Outcome:
        """The outcome; raises TimeoutError if a worker process takes longer than ``seconds``."""

    def cancel(self) -> object:
        """Cancel the fit; a fit that runs in a worker process is stopped."""


Submit = Callable[[dict[str, Any], int], Pending]


def evaluate(objective: Objective, params: dict[str, Any], fold: int) -> Outcome:
    """Outcome of one fit; an exception of the objective, or a loss that is not finite, becomes its error."""
    try:
        loss = float(objective(params, fold))
    except Exception as error:  # noqa: BLE001 - parameters that cannot be fitted are a result of the search
        return Outcome(None, f"{type(error).__name__}: {error}")
    return Outcome(loss, None) if math.isfinite(loss) else Outcome(None, f"the loss is {loss}")


@contextmanager
def evaluator(objective: Objective, processes: int) -> Iterator[Submit]:
    """Context manager for a function that submits the fit of one fold and returns its :class:`Pending` outcome.

    With one process, a fit runs when its result is requested. With more, the objective is pickled and sent once to each
    worker process. A worker that dies (killed, out of memory) causes the error of one fold and is replaced. The workers
    end with this process, even if it is killed.

    Raises
    ------
    ValueError
        If the objective cannot be pickled for the workers.
    """
    if processes == 1:
        yield partial(_Here, objective)
        return
    context = multiprocessing.get_context("forkserver")
    pool = ProcessPool(max_workers=processes, context=context, initializer=_receive, initargs=[_pickled(objective)])
    try:
        yield lambda params, fold: _InWorker(pool.schedule(_evaluate_received, args=[params, fold]))
    finally:
        stop: Callable[[], None] = pool.stop  # pebble has no annotation for it
        stop()
        pool.join()


def _pickled(objective: Objective) -> bytes:
    try:
        return pickle.dumps(objective)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(
            f"the objective cannot be sent to worker processes: {error}. Define it at the top level of a module, or "
            "search in one process (training.search.processes: 1)"
        ) from error


@dataclass(frozen=True)
class _Here:
    objective: Objective
    params: dict[str, Any]
    fold: int

    def result(self, seconds: float | None) -> Outcome:
        return evaluate(self.objective, self.params, self.fold)

    def cancel(self) -> None:
        return


@dataclass(frozen=True)
class _InWorker:
    future: Future[Outcome]

    def result(self, seconds: float | None) -> Outcome:
        try:
            return self.future.result(seconds)
        except ProcessExpired as error:
            return Outcome(None, f"the worker process died with exit code {error.exitcode} (killed, or out of memory)")
        except CancelledError:
            return Outcome(None, "the pool of worker processes failed")

    def cancel(self) -> None:
        self.future.cancel()


_received: list[bytes | Objective] = []


def _receive(pickled: bytes) -> None:
    _received[:] = [pickled]
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _evaluate_received(params: dict[str, Any], fold: int) -> Outcome:
    objective = _received[0]
    if isinstance(objective, bytes):
        try:
            objective = _received[0] = pickle.loads(objective)
        except Exception as error:  # noqa: BLE001 - reported once, by the SearchError
            return Outcome(None, f"the objective cannot be loaded in a worker process: {type(error).__name__}: {error}")
    return evaluate(objective, params, fold)
