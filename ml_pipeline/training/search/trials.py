"""Trials of a search with the loss of every fold, and the result of a search."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

State = Literal["complete", "pruned", "failed", "interrupted"]


@dataclass(frozen=True)
class Trial:
    """One parameter set and its loss in each fold that was fitted.

    ``failed``: a fit raised an error or gave a loss that is not finite, see ``error``. ``pruned``: stopped early after
    a fold. ``interrupted``: stopped by the end of its process or of the time; another trial replaces it.
    """

    number: int
    params: dict[str, Any]
    losses: tuple[float, ...]
    state: State
    declared: bool = False
    error: str | None = None

    @property
    def mean(self) -> float | None:
        """Mean loss over the fitted folds; None if no fold was fitted."""
        return float(np.mean(self.losses)) if self.losses else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation of the fold losses; None with fewer than two."""
        return float(np.std(self.losses, ddof=1)) if len(self.losses) > 1 else None


@dataclass(frozen=True)
class SearchResult:
    """All trials of a search by number; at least one is complete."""

    trials: tuple[Trial, ...]
    seconds: float
    stopped: str

    @property
    def best(self) -> Trial:
        """The complete trial with the lowest mean loss; the first one if several are equal."""
        complete = [trial for trial in self.trials if trial.state == "complete"]
        return min(complete, key=lambda trial: (np.mean(trial.losses), trial.number))

    @property
    def declared(self) -> Trial | None:
        """The trial with the declared parameters; None if they could not be fitted."""
        return next((trial for trial in self.trials if trial.declared and trial.state == "complete"), None)

    @property
    def gain(self) -> float | None:
        """1 - best mean loss / mean loss of the declared parameters, in the folds that selected the best.

        This gain is optimistic. :func:`ml_pipeline.training.search.search.trials_worth` needs the gain on rows that the
        search did not use.
        """
        declared = self.declared.mean if self.declared else None
        return 1 - float(np.mean(self.best.losses)) / declared if declared else None

    def summary(self) -> dict[str, Any]:
        """Summary for JSON; ``history`` contains (number, mean loss, state) of each trial."""
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
