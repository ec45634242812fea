"""Parameter search: trials judged by their mean loss over folds, within a budget."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ml_pipeline.specs.search import Search
from ml_pipeline.training.search.spaces import Space, grid, nearest
from ml_pipeline.training.search.trials import SearchResult, State, Trial
from ml_pipeline.training.search.workers import Objective, Pending, Submit, evaluator

if TYPE_CHECKING:
    import optuna

MIN_IN_FLIGHT = 4
RANDOM_TRIALS = 10  # random trials before the TPE sampler has enough trials to learn from
FULL_SEARCHES = 2
RECENT_SEARCHES = 5
FULL_LOOK_EVERY = 5
WORTHWHILE_GAIN = 0.005
LITTLE = 4  # divisor of the budget for tenants whose searches gained little
LEAST_TRIALS = 10


class SearchError(ValueError):
    """No trial could be fitted in all folds; the message quotes the error of the first one."""


def search(
    objective: Objective,
    space: Space,
    declared: Mapping[str, Any],
    settings: Search,
    *,
    seed: int,
    processes: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> SearchResult:
    """Search the parameters with the lowest mean loss over ``settings.folds`` folds.

    The first trial uses the declared parameters unchanged; the sampler places it at the nearest point of the space. It
    is always finished, even after the time limit.

    Several trials run at once, each in one fold at a time. The search waits for the oldest fit and decides what follows
    from it before it looks at the next one. The trials therefore depend only on the seed and ``settings.processes``,
    not on which fit is faster (1 and 2 processes give the same trials). The sampler treats running trials as bad ones
    (constant liar: Ginsbourger, Le Riche and Carraro 2010), so that it does not sample the same region twice.

    A trial is pruned by the difference between its mean loss so far and that of the declared parameters in the same
    folds, because losses differ more between folds than between parameters.

    Parameters
    ----------
    objective
        ``objective(params, fold)`` returns the loss, lower is better, of a fit in the fold with that number. ``params``
        are ``declared`` updated with a point of the space.
    space
        Ranges and choices by parameter.
    declared
        Parameters of the specification.
    settings
        ``training.search`` of the specification.
    seed
        Seed of sampler and grid order.
    processes
        Worker processes that are available, if fewer than ``settings.processes``. Does not change the result.
    clock
        Returns seconds.

    Raises
    ------
    SearchError
        If no trial could be fitted in all folds.
    ValueError
        If the objective cannot be pickled for worker processes.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with evaluator(objective, processes or settings.processes) as submit:
        return _Searching(space, declared, settings, seed, submit, clock).run()


