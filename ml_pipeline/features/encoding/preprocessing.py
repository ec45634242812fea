"""From a feature frame to the numeric matrix that a learner takes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ml_pipeline.features.encoding.categories import Levels, fit_levels
from ml_pipeline.features.encoding.numeric import Numbers, fit_numbers
from ml_pipeline.features.encoding.text import Text, TextMemo, fit_text
from ml_pipeline.features.selection import select
from ml_pipeline.specs import FeatureColumns, ModelSpec, Selection
from ml_pipeline.specs.names import TEXT
from ml_pipeline.specs.preprocessing import Settled
from ml_pipeline.specs.temporal import is_growing

if TYPE_CHECKING:
    from sklearn.decomposition import TruncatedSVD
    from sklearn.ensemble import IsolationForest
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.impute import MissingIndicator
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder

LINEAR_REACH = 3.0
LINEAR_WEIGHT = 0.1


@dataclass(frozen=True, eq=False)
class Preprocessor:
    """Fitted parts. A part is None where the specification or the training rows have nothing for it.

    Counts that grow with a tenant's age (``*_known``, ``*_open``) are left out: a tree cannot extrapolate them, and on
    the published story-point split they led a tenant whose level moved 30 % astray. Other numeric columns pass as they
    are, NaN kept, unless ``preprocessing`` says otherwise: the boosters send missing values their own way. A missing
    category is a level of its own; a level seen in fewer than 3 rows, or beyond the 50 most frequent, shares one code;
    a level never seen is NaN (ordinal), belongs to the rare ones or to none (onehot), or has the share 0 (frequency).
    Text becomes the components of its TF-IDF, or, without a reducer, the terms themselves: what a linear model takes.
    ``kept`` are the positions of the columns that a selection left.
    """

    columns: FeatureColumns
    encoder: OrdinalEncoder | OneHotEncoder | None
    vectorizer: TfidfVectorizer | None
    reducer: TruncatedSVD | None
    shares: list[dict[str, float]] | None = None
    bounds: np.ndarray | None = None
    filling: Pipeline | None = None
    indicator: MissingIndicator | None = None
    forest: IsolationForest | None = None
    logs: bool = False
    kept: np.ndarray | None = None
    memo: TextMemo | None = field(default=None, repr=False)

    def transform(self, frame: pd.DataFrame) -> Any:
        """Matrix of float32, shape (rows of ``frame``, columns), its columns those of :attr:`features`.

        An ndarray; of a preprocessor with terms a ``scipy.sparse.csr_array``.

        Raises
        ------
        ValueError
            If the frame lacks a column that the version was trained with.
        """
        missing = [name for name in self.columns.all if name not in frame]
        if missing:
            raise ValueError(
                f"the feature frame lacks {missing}, with which the version was trained. Build it from the same spec"
            )
        parts = [self._numbers.transform(_numeric(frame, self.columns))]
        if (levels := self._levels) is not None:
            parts.append(levels.transform(_levels(frame, self.columns)))
        if self.terms:
            parts[0] = np.clip(parts[0], -LINEAR_REACH, LINEAR_REACH) * LINEAR_WEIGHT
            return self._with_terms(np.hstack(parts), frame)
        if self.reducer is not None:
            text = Text(self.vectorizer, self.reducer)
            parts.append(text.components(frame) if self.memo is None else self.memo.components(text, frame))
        matrix = np.hstack(parts)
        return matrix if self.kept is None else matrix[:, self.kept]

    @property
    def terms(self) -> bool:
        """Whether text is given by its terms."""
        return self.vectorizer is not None and self.reducer is None

    def _with_terms(self, matrix: np.ndarray, frame: pd.DataFrame) -> Any:
        from scipy.sparse import csr_array, hstack

        text = Text(self.vectorizer, None)
        terms = text.terms(frame) if self.memo is None else self.memo.terms(text, frame)
        joined = hstack([csr_array(matrix), terms], format="csr", dtype="float32")
        return joined if self.kept is None else joined[:, self.kept]

    @property
    def features(self) -> tuple[str, ...]:
        """For each column of the matrix the feature that it stems from: several columns of one name have one source.

        Numeric columns, ``<column>_is_missing``, ``is_outlier``, categorical columns, then ``text``.
        """
        names = self._numbers.names(steady_columns(self.columns))
        names += [] if self._levels is None else self._levels.names(self.columns.categorical)
        names += [TEXT] * self._text_columns
        return tuple(names if self.kept is None else (names[position] for position in self.kept))

    def parts(self) -> dict[str, Any]:
        """The scikit-learn objects, arrays and shares, to be stored; ``Preprocessor(columns, **parts)`` is the same."""
        not_stored = ("columns", "memo")
        return {name: value for name, value in vars(self).items() if name not in not_stored}

    @property
    def _text_columns(self) -> int:
        if self.vectorizer is None:
            return 0
        return len(self.vectorizer.vocabulary_) if self.reducer is None else self.reducer.n_components

    @property
    def _numbers(self) -> Numbers:
        return Numbers(self.bounds, self.filling, self.indicator, self.forest, self.logs)

    @property
    def _levels(self) -> Levels | None:
        return None if self.encoder is None and self.shares is None else Levels(self.encoder, self.shares)


def fit_preprocessor(
    spec: ModelSpec, frame: pd.DataFrame, for_linear: bool = False, memo: TextMemo | None = None
) -> Preprocessor:
    """Fits every part, and the selection, on ``frame`` alone: pass matured training rows only.

    Deterministic for the specification's seed. Where ``preprocessing`` leaves a choice to the search, the first value
    of its list is taken; :func:`~ml_pipeline.specs.with_choices` fixes another.

    Parameters
    ----------
    for_linear
        Makes of the same specification what a linear model needs: no value is missing (the median, with a flag, where
        the specification keeps missing values), numbers are signed logarithms, of which few stand far out, on one
        scale and within the range that they had in training, a category has a column for each level where the
        specification numbers them, and a text has one for each term. Beside terms, whose squares sum to 1 in a
        row, numbers are cut at 3 standard deviations and count a tenth: unweighted, the penalty that fits thousands of
        rare terms would hardly hold them.
    memo
        Keeps the text parts of a search, see :class:`~ml_pipeline.features.encoding.text.TextMemo`.
    """
    columns = spec.feature_columns
    chosen = _for_linear(spec.preprocessing.settled) if for_linear else spec.preprocessing.settled
    numbers = fit_numbers(chosen, _numeric(frame, columns), for_linear, spec.training.seed)
    levels = (fit_levels(chosen.categorical, _levels(frame, columns)) if columns.categorical else None) or Levels()
    text = (fit_text(spec, frame) if memo is None else memo.fit(spec, frame)) if columns.text else None
    vectorizer, reducer = text or (None, None)
    fitted = Preprocessor(columns, levels.encoder, vectorizer, reducer, levels.shares, **numbers._asdict(), memo=memo)
    if (selection := spec.features.selection) is not None:
        fitted = _with_selection(fitted, spec, selection, frame)
    return _as_terms(fitted) if for_linear and fitted.vectorizer is not None else fitted


def steady_columns(columns: FeatureColumns) -> list[str]:
    """The numeric columns that a learner sees: all but counts that grow with a tenant's age."""
    return [name for name in columns.numeric if not is_growing(name)]


