"""What a search tried: each trial with the loss of every fold, and the result that people read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

State = Literal["complete", "pruned", "failed", "interrupted"]


@dataclass(frozen=True)
class Trial:
    """One parameter set and its loss in each fold that was fitted.

    ``failed`` is a trial whose fit raised or gave no finite loss (``error`` says why), ``pruned`` one that was given up
    after a fold, ``interrupted`` one that the end of its process or of the time cut off: another is run in its place.
    """

    number: int
    params: dict[str, Any]
    losses: tuple[float, ...]
    state: State
    declared: bool = False
    error: str | None = None

    @property
    def mean(self) -> float | None:
        """Mean loss over the folds that were fitted, None without any."""
        return float(np.mean(self.losses)) if self.losses else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation of the losses of the folds, None with fewer than two."""
        return float(np.std(self.losses, ddof=1)) if len(self.losses) > 1 else None


@dataclass(frozen=True)
class SearchResult:
    """All trials of a search in the order of their numbers, those of earlier sittings included; one is complete."""

    trials: tuple[Trial, ...]
    seconds: float
    stopped: str

    @property
    def best(self) -> Trial:
        """The complete trial of the lowest mean over the folds, the first of equals."""
        complete = [trial for trial in self.trials if trial.state == "complete"]
        return min(complete, key=lambda trial: (np.mean(trial.losses), trial.number))

    @property
    def declared(self) -> Trial | None:
        """The trial of the declared parameters, None if they could not be fitted."""
        return next((trial for trial in self.trials if trial.declared and trial.state == "complete"), None)

    @property
    def gain(self) -> float | None:
        """1 - best mean / mean of the declared parameters, in the folds that chose the best: too good to be true.

        What :func:`ml_pipeline.training.search.search.trials_worth` wants to know is the gain on rows that chose
        nothing.
        """
        declared = self.declared.mean if self.declared else None
        return 1 - float(np.mean(self.best.losses)) / declared if declared else None

    def summary(self) -> dict[str, Any]:
        """What people want to know of a search, as JSON takes it; ``history`` is (number, mean loss, state)."""
        counts = Counter(trial.state for trial in self.trials)
        return {
            "best_trial": self.best.number,
            "best_params": self.best.params,
            "best_mean": self.best.mean,
            "best_deviation": self.best.deviation,
            "best_losses": list(self.best.losses),
            "declared_mean": self.declared.mean if self.declared else None,
            "declared_deviation": self.declared.deviation if self.declared else None,
            "gain_in_folds": self.gain,
            "complete": counts["complete"],
            "pruned": counts["pruned"],
            "failed": counts["failed"],
            "interrupted": counts["interrupted"],
            "seconds": round(self.seconds, 3),
            "stopped": self.stopped,
            "history": [(trial.number, trial.mean, trial.state) for trial in self.trials],
        }
