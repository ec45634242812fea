"""Text as TF-IDF reduced by a truncated SVD (latent semantic analysis, Deerwester et al. 1990)."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from ml_pipeline.specs import ModelSpec

if TYPE_CHECKING:
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

MAX_TEXT_CHARS = 4000


class Text(NamedTuple):
    """Fitted text steps: TF-IDF terms and weights, and the SVD that reduces them to components."""

    vectorizer: TfidfVectorizer
    reducer: TruncatedSVD | None

    def terms(self, frame: pd.DataFrame) -> Any:
        """TF-IDF as a ``scipy.sparse`` float32 matrix, shape (rows of ``frame``, terms), rows of norm 1 or 0."""
        return self.vectorizer.transform(_texts(frame))

    def components(self, frame: pd.DataFrame) -> np.ndarray:
        """Float32 matrix, shape (rows of ``frame``, components)."""
        return self.reduced(self.terms(frame))

    def reduced(self, terms: Any) -> np.ndarray:
        """:meth:`components` of rows whose ``terms`` are already computed."""
        assert self.reducer is not None
        return np.asarray(self.reducer.transform(terms).astype("float32", copy=False))


def fit_text(spec: ModelSpec, frame: pd.DataFrame) -> Text | None:
    """Steps fitted on the column ``text`` of ``frame``; None if no word occurs in two rows."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(max_features=spec.features.text_terms, sublinear_tf=True, min_df=2, dtype=np.float32)
    try:
        terms = vectorizer.fit_transform(_texts(frame))
    except ValueError:  # no term occurs in two rows: the only reason why fit_transform rejects a list of strings
        return None
    components = min(spec.features.text_components, min(terms.shape) - 1)
    if components < 1:
        return None
    reducer = TruncatedSVD(components, n_iter=2, random_state=spec.training.seed)
    with np.errstate(divide="ignore", invalid="ignore"):  # the unused explained variance of equal texts
        return Text(vectorizer, reducer.fit(terms))


class TextMemo:
    """Cache of fitted text steps and of their results, by the texts that they were computed for.

    Text takes most of the time of preprocessing, and the trials of a search differ in everything except the text.
    Create one memo per search and pass it to each ``fit_preprocessor``: each set of rows is then fitted and
    transformed once, with the same result. A preprocessor keeps a reference to its memo, so fit a preprocessor that is
    to be stored without one.
    """

    def __init__(self) -> None:
        self._fitted: dict[tuple[int, int, int, bytes], Text | None] = {}
        self._components: dict[tuple[int, bytes], np.ndarray] = {}
        self._terms: dict[tuple[int, bytes], Any] = {}

    def __reduce__(self) -> tuple[type[TextMemo], tuple[()]]:
        return TextMemo, ()  # a copy starts empty: its keys contain object ids, which another process cannot use

    def fit(self, spec: ModelSpec, frame: pd.DataFrame) -> Text | None:
        """Cached :func:`fit_text`, by the texts in their order and the settings."""
        key = (spec.features.text_terms, spec.features.text_components, spec.training.seed, _digest(frame))
        if key not in self._fitted:
            self._fitted[key] = fit_text(spec, frame)
        return self._fitted[key]

    def components(self, text: Text, frame: pd.DataFrame) -> np.ndarray:
        """Cached :meth:`Text.components` of a ``text`` that this memo fitted."""
        key = (id(text.vectorizer), _digest(frame))
        if key not in self._components:
            self._components[key] = text.reduced(self.terms(text, frame))
        return self._components[key]

    def terms(self, text: Text, frame: pd.DataFrame) -> Any:
        """Cached :meth:`Text.terms` of a ``text`` that this memo fitted."""
        key = (id(text.vectorizer), _digest(frame))
        if key not in self._terms:
            self._terms[key] = text.terms(frame)
        return self._terms[key]


def _digest(frame: pd.DataFrame) -> bytes:
    return hashlib.sha256(pd.util.hash_pandas_object(frame["text"], index=False).to_numpy().tobytes()).digest()


def _texts(frame: pd.DataFrame) -> list[str]:
    return frame["text"].str.slice(0, MAX_TEXT_CHARS).tolist()