def trials_worth(history: Sequence[float], declared: int) -> int:
    """Number of trials for the next search of a tenant, from the gains of its past searches.

    The full budget is given to

    - the first two searches,
    - a tenant whose last five searches gained at least 0.5% on average, and more than the standard error of that
      average (a gain by chance does not count),
    - every fifth search, so that a change of the tenant's data is noticed.

    Other searches get a quarter, but at least ten trials if the full budget has as many. Their gains count like those
    of full searches, so that two good searches in a row restore the full budget.

    Parameters
    ----------
    history
        Relative gain of each past search, newest last: 1 - loss of the tuned parameters / loss of the declared ones, on
        rows that the search did not use.
    declared
        The full budget.

    >>> [trials_worth([0.0] * past, 100) for past in range(11)]
    [100, 100, 25, 25, 100, 25, 25, 25, 25, 100, 25]
    >>> trials_worth([0.0, 0.0, 0.0, 0.04, 0.05], 100)
    100
    """
    if len(history) < FULL_SEARCHES or (len(history) + 1) % FULL_LOOK_EVERY == 0:
        return declared
    recent = np.asarray(history[-RECENT_SEARCHES:], dtype=float)
    error = recent.std(ddof=1) / np.sqrt(len(recent))
    if recent.mean() >= WORTHWHILE_GAIN and recent.mean() > error:
        return declared
    return max(declared // LITTLE, min(declared, LEAST_TRIALS))


@dataclass
class _Running:
    """A running trial that waits for the fit in its next fold."""

    trial: optuna.Trial
    params: dict[str, Any]
    declared: bool
    pending: Pending
    losses: list[float] = field(default_factory=list)


class _Searching:
    """One run of a search."""

    def __init__(
        self,
        space: Space,
        declared: Mapping[str, Any],
        settings: Search,
        seed: int,
        submit: Submit,
        clock: Callable[[], float],
    ) -> None:
        self.space = space
        self.declared = dict(declared)
        self.settings = settings
        self.submit = submit
        self.clock = clock
        self.started = clock()
        self.distributions = {name: parameter.distribution() for name, parameter in space.items()}
        self.trials: list[Trial] = []
        self.yardstick: list[float] = []  # losses of the declared parameters in each fold
        self.study = _study(settings, seed)
        # Points of the grid that are not yet tried, the next one last.
        self.points = grid(space, settings.trials, seed)[::-1] if settings.method == "grid" else None
        self.under_way: deque[_Running] = deque()

    def run(self) -> SearchResult:
        in_flight = max(MIN_IN_FLIGHT, 2 * self.settings.processes)
        while True:
            while len(self.under_way) < in_flight and self._stopped() is None:
                self._begin()
            if not self.under_way:
                break
            self._advance(self.under_way.popleft())
        trials = tuple(sorted(self.trials, key=lambda trial: trial.number))
        if not any(trial.state == "complete" for trial in trials):
            raise SearchError(_nothing_complete(trials))
        return SearchResult(trials, self._elapsed(), self._stopped() or "")

    def _stopped(self) -> str | None:
        """Reason why no further trial starts, or None."""
        if self._needs_declared():
            return None
        begun = sum(trial.state != "interrupted" for trial in self.trials) + len(self.under_way)
        if begun >= self.settings.trials:
            return f"all {self.settings.trials} trials were run"
        if self._is_late():
            return f"the time limit of {self.settings.seconds:g} seconds was reached"
        return "all points of the grid were tried" if self.points == [] else None

    def _needs_declared(self) -> bool:
        tried = any(trial.declared and trial.state != "interrupted" for trial in self.trials)
        return not tried and not any(running.declared for running in self.under_way)

    def _begin(self) -> None:
        is_declared = self._needs_declared()
        if is_declared:
            self.study.enqueue_trial(nearest(self.space, self.declared))
        elif self.points is not None:
            self.study.enqueue_trial(self.points.pop())
        trial = self.study.ask(self.distributions)
        params = dict(self.declared) if is_declared else self.declared | trial.params
        running = _Running(trial, params, is_declared, self.submit(params, 0))
        if is_declared:
            self.yardstick = running.losses
        self.under_way.append(running)

    def _advance(self, running: _Running) -> None:
        """Wait for the fit of a trial, then start its next fold or end it."""
        late = self._is_late()
        if late and (self.under_way or not running.declared):
            return self._cut_off(running)
        try:
            outcome = running.pending.result(None if late else self._seconds_left())
        except TimeoutError:
            return self._cut_off(running)
        if outcome.loss is None:
            return self._end(running, "failed", outcome.error)
        running.losses.append(outcome.loss)
        if len(running.losses) == self.settings.folds:
            return self._end(running, "complete")
        # The difference to the declared parameters in the same folds; the loss itself if those could not be fitted.
        same = self.yardstick[: len(running.losses)]
        reference = np.mean(same) if len(same) == len(running.losses) else 0
        running.trial.report(float(np.mean(running.losses) - reference), len(running.losses))
        if not running.declared and running.trial.should_prune():
            return self._end(running, "pruned")
        running.pending = self.submit(running.params, len(running.losses))
        return self.under_way.append(running)

    def _cut_off(self, running: _Running) -> None:
        """Interrupt all running trials except the declared parameters, which may be queued behind a stuck fit."""
        interrupted = [running, *self.under_way]
        self.under_way = deque(one for one in interrupted if one.declared)
        for one in interrupted:
            if not one.declared:
                one.pending.cancel()
                self._end(one, "interrupted")

    def _end(self, running: _Running, state: State, error: str | None = None) -> None:
        from optuna.trial import TrialState

        told = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED}.get(state, TrialState.FAIL)
        value = float(np.mean(running.losses)) if state == "complete" else None
        self.study.tell(running.trial, value, told)
        number, losses = running.trial.number, tuple(running.losses)
        self.trials.append(Trial(number, running.params, losses, state, running.declared, error))

    def _elapsed(self) -> float:
        return self.clock() - self.started

    def _seconds_left(self) -> float | None:
        return None if self.settings.seconds is None else self.settings.seconds - self._elapsed()

    def _is_late(self) -> bool:
        left = self._seconds_left()
        return left is not None and left <= 0


def _study(settings: Search, seed: int) -> optuna.Study:
    """A study in memory. Its name is fixed, because the Hyperband pruner draws from it."""
    import optuna

    state = int(np.random.SeedSequence([seed, 0]).generate_state(1)[0])
    sampler: optuna.samplers.BaseSampler = optuna.samplers.RandomSampler(seed=state)
    pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
    if settings.method == "tpe":
        sampler = optuna.samplers.TPESampler(n_startup_trials=RANDOM_TRIALS, constant_liar=True, seed=state)
        if settings.pruning == "median":
            pruner = optuna.pruners.MedianPruner(n_startup_trials=RANDOM_TRIALS)
        elif settings.pruning == "hyperband":
            pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=settings.folds)
    return optuna.create_study(study_name="search", sampler=sampler, pruner=pruner)


def _nothing_complete(trials: Sequence[Trial]) -> str:
    first = next((trial for trial in trials if trial.error), None)
    if first is None:
        return f"0 of {len(trials)} trials were finished. Search again, or raise training.search.seconds"
    return (
        f"0 of {len(trials)} trials could be fitted in all folds; trial {first.number} with {first.params} failed with "
        f"{first.error}. Correct training.params or training.search.space"
    )
