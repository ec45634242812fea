"""From a feature frame to the numeric matrix that a learner takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ml_pipeline.specs import FeatureColumns, ModelSpec
from ml_pipeline.specs.temporal import is_growing

if TYPE_CHECKING:
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.preprocessing import OrdinalEncoder

MAX_LEVELS = 50
MIN_LEVEL_ROWS = 3
MAX_TEXT_CHARS = 4000


@dataclass(frozen=True)
class Preprocessor:
    """Fitted parts. A part is None where the specification or the training rows have nothing for it.

    Counts that grow with a tenant's age (``*_known``, ``*_open``) are left out: a tree cannot extrapolate them, and on
    the published story-point split they led a tenant whose level moved 30 % astray. Other numeric columns pass as they
    are, NaN kept: the boosters send missing values their own way. A missing category is a level of its own; a level
    seen in fewer than 3 rows, or beyond the 50 most frequent, shares one code; a level never seen is NaN. Text becomes
    TF-IDF reduced by a truncated SVD (latent semantic analysis, Deerwester et al. 1990).
    """

    columns: FeatureColumns
    encoder: OrdinalEncoder | None
    vectorizer: TfidfVectorizer | None
    reducer: TruncatedSVD | None

    def transform(self, frame: pd.DataFrame) -> np.ndarray:
        """Matrix of float32, shape (rows of ``frame``, columns): numeric, categorical, then text components.

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
        parts = [frame[steady_columns(self.columns)].to_numpy(dtype="float32")]
        if self.encoder is not None:
            parts.append(self.encoder.transform(_levels(frame, self.columns)))
        if self.vectorizer is not None and self.reducer is not None:
            parts.append(self.reducer.transform(self.vectorizer.transform(_text(frame))))
        return np.hstack([part.astype("float32", copy=False) for part in parts])

    def parts(self) -> dict[str, Any]:
        """The scikit-learn objects, to be stored."""
        return {"encoder": self.encoder, "vectorizer": self.vectorizer, "reducer": self.reducer}


def fit_preprocessor(spec: ModelSpec, frame: pd.DataFrame) -> Preprocessor:
    """Fits every part on ``frame`` alone: pass training rows only. Deterministic for the specification's seed."""
    columns = spec.feature_columns
    encoder = _fit_encoder(frame, columns) if columns.categorical else None
    vectorizer, reducer = _fit_text(spec, frame) if columns.text else (None, None)
    return Preprocessor(columns, encoder, vectorizer, reducer)


def _fit_encoder(frame: pd.DataFrame, columns: FeatureColumns) -> OrdinalEncoder:
    from sklearn.preprocessing import OrdinalEncoder

    encoder = OrdinalEncoder(
        handle_unknown="use_encoded_value",
        unknown_value=np.nan,
        min_frequency=MIN_LEVEL_ROWS,
        max_categories=MAX_LEVELS,
    )
    return encoder.fit(_levels(frame, columns))


def _fit_text(spec: ModelSpec, frame: pd.DataFrame) -> tuple[TfidfVectorizer | None, TruncatedSVD | None]:
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(max_features=spec.features.text_terms, sublinear_tf=True, min_df=2, dtype=np.float32)
    try:
        terms = vectorizer.fit_transform(_text(frame))
    except ValueError:  # no term occurs in two rows: the only thing that fit_transform refuses in a list of strings
        return None, None
    components = min(spec.features.text_components, min(terms.shape) - 1)
    if components < 1:
        return None, None
    reducer = TruncatedSVD(components, n_iter=2, random_state=spec.training.seed)
    with np.errstate(divide="ignore", invalid="ignore"):  # the share of variance, which nobody asks for, of equal texts
        return vectorizer, reducer.fit(terms)


def steady_columns(columns: FeatureColumns) -> list[str]:
    """The numeric columns that a learner sees: all but counts that grow with a tenant's age."""
    return [name for name in columns.numeric if not is_growing(name)]


def _levels(frame: pd.DataFrame, columns: FeatureColumns) -> np.ndarray:
    levels = frame[list(columns.categorical)].astype(object)
    return levels.where(levels.notna(), "").to_numpy(dtype=object)


def _text(frame: pd.DataFrame) -> list[str]:
    return frame["text"].str.slice(0, MAX_TEXT_CHARS).tolist()
