"""Search for parameters of the declared estimator and for preprocessing, used if significantly better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from ml_pipeline.features.encoding.preprocessing import Preprocessor, fit_preprocessor
from ml_pipeline.features.encoding.text import TextMemo
from ml_pipeline.features.feedback import own_outcomes
from ml_pipeline.features.selection import Stability, stability
from ml_pipeline.specs import ModelSpec, choices, with_choices
from ml_pipeline.specs.names import TEXT, feature_name
from ml_pipeline.specs.search import Search
from ml_pipeline.stats import is_significant, losses
from ml_pipeline.training.learners.base import Params
from ml_pipeline.training.search.search import SearchError, search, trials_worth
from ml_pipeline.training.search.spaces import space_of
from ml_pipeline.training.search.trials import SearchResult
from ml_pipeline.training.selection.ensembles import fit_member, fit_members, plain_member, typical
from ml_pipeline.training.selection.model_selection import enough_of_either, row_losses
from ml_pipeline.training.selection.predictors import Ensemble, wanted
from ml_pipeline.training.splits import Fold, folds

PREPROCESSING = "preprocessing."
MATRIX_BYTES = 128 * 2**20  # limit for cached matrices of folds, which trials with the same preprocessing share


@dataclass(frozen=True)
class TrainingContext:
    """Inputs of a training besides the rows.

    - ``gains``: gains of the tenant's earlier searches, newest last.
    - ``processes``: worker processes that the machine can spare, by default as many as the specification sets. They do
      not change the result.
    - ``pooled``: typical outcome of the other tenants that share, in the reported unit; None if no tenant shares.
    """

    gains: tuple[float, ...] = ()
    processes: int | None = None
    pooled: float | None = None


NO_CONTEXT = TrainingContext()


@dataclass(frozen=True)
class SearchReport:
    """Trials and result of a search.

    ``params`` and ``preprocessing`` are those that the version is fitted with; they are the declared ones unless
    ``used``. ``gain`` is 1 - loss / loss with the declared ones on the validation part, which the search did not use; 0
    unless ``used``. ``budget`` is the number of trials that the adaptive rule allowed, at most
    ``training.search.trials``. ``why`` is the reason if the result is not used.
    """

    params: dict[str, Any]
    preprocessing: dict[str, Any]
    used: bool
    gain: float
    budget: int
    result: SearchResult | None
    why: str

    @property
    def counts(self) -> dict[str, int]:
        """Number of trials by state."""
        trials = self.result.trials if self.result else ()
        states = ("complete", "pruned", "failed", "interrupted")
        return {state: sum(trial.state == state for trial in trials) for state in states}

    @property
    def seconds(self) -> float:
        return self.result.seconds if self.result else 0.0

    def sentence(self) -> str:
        """One sentence for the notes of a version."""
        if self.result is None:
            return f"no search: {self.why}"
        counts = ", ".join(f"{count} {state}" for state, count in self.counts.items() if count)
        text = f"search: {len(self.result.trials)} trials ({counts}) in {self.seconds:.1f} s, {self.result.stopped}"
        if not self.used:
            return f"{text}; {self.why}"
        chosen = ", ".join(
            f"{name} {f'{value:.4g}' if isinstance(value, float) else value}"
            for name, value in (self.params | self.preprocessing).items()
        )
        change = f"{abs(self.gain):.1%} {'lower' if self.gain > 0 else 'higher'} on the validation part"
        return f"{text}; {chosen} instead of the declared parameters, loss {change}"

    def to_dict(self) -> dict[str, Any]:
        """All fields as values for JSON."""
        own = {name: getattr(self, name) for name in ("params", "preprocessing", "used", "gain", "budget", "why")}
        return own | (self.result.summary() if self.result else {})


def tuned(
    spec: ModelSpec, rows: pd.DataFrame, validation: pd.DataFrame, seed: int, context: TrainingContext
) -> tuple[ModelSpec, SearchReport | None]:
    """The specification to fit with, after the parameter search if ``training.search`` is set.

    The search covers the parameters of the declared estimator and every key of ``preprocessing`` whose value is a list.
    It uses ``rows`` (the train part) only. A trial is judged by the loss of the declared estimator with the median of
    the labels as offset: absolute error, or squared error of a probability, as in the model selection. Everything is
    fitted inside each fold. Rows whose label comes from feedback are trained on but not used for judging. Selected
    preprocessing applies to all candidates.

    The best trial is used if its loss is below that of the declared parameters in the same folds by more than one
    standard error of the paired differences per row (three or four fold means would be too few for a standard error).
    Because the best of many trials is partly luck, its gain is measured again on ``validation``; the adaptive budget
    uses that gain. The declared parameters are kept if the rows cannot be split into folds or nothing can be fitted.

    Parameters
    ----------
    spec
        The model.
    rows, validation
        Matured feature rows of the train and the validation part.
    seed
        Seed of fits, folds and sampler.
    context
        Worker processes and the gains of earlier searches.

    Returns
    -------
    ModelSpec
        ``spec`` with the parameters to fit with. Its hash may differ from that of ``spec``, under which versions are
        registered.
    SearchReport or None
        Report of the search; None unless ``training.search`` is set.
    """
    settings = spec.training.search
    if settings is None:
        return spec, None
    budget = trials_worth(context.gains, settings.trials) if settings.adaptive else settings.trials
    settings = settings.model_copy(update={"trials": budget})
    preprocessing = {f"{PREPROCESSING}{name}": tuple(values) for name, values in choices(spec).items()}
    space = space_of(spec.training.estimator, settings.space, preprocessing)
    try:
        parts = _folds(settings, rows, seed)
        losses = FoldLosses(spec, rows, parts, seed)
        result = search(
            losses,
            space,
            spec.training.params,
            settings,
            seed=seed,
            processes=context.processes,
        )
    except (SearchError, FoldsError) as error:
        return spec, _kept(spec, budget, None, str(error))
    return _weighed(spec, rows, validation, losses, result, budget)


class FoldsError(ValueError):
    """The rows cannot be split into the folds that the search requires."""


def with_params(spec: ModelSpec, params: Params | None) -> ModelSpec:
    """A copy of ``spec`` with these parameters of the declared estimator; ``spec`` itself if ``params`` is empty."""
    if params is None:
        return spec
    return spec.model_copy(update={"training": spec.training.model_copy(update={"params": dict(params)})})


def selection_stability(spec: ModelSpec, rows: pd.DataFrame, seed: int) -> Stability | None:
    """Stability of the feature selection over folds of the training rows; None if they cannot be split into folds.

    The folds are those of ``training.search``, or its defaults.
    """
    settings = spec.training.search or Search()
    try:
        parts = _folds(settings, rows, seed)
    except FoldsError:
        return None
    selected, features = [], set()
    for fold in parts:
        fitted = fit_preprocessor(spec, rows.iloc[fold.train])
        selected.append(set(fitted.features))
        features |= {*replace(fitted, kept=None).features, *([TEXT] if spec.features.text else [])}
    return stability(selected, sorted(features))


class FoldLosses:
    """Objective of a search: the loss of the declared estimator in a fold with given parameters and preprocessing.

    Text is fitted once per fold, and preprocessed matrices are cached up to a size limit. A copy in another process
    starts with empty caches.
    """

    def __init__(self, spec: ModelSpec, rows: pd.DataFrame, parts: list[Fold], seed: int) -> None:
        self.spec = spec
        self.rows = rows
        self.parts = parts
        self.seed = seed
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        return {"spec": self.spec, "rows": self.rows, "parts": self.parts, "seed": self.seed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def _forget(self) -> None:
        self._memo = TextMemo()
        self._prepared: dict[tuple[Any, ...], tuple[Preprocessor, Any, Any]] = {}

    def __call__(self, params: dict[str, Any], fold: int) -> float:
        return float(self.of_rows(params, fold).mean())

    def of_rows(self, params: Mapping[str, Any], fold: int) -> np.ndarray:
        """Loss of each validation row of the fold."""
        spec, part = fitted_with(self.spec, params), self.parts[fold]
        train, validation = self.rows.iloc[part.train], self.rows.iloc[part.validation]
        preprocessor, matrix, unseen = self._matrices(spec, fold, train, validation)
        median, plain = typical(spec, train), plain_member(spec)
        member = fit_member(spec, plain, train, matrix, median, self.seed)
        kind = wanted(member)
        ensemble = Ensemble({kind: preprocessor}, (member,), np.ones(1), "mean", median)
        value = ensemble.combined(ensemble.value_of(member, validation, {kind: unseen})[:, None])
        return losses(spec.task, validation["label"].to_numpy(), value)

    def _matrices(
        self, spec: ModelSpec, fold: int, train: pd.DataFrame, validation: pd.DataFrame
    ) -> tuple[Preprocessor, Any, Any]:
        key = (fold, *spec.preprocessing.settled)
        if key not in self._prepared:
            for_linear = wanted(plain_member(spec)) == "linear"
            fitted = fit_preprocessor(spec, train, for_linear, self._memo)
            self._prepared[key] = fitted, fitted.transform(train), fitted.transform(validation)
            while len(self._prepared) > 1 and sum(map(_bytes, self._prepared.values())) > MATRIX_BYTES:
                del self._prepared[next(iter(self._prepared))]
        return self._prepared[key]


def fitted_with(spec: ModelSpec, point: Mapping[str, Any]) -> ModelSpec:
    """A copy of ``spec`` with the parameters and the preprocessing of a trial."""
    params = {name: value for name, value in point.items() if not name.startswith(PREPROCESSING)}
    chosen = {name.removeprefix(PREPROCESSING): value for name, value in point.items() if name not in params}
    return with_params(with_choices(spec, chosen), params)


def _folds(settings: Search, rows: pd.DataFrame, seed: int) -> list[Fold]:
    try:
        group = None if settings.group is None else feature_name(settings.group)
        parts = folds(rows, settings.split, settings.folds, settings.gap_days, group, seed)
    except ValueError as error:
        raise FoldsError(str(error)) from error
    own = own_outcomes(rows)
    judged = [Fold(part.train, part.validation[own[part.validation]]) for part in parts]
    if not all(len(part.validation) for part in judged):
        raise FoldsError("every validation row of a fold has its label from feedback. Wait for outcomes")
    return judged


def _weighed(
    spec: ModelSpec,
    rows: pd.DataFrame,
    validation: pd.DataFrame,
    losses: FoldLosses,
    result: SearchResult,
    budget: int,
) -> tuple[ModelSpec, SearchReport]:
    best = result.best
    if best.declared:
        return spec, _kept(spec, budget, result, "the declared parameters are kept: no trial was better")
    if result.declared is not None:
        tried = [
            fold for fold, part in enumerate(losses.parts) if _is_informative(spec, rows["label"].iloc[part.validation])
        ]
        if not tried:
            why = "the declared parameters are kept: every fold has too few labels of one class to compare"
            return spec, _kept(spec, budget, result, why)
        declared, found = (
            np.concatenate([losses.of_rows(trial.params, fold) for fold in tried]) for trial in (result.declared, best)
        )
        if not is_significant(declared - found):
            share = 1 - found.mean() / declared.mean()
            why = f"the declared parameters are kept: the best loss was {share:.1%} lower, less than its standard error"
            return spec, _kept(spec, budget, result, why)
    chosen = fitted_with(spec, best.params)
    preprocessing = {name: getattr(chosen.preprocessing, name) for name in choices(spec)}
    gain = _gain(spec, chosen, rows, validation, losses.seed)
    return chosen, SearchReport(dict(chosen.training.params), preprocessing, True, gain, budget, result, "")


def _kept(spec: ModelSpec, budget: int, result: SearchResult | None, why: str) -> SearchReport:
    preprocessing = {name: values[0] for name, values in choices(spec).items()}
    return SearchReport(dict(spec.training.params), preprocessing, False, 0.0, budget, result, why)


def _is_informative(spec: ModelSpec, label: pd.Series) -> bool:
    """Whether the labels can compare two models: without positives, the model with lower probabilities would win."""
    return spec.task == "regression" or enough_of_either(label.to_numpy())


def _gain(spec: ModelSpec, chosen: ModelSpec, rows: pd.DataFrame, validation: pd.DataFrame, seed: int) -> float:
    """Relative gain of ``chosen`` over ``spec`` on the validation part, which the search did not use.

    It is 0 if the labels cannot compare two models, if one of the two cannot be fitted, or if the loss is already 0.
    """
    if not _is_informative(spec, validation["label"]):
        return 0.0
    losses = []
    for one in (spec, chosen):
        ensemble = fit_members(one, rows, seed, [plain_member(one)]).ensemble
        if ensemble is None:
            return 0.0
        losses.append(float(row_losses(one, validation, ensemble).mean()))
    return 1 - losses[1] / losses[0] if losses[0] else 0.0


def _bytes(prepared: tuple[Preprocessor, Any, Any]) -> int:
    return sum(matrix.nbytes if isinstance(matrix, np.ndarray) else 3 * matrix.data.nbytes for matrix in prepared[1:])
