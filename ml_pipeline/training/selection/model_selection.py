"""Model selection: baselines, single candidates and their ensemble, judged on held-out rows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd

from ml_pipeline.features.feedback import own_outcomes
from ml_pipeline.specs import ModelSpec
from ml_pipeline.stats import is_significant, losses
from ml_pipeline.training.errors import FitError
from ml_pipeline.training.selection.ensembles import (
    MEDIAN,
    OFFSETS,
    RECENT_MEDIAN,
    Fit,
    candidates,
    fit_members,
    label_median,
    stacking_weights,
    voting_weights,
)
from ml_pipeline.training.selection.predictors import Baseline, Ensemble, Predictor, calibrated
from ml_pipeline.training.selection.probability_calibration import METHODS, calibrate
from ml_pipeline.training.splits import MIN_KNOWN_ROWS, known_before, oldest_first

RECENT_ROWS = 50
LEAST_OF_A_CLASS = 5
PRIOR, POOLED = "prior", "pooled"
POOLED_ROWS = 50  # number of own outcomes at which the tenant's baseline and the pooled value have equal weight


class Predicts(Protocol):
    """Any predictor."""

    def predict(self, frame: pd.DataFrame) -> np.ndarray: ...


@dataclass(frozen=True)
class SelectionResult:
    """Result of model selection: a record per candidate, and the selected predictor, fitted on the train part."""

    selected: str
    predictor: Predictor
    candidates: list[dict[str, Any]]
    curve: list[LearningPoint] = field(default_factory=list)
    reason: str | None = None  # why the baseline was selected, if it was


class LearningPoint(NamedTuple):
    """Number of rows of a fit, and mean losses of the fit and of the baseline on held-out rows."""

    rows: int
    loss: float
    baseline: float


@dataclass(frozen=True)
class _HeldOut:
    """Rows that no member was fitted on, oldest first.

    ``values`` are the members' predictions (rows x members), ``baseline_losses`` the losses of each baseline (rows x
    baselines), ``fitted_on`` the number of rows that the members were fitted on.
    """

    label: np.ndarray
    values: np.ndarray
    baseline_losses: np.ndarray
    fitted_on: np.ndarray

    def informative(self, task: str) -> np.ndarray:
        """Rows that can show whether a model is better than the baseline, as a boolean array.

        For a binary model, these are the rows of fits whose held-out rows have enough labels of either class. Without
        positive labels, any model that predicts slightly less than the prior would be better in every row.
        """
        if task == "regression":
            return np.full(len(self.label), True)
        rows = np.full(len(self.label), False)
        for size in np.unique(self.fitted_on):
            part = self.fitted_on == size
            rows |= part & enough_of_either(self.label[part])
        return rows


@dataclass(frozen=True, eq=False)
class _Scored:
    ensemble: Ensemble
    losses: np.ndarray


def select_model(
    spec: ModelSpec, train_rows: pd.DataFrame, validation: pd.DataFrame, seed: int, pooled: float | None = None
) -> SelectionResult:
    """Fit every candidate on ``train_rows`` and select the predictor.

    Held-out rows are the validation part, predicted by fits on the train part. If the train part is large enough, its
    newer half is held out too, predicted by fits on its older half. These out-of-fold predictions, in time order, give
    the weights of the ensemble members, the calibration of probabilities, and the loss of every candidate.

    1. The ensemble is selected if its loss is below the baseline's by more than ``training.min_improvement_se``
       standard errors of the paired difference (1 is the one-standard-error rule, Breiman et al. 1984).
    2. For a binary model, else the best single candidate that meets the same rule, judged on fits whose held-out rows
       have at least five labels of either class. For a regression no single candidate is selected, because the ensemble
       includes the baselines: if the ensemble is not significantly better, a single candidate that is was lucky.
       Selecting it made the worst tenant of ``benchmarks.story_points`` 27% worse than its training median instead of
       7%. The median of the newest 50 labels is never selected alone either: it made the worst tenant of
       ``benchmarks.lead_time`` 17% worse.
    3. With ``pooled``, else the baseline shrunk toward it, if it meets the same rule.
    4. Else the baseline.

    A candidate that fails is recorded with its error and the others continue.

    Parameters
    ----------
    spec
        The model.
    train_rows, validation
        Matured feature rows; all of ``validation`` come after ``train_rows``.
    seed
        Seed of the learners.
    pooled
        Typical label of other tenants in the reported unit, or None.
    """
    simple = baselines(spec, train_rows, pooled)
    baseline = next(iter(simple.values()))
    fit = fit_members(spec, train_rows, seed)
    if fit.ensemble is None:
        records = [_record(spec, name, row_losses(spec, validation, candidate)) for name, candidate in simple.items()]
        return SelectionResult(
            next(iter(simple)), baseline, records + _failed(spec, fit), reason="no candidate could be fitted"
        )
    held_out = _held_out(spec, train_rows, validation, fit.ensemble, simple, seed, pooled)
    scored = _score_candidates(spec, fit.ensemble, held_out)
    informative = held_out.informative(spec.task)
    gains = {name: (held_out.baseline_losses[:, 0] - one.losses)[informative] for name, one in scored.items()}
    records = [_record(spec, name, loss) for name, loss in zip(simple, held_out.baseline_losses.T, strict=True)]
    records += [_record(spec, name, one.losses) | _chosen(one.ensemble) for name, one in scored.items()]
    records += _failed(spec, fit)
    if informative.any():
        for name in _significance_candidates(spec, gains):
            if is_significant(gains[name], spec.training.min_improvement_se):
                curve = _curve(held_out, scored[name].losses)
                return SelectionResult(name, scored[name].ensemble, records, curve)
        if POOLED in simple:
            gain = held_out.baseline_losses[:, 0] - held_out.baseline_losses[:, list(simple).index(POOLED)]
            if is_significant(gain[informative], spec.training.min_improvement_se):
                return SelectionResult(POOLED, simple[POOLED], records)
    reason = _insignificant(
        spec, next(iter(simple)), _significance_candidates(spec, gains) if informative.any() else []
    )
    return SelectionResult(next(iter(simple)), baseline, records, reason=reason)


def baselines(spec: ModelSpec, rows: pd.DataFrame, pooled: float | None = None) -> dict[str, Baseline]:
    """Candidates that predict one value for all rows, by name; the first is the baseline.

    Labels are weighted by the column ``weight`` if there is one, as in a fit, but not by age. With ``pooled``, the
    typical label of other tenants, the last candidate is the baseline shrunk toward it with the weight of 50 outcomes.
    """
    if spec.task == "binary":
        found = {PRIOR: Baseline(float(np.average(rows["label"], weights=rows.get("weight"))))}
    else:
        newest = np.lexsort((rows["entity_id"].to_numpy(dtype=str), rows["label_time"].to_numpy()))[-RECENT_ROWS:]
        found = {
            MEDIAN: Baseline(label_median(rows)),
            RECENT_MEDIAN: Baseline(label_median(rows.iloc[newest])),
        }
    if pooled is None:
        return found
    own = next(iter(found.values())).value
    shrunk = (len(rows) * own + POOLED_ROWS * pooled) / (len(rows) + POOLED_ROWS)
    return found | {POOLED: Baseline(shrunk)}


def row_losses(spec: ModelSpec, rows: pd.DataFrame, predictor: Predicts) -> np.ndarray:
    """:func:`~ml_pipeline.stats.losses` of a predictor on labelled rows, float64 per row."""
    return losses(spec.task, rows["label"].to_numpy(), predictor.predict(rows))


def failures(records: list[dict[str, Any]]) -> list[str]:
    """A sentence for each candidate record with an error."""
    return [f"{record['name']} failed: {record['error']}" for record in records if record["error"]]


def fit_again(spec: ModelSpec, chosen: Ensemble, rows: pd.DataFrame, seed: int) -> Ensemble:
    """The members with a weight above 0, fitted on ``rows``, with the weights and the calibration of ``chosen``.

    Raises
    ------
    FitError
        If a member cannot be fitted on these rows, although it was fitted on fewer.
    """
    weighted = chosen.only(np.flatnonzero(chosen.weights > 0))
    fit = fit_members(spec, rows, seed, [replace(member, learner=None) for member in weighted.members])
    if fit.errors:
        raise FitError("; ".join(fit.errors.values()))
    if fit.ensemble is None:  # the recent median, which has no learner, has all the weight
        return replace(weighted, median=label_median(rows))
    return replace(fit.ensemble, weights=weighted.weights, calibration=chosen.calibration)


def _held_out(
    spec: ModelSpec,
    train_rows: pd.DataFrame,
    validation: pd.DataFrame,
    fitted: Ensemble,
    simple: dict[str, Baseline],
    seed: int,
    pooled: float | None,
) -> _HeldOut:
    rows = validation.iloc[oldest_first(validation)]
    parts = [_predicted(spec, rows, fitted, simple, len(train_rows))]
    order = oldest_first(train_rows)
    newer = train_rows.iloc[order[len(order) // 2 :]]
    older = train_rows.iloc[known_before(train_rows, order[: len(order) // 2], newer["event_time"].iloc[0])]
    newer = newer[own_outcomes(newer)]
    if len(newer) and len(older) >= 2 * MIN_KNOWN_ROWS:
        fit = fit_members(spec, older, seed, [replace(member, learner=None) for member in fitted.members])
        if fit.ensemble is not None and not fit.errors:
            parts.insert(0, _predicted(spec, newer, fit.ensemble, baselines(spec, older, pooled), len(older)))
    return _HeldOut(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _predicted(
    spec: ModelSpec, rows: pd.DataFrame, fitted: Ensemble, simple: dict[str, Baseline], fitted_on: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    baseline_losses = np.column_stack([row_losses(spec, rows, one) for one in simple.values()])
    return rows["label"].to_numpy(), fitted.member_values(rows), baseline_losses, np.full(len(rows), fitted_on)


def _curve(held_out: _HeldOut, losses: np.ndarray) -> list[LearningPoint]:
    """One point per fit that predicted held-out rows: a learning curve without additional fits."""
    parts = {int(size): held_out.fitted_on == size for size in np.unique(held_out.fitted_on)}
    return [
        LearningPoint(size, float(losses[part].mean()), float(held_out.baseline_losses[part, 0].mean()))
        for size, part in parts.items()
    ]


def _score_candidates(spec: ModelSpec, fitted: Ensemble, held_out: _HeldOut) -> dict[str, _Scored]:
    """Scores of each candidate alone, then of the ensemble of all candidates and offsets."""
    learnt = [name for name in candidates(spec) if any(member.candidate == name for member in fitted.members)]
    groups = {name: [name] for name in learnt}
    if spec.training.ensemble != "none" and len(fitted.members) > 1:
        groups[spec.training.ensemble] = [*learnt, *OFFSETS]
    scored = {}
    for name, names in groups.items():
        positions = [at for at, member in enumerate(fitted.members) if member.candidate in names]
        scored[name] = _score_candidate(spec, fitted.only(positions), held_out.values[:, positions], held_out.label)
    return scored


def _score_candidate(spec: ModelSpec, members: Ensemble, values: np.ndarray, label: np.ndarray) -> _Scored:
    """The members with weights and calibration from the held-out rows, and the losses on these rows."""
    stacked = spec.training.ensemble == "stacking"
    if spec.task == "regression":
        weights = stacking_weights(values, label) if stacked else voting_weights(np.abs(values - label[:, None]))
        weighted = replace(members, weights=weights)
        return _Scored(weighted, losses(spec.task, label, weighted.combined(values)))
    probabilities = calibrated(None, values)
    if stacked:
        weights = stacking_weights(probabilities, label)
    else:
        weights = voting_weights((probabilities - label[:, None]) ** 2, half_life_rows=np.inf)
    wanted = spec.training.calibration
    calibration, crossed = calibrate(values @ weights, label, METHODS if wanted == "auto" else (wanted,))
    return _Scored(replace(members, weights=weights, calibration=calibration), losses(spec.task, label, crossed))


def _significance_candidates(spec: ModelSpec, gains: dict[str, np.ndarray]) -> list[str]:
    """Candidates that may be selected, in order of precedence."""
    ensemble = spec.training.ensemble
    singles = sorted((name for name in gains if name != ensemble), key=lambda name: -gains[name].sum())
    if ensemble not in gains:
        return singles
    return [ensemble] if spec.task == "regression" else [ensemble, *singles]


def _insignificant(spec: ModelSpec, baseline: str, judged: list[str]) -> str:
    if not judged:
        return (
            f"no candidate beat the {baseline}: the held-out rows have fewer than {LEAST_OF_A_CLASS} labels of one "
            "class, too few to compare"
        )
    alone = judged == [spec.training.ensemble]
    if spec.training.min_improvement_se < 0:
        whose = "the ensemble's" if alone else "every"
        return f"no candidate came near the {baseline}: {whose} loss on held-out rows is above it by {_errors(spec)}"
    whose = "the ensemble" if alone else "any candidate"
    return f"no candidate beat the {baseline}: it does not hold for {whose} that its {significance_required(spec)}"


def enough_of_either(label: np.ndarray) -> bool:
    """Whether there are enough labels of either class (0 and 1) to compare models."""
    positives = label.sum()
    return bool(min(positives, len(label) - positives) >= LEAST_OF_A_CLASS)


def significance_required(spec: ModelSpec) -> str:
    """The condition that a selected candidate must meet, as text.

    >>> from ml_pipeline.specs import load_specs
    >>> significance_required(load_specs()["story_points"])
    "loss on held-out rows is below the baseline's by more than 1 standard error of their difference"
    """
    if spec.training.min_improvement_se < 0:
        return f"loss on held-out rows is not above the baseline's by {_errors(spec)}"
    return f"loss on held-out rows is below the baseline's by more than {_errors(spec)}"


def _errors(spec: ModelSpec) -> str:
    count = f"{abs(spec.training.min_improvement_se):g}"
    return f"{count} standard error{'' if count == '1' else 's'} of their difference"


def _record(spec: ModelSpec, name: str, losses: np.ndarray) -> dict[str, Any]:
    return {"name": name, spec.headline_metric: float(losses.mean()), "error": None}


def _chosen(ensemble: Ensemble) -> dict[str, Any]:
    pairs = zip(ensemble.members, ensemble.weights.tolist(), strict=True)
    chosen: dict[str, Any] = {"weights": {member.name: round(weight, 4) for member, weight in pairs if weight}}
    if ensemble.calibration is not None:
        chosen["calibration"] = ensemble.calibration.method
    return chosen


def _failed(spec: ModelSpec, fit: Fit) -> list[dict[str, Any]]:
    return [{"name": name, spec.headline_metric: None, "error": error} for name, error in fit.errors.items()]