def _for_linear(chosen: Settled) -> Settled:
    if chosen.missing == "none":
        chosen = chosen._replace(missing="median", missing_indicator=True)
    return chosen._replace(categorical="onehot") if chosen.categorical == "ordinal" else chosen


def _with_selection(fitted: Preprocessor, spec: ModelSpec, selection: Selection, frame: pd.DataFrame) -> Preprocessor:
    order = np.argsort(frame["event_time"].to_numpy(), kind="stable")
    rows = frame.iloc[order]
    label = rows["label"].to_numpy(dtype="float64")
    training, names = spec.training, fitted.features
    label = np.log1p(label) if training.target == "log" else label
    chosen = set(select(fitted.transform(rows), label, names, selection, training.loss, training.seed))
    kept = np.flatnonzero([name in chosen for name in names])
    if TEXT in chosen:
        return replace(fitted, kept=kept)
    return replace(fitted, kept=kept, vectorizer=None, reducer=None)  # the last columns: no position moves


def _as_terms(fitted: Preprocessor) -> Preprocessor:
    """The same with the terms of the text in place of their components, which are the last columns of both."""
    kept = fitted.kept
    if kept is not None and fitted.vectorizer is not None:
        first = len(fitted._numbers.names(steady_columns(fitted.columns)))
        first += 0 if fitted._levels is None else len(fitted._levels.names(fitted.columns.categorical))
        kept = np.concatenate([kept[kept < first], first + np.arange(len(fitted.vectorizer.vocabulary_))])
    return replace(fitted, reducer=None, kept=kept)


def _numeric(frame: pd.DataFrame, columns: FeatureColumns) -> np.ndarray:
    return frame[steady_columns(columns)].to_numpy(dtype="float64")


def _levels(frame: pd.DataFrame, columns: FeatureColumns) -> np.ndarray:
    levels = frame[list(columns.categorical)].astype(object)
    return levels.where(levels.notna(), "").to_numpy(dtype=object)
