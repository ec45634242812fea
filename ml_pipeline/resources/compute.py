"""Runs the tasks of one run in warm worker processes; a task that fails does not affect the others."""

from __future__ import annotations

import atexit
import multiprocessing
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, as_completed
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, Generic, TypeVar

from pebble import ProcessExpired, ProcessPool

from ml_pipeline.errors import short_traceback
from ml_pipeline.resources.folders import hide_new_files

Key = TypeVar("Key", bound=Hashable)

# Modules that every worker needs. The fork server imports them once, so that a worker starts in milliseconds instead of
# seconds.
PRELOAD = ["ml_pipeline.work.preload"]


@dataclass(frozen=True)
class Result(Generic[Key]):
    """The outcome of one task: its value, or the error that ended it."""

    key: Key
    value: Any = None
    error: str | None = None
    traceback: str = ""  # shortened


def start_fork_server(log: Path | None = None) -> None:
    """Start the fork server unless it runs, and return at once: it imports ``PRELOAD`` while the caller continues.

    A command that will train can call this first, because the imports take seconds. The output of the workers is then
    appended to the file ``log``; by default it goes where that of this process goes now.
    """
    forkserver.set_forkserver_preload(PRELOAD)
    with ExitStack() as redirected:
        if log is not None:
            from dagster._core.execution.compute_logs import redirect_to_file

            for stream in (sys.stdout, sys.stderr):
                redirected.enter_context(redirect_to_file(stream, log))
        forkserver.ensure_running()


class _Pool:
    """The pool of worker processes; it is started at the first use and kept."""

    def __init__(self) -> None:
        self._pool: ProcessPool | None = None
        self._workers = 0

    def get(self, workers: int) -> ProcessPool:
        if self._pool is not None and (not self._pool.active or workers != self._workers):
            self.close()
        if self._pool is None:
            context = multiprocessing.get_context("forkserver")
            start_fork_server()
            self._pool = ProcessPool(max_workers=workers, context=context, initializer=hide_new_files)
            self._workers = workers
        return self._pool

    def close(self) -> None:
        if self._pool is not None:
            self._pool.stop()  # type: ignore[no-untyped-call] # pebble leaves it without types
            self._pool.join()
            self._pool = None


_pool = _Pool()
atexit.register(_pool.close)


class Compute:
    """Runs one function over many tasks in worker processes.

    A task that raises, exceeds ``timeout`` or loses its process (killed, out of memory) gives a ``Result`` with an
    error; the other tasks continue. A task may run twice if the whole pool has to be replaced, so it must be
    idempotent.

    Parameters
    ----------
    workers
        Number of worker processes.
    timeout
        Seconds that one task may take.
    announce
        Called with the key of each task that has ended.
    """

    def __init__(self, workers: int, timeout: float, announce: Callable[[str], None] = lambda _: None) -> None:
        self.workers = workers
        self.timeout = timeout
        self.announce = announce

    def map(self, function: Callable[[Any], Any], tasks: Iterable[tuple[Key, Any]]) -> Iterator[Result[Key]]:
        """Yield one ``Result`` per (key, argument), in order of completion.

        ``function`` and the arguments must be picklable.
        """
        waiting = dict(tasks)
        pool = _pool.get(self.workers)
        futures: dict[Future[Any], Key] = {
            pool.schedule(function, args=[argument], timeout=self.timeout): key for key, argument in waiting.items()
        }
        interrupted = []
        for future in as_completed(futures):
            key = futures[future]
            result = self._result(key, future)
            if result is None:
                interrupted.append(key)
            else:
                self.announce(str(key))
                yield result
        for key in interrupted:
            # One after the other, so that a task that breaks the pool interrupts no other task.
            future = _pool.get(self.workers).schedule(function, args=[waiting[key]], timeout=self.timeout)
            result = self._result(key, future) or Result(key, error="its worker pool broke twice")
            self.announce(str(key))
            yield result

    def _result(self, key: Key, future: Future[Any]) -> Result[Key] | None:
        try:
            return Result(key, value=future.result())
        except FutureTimeout:
            return Result(
                key, error=f"took longer than {self.timeout:.0f} s and was stopped (ML_PIPELINE_TENANT_TIMEOUT)"
            )
        except ProcessExpired as error:
            return Result(
                key, error=f"its worker process died with exit code {error.exitcode} (killed, or out of memory)"
            )
        except CancelledError:
            return None
        except Exception as error:  # noqa: BLE001 - whatever a task raises is that task's result
            return Result(key, error=f"{type(error).__name__}: {error}", traceback=short_traceback(error))
