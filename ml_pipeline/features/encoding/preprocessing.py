"""Preprocessing of a feature frame to the numeric matrix that a learner takes."""

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
    """Fitted preprocessing steps. A step is None if the specification does not use it or no training row needs it.

    - Numeric: counts that grow with a tenant's age (``*_known``, ``*_open``) are left out. Trees cannot extrapolate
      them, and on the published story-point split they caused large errors for a tenant whose level moved by 30%. Other
      numeric columns are unchanged, NaN included, unless ``preprocessing`` sets a step; the boosters handle NaN.
    - Categorical: missing is a level of its own. Levels in fewer than 3 rows, or beyond the 50 most frequent, share one
      code. An unknown level becomes NaN (ordinal), the rare level or all zeros (onehot), or the share 0 (frequency).
    - Text: the components of its TF-IDF or, without ``reducer``, the TF-IDF terms, which linear models take.

    ``kept`` are the positions of the columns that the feature selection kept, or None for all.
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
        """Float32 matrix, shape (rows of ``frame``, columns); :attr:`features` names the columns.

        Returns a ``scipy.sparse.csr_array`` if text is represented by terms, else an ndarray.

        Raises
        ------
        ValueError
            If the frame lacks a column that the version was trained with.
        """
        missing = [name for name in self.columns.all if name not in frame]
        if missing:
            raise ValueError(
                f"the feature frame lacks {missing}, which the version was trained with. Build it from the same spec"
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
        """Whether text is represented by its TF-IDF terms."""
        return self.vectorizer is not None and self.reducer is None

    def _with_terms(self, matrix: np.ndarray, frame: pd.DataFrame) -> Any:
        from scipy.sparse import csr_array, hstack

        text = Text(self.vectorizer, None)
        terms = text.terms(frame) if self.memo is None else self.memo.terms(text, frame)
        joined = hstack([csr_array(matrix), terms], format="csr", dtype="float32")
        return joined if self.kept is None else joined[:, self.kept]

    @property
    def features(self) -> tuple[str, ...]:
        """The source feature of each matrix column; columns with the same name have the same source.

        Order: numeric columns, ``<column>_is_missing``, ``is_outlier``, categorical columns, ``text``.
        """
        names = self._numbers.names(steady_columns(self.columns))
        names += [] if self._levels is None else self._levels.names(self.columns.categorical)
        names += [TEXT] * self._text_columns
        return tuple(names if self.kept is None else (names[position] for position in self.kept))

    def parts(self) -> dict[str, Any]:
        """The fitted steps to store; ``Preprocessor(columns, **parts)`` restores an equal preprocessor."""
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
    """Fit every preprocessing step and the feature selection.

    Deterministic for the specification's seed. If ``preprocessing`` leaves a choice to the search, the first value of
    its list is used; :func:`~ml_pipeline.specs.with_choices` sets another.

    Parameters
    ----------
    spec
        The model.
    frame
        Feature frame with matured training rows only, in any order.
    for_linear
        Adapts the specification to linear models. Missing values are filled (with the median and a flag, if the
        specification keeps them). Numbers become signed logarithms, scaled and limited to their range in training.
        Ordinal categories become one column per level, text one column per term. Beside terms, whose squares sum to 1
        in a row, numbers are clipped at 3 standard deviations and multiplied by 0.1: without this weight, the penalty
        that suits thousands of rare terms would hardly restrict the numeric columns.
    memo
        Shares fitted text between the trials of a search, see
        :class:`~ml_pipeline.features.encoding.text.TextMemo`.
    """
    columns = spec.feature_columns
    chosen = spec.preprocessing.settled
    if for_linear and chosen.missing == "none":
        chosen = chosen._replace(missing="median", missing_indicator=True)
    if for_linear and chosen.categorical == "ordinal":
        chosen = chosen._replace(categorical="onehot")
    numbers = fit_numbers(chosen, _numeric(frame, columns), for_linear, spec.training.seed)
    levels = (fit_levels(chosen.categorical, _levels(frame, columns)) if columns.categorical else None) or Levels()
    text = (fit_text(spec, frame) if memo is None else memo.fit(spec, frame)) if columns.text else None
    vectorizer, reducer = text or (None, None)
    fitted = Preprocessor(columns, levels.encoder, vectorizer, reducer, levels.shares, **numbers._asdict(), memo=memo)
    if (selection := spec.features.selection) is not None:
        fitted = _with_selection(fitted, spec, selection, frame)
    return _as_terms(fitted) if for_linear and fitted.vectorizer is not None else fitted


def steady_columns(columns: FeatureColumns) -> list[str]:
    """The numeric columns that a learner takes: all except counts that grow with a tenant's age."""
    return [name for name in columns.numeric if not is_growing(name)]


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
    """A copy that represents text by its terms instead of their components; both are the last columns."""
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
