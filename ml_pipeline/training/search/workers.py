"""Where the folds of a trial are fitted: in this process, or in worker processes that hold the data."""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait
from typing import Any, NamedTuple, Protocol

from pebble import ProcessExpired, ProcessFuture, ProcessPool

Objective = Callable[[dict[str, Any], int], float]


class Outcome(NamedTuple):
    """The loss of one fold, or the error that it ended with."""

    loss: float | None
    error: str | None


class Pending(Protocol):
    """A fit that was asked for."""

    def result(self, seconds: float | None) -> Outcome:
        """Its outcome; TimeoutError if a worker process takes longer than ``seconds``."""

    def cancel(self) -> object:
        """Ends it, also in the middle if it is in a worker process."""


Submit = Callable[[dict[str, Any], int], Pending]


def evaluate(objective: Objective, params: dict[str, Any], fold: int) -> Outcome:
    """Whatever the objective raises is this fold's outcome, and so is a loss that is not finite."""
    try:
        loss = float(objective(params, fold))
    except Exception as error:  # noqa: BLE001 - a parameter set that cannot be fitted is an answer, not a fault
        return Outcome(None, f"{type(error).__name__}: {error}")
    return Outcome(loss, None) if math.isfinite(loss) else Outcome(None, f"the loss is {loss}")


@contextmanager
def evaluator(objective: Objective, processes: int) -> Iterator[Submit]:
    """Starts the fit of one trial's fold; the value waits for its outcome.

    With one process, a fit runs when its outcome is asked for. With more, the objective is sent once to each worker
    process, so it must be picklable; a worker that dies (killed, out of memory) is one fold's error and is replaced.
    The workers end with this process, whatever ends it.

    Raises
    ------
    ValueError
        If the objective cannot be pickled for them.
    """
    if processes == 1:
        yield partial(_Here, objective)
        return
    context = multiprocessing.get_context("forkserver")
    pool = ProcessPool(max_workers=processes, context=context, initializer=_receive, initargs=[_pickled(objective)])
    try:
        yield lambda params, fold: _InWorker(pool.schedule(_evaluate_received, args=[params, fold]))
    finally:
        pool.stop()
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
    future: ProcessFuture

    def result(self, seconds: float | None) -> Outcome:
        try:
            return self.future.result(seconds)
        except ProcessExpired as error:
            return Outcome(None, f"its worker process died with exit code {error.exitcode} (killed, or out of memory)")
        except CancelledError:
            return Outcome(None, "the worker processes broke down")

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
        except Exception as error:  # noqa: BLE001 - said once, by the error of a search without a complete trial
            return Outcome(None, f"the objective cannot be loaded in a worker process: {type(error).__name__}: {error}")
    return evaluate(objective, params, fold)
