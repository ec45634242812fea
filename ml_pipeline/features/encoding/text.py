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
    """The fitted text part: terms and their weights, and the directions that they are reduced to."""

    vectorizer: TfidfVectorizer
    reducer: TruncatedSVD | None

    def terms(self, frame: pd.DataFrame) -> Any:
        """``scipy.sparse`` matrix of float32, shape (rows of ``frame``, terms): TF-IDF, each row of length 1 or 0."""
        return self.vectorizer.transform(_texts(frame))

    def components(self, frame: pd.DataFrame) -> np.ndarray:
        """Float32, shape (rows of ``frame``, components)."""
        return self.reduced(self.terms(frame))

    def reduced(self, terms: Any) -> np.ndarray:
        """:meth:`components` of rows whose terms are there already."""
        assert self.reducer is not None
        return self.reducer.transform(terms).astype("float32", copy=False)


def fit_text(spec: ModelSpec, frame: pd.DataFrame) -> Text | None:
    """Fitted on the column ``text`` of ``frame`` alone; None where no word occurs in two rows."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(max_features=spec.features.text_terms, sublinear_tf=True, min_df=2, dtype=np.float32)
    try:
        terms = vectorizer.fit_transform(_texts(frame))
    except ValueError:  # no term occurs in two rows: the only thing that fit_transform refuses in a list of strings
        return None
    components = min(spec.features.text_components, min(terms.shape) - 1)
    if components < 1:
        return None
    reducer = TruncatedSVD(components, n_iter=2, random_state=spec.training.seed)
    with np.errstate(divide="ignore", invalid="ignore"):  # the share of variance, which nobody asks for, of equal texts
        return Text(vectorizer, reducer.fit(terms))


class TextMemo:
    """Text parts that were fitted, and the components that they gave, by the texts they were asked for.

    Text takes most of the time of a preprocessor, and the trials of a search differ in everything but the text: make
    one memo a search, pass it to each ``fit_preprocessor``, and each set of rows is fitted and transformed once. It
    changes no bit of the result. A preprocessor holds on to the memo that it was fitted with, so fit the one that is
    to be kept without.
    """

    def __init__(self) -> None:
        self._fitted: dict[tuple[int, int, int, bytes], Text | None] = {}
        self._components: dict[tuple[int, bytes], np.ndarray] = {}
        self._terms: dict[tuple[int, bytes], Any] = {}

    def __reduce__(self) -> tuple[type[TextMemo], tuple[()]]:
        return TextMemo, ()  # a copy starts empty: the identities that it remembers by mean nothing elsewhere

    def fit(self, spec: ModelSpec, frame: pd.DataFrame) -> Text | None:
        """:func:`fit_text`, or what it returned for the same texts in the same order and the same settings."""
        key = (spec.features.text_terms, spec.features.text_components, spec.training.seed, _digest(frame))
        if key not in self._fitted:
            self._fitted[key] = fit_text(spec, frame)
        return self._fitted[key]

    def components(self, text: Text, frame: pd.DataFrame) -> np.ndarray:
        """:meth:`Text.components` of a part that this memo fitted, or what it returned for the same texts."""
        key = (id(text.vectorizer), _digest(frame))
        if key not in self._components:
            self._components[key] = text.reduced(self.terms(text, frame))
        return self._components[key]

    def terms(self, text: Text, frame: pd.DataFrame) -> Any:
        """:meth:`Text.terms` of a part that this memo fitted, or what it returned for the same texts."""
        key = (id(text.vectorizer), _digest(frame))
        if key not in self._terms:
            self._terms[key] = text.terms(frame)
        return self._terms[key]


def _digest(frame: pd.DataFrame) -> bytes:
    return hashlib.sha256(pd.util.hash_pandas_object(frame["text"], index=False).to_numpy().tobytes()).digest()


def _texts(frame: pd.DataFrame) -> list[str]:
    return frame["text"].str.slice(0, MAX_TEXT_CHARS).tolist()
