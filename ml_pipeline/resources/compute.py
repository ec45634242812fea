"""Fan-out of one run's work over warm worker processes, in which each task fails alone."""

from __future__ import annotations

import atexit
import multiprocessing
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, as_completed
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pebble import ProcessExpired, ProcessPool

from ml_pipeline.errors import short_traceback
from ml_pipeline.resources.folders import hide_new_files

Key = TypeVar("Key", bound=Hashable)

# What every worker needs. The fork server imports it once, so that a worker, also the one that replaces a killed one,
# starts in milliseconds instead of the seconds that these imports take.
PRELOAD = ["ml_pipeline.work.preload"]


@dataclass(frozen=True)
class Result(Generic[Key]):
    """What became of one task: its value, or the error that ended it."""

    key: Key
    value: Any = None
    error: str | None = None
    traceback: str = ""  # of what the task raised, shortened


class _Pool:
    """The process pool of this process, made when first needed and kept warm."""

    def __init__(self) -> None:
        self._pool: ProcessPool | None = None
        self._workers = 0

    def get(self, workers: int) -> ProcessPool:
        if self._pool is not None and (not self._pool.active or workers != self._workers):
            self.close()
        if self._pool is None:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(PRELOAD)
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
    """Runs one function over many tasks, results as they complete.

    A task that raises, runs past ``timeout`` seconds or loses its process (killed, out of memory) gives a ``Result``
    with an error; the others are not touched. A task may run twice when the whole pool has to be replaced, so its work
    must be idempotent.
    """

    def __init__(self, workers: int, timeout: float, announce: Callable[[str], None] = lambda _: None) -> None:
        self.workers = workers
        self.timeout = timeout
        self.announce = announce  # called with the key of each task that has ended

    def map(self, function: Callable[[Any], Any], tasks: Iterable[tuple[Key, Any]]) -> Iterator[Result[Key]]:
        """One ``Result`` per (key, argument). ``function`` and its argument must be picklable."""
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
            result = self._alone(function, key, waiting[key])
            self.announce(str(key))
            yield result

    def _alone(self, function: Callable[[Any], Any], key: Key, argument: Any) -> Result[Key]:
        """A task that went down with the pool of others, again in a pool that it can not share its end with."""
        future = _pool.get(self.workers).schedule(function, args=[argument], timeout=self.timeout)
        return self._result(key, future) or Result(key, error="its worker pool broke twice")

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
