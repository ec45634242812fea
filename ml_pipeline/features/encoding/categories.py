"""Encoding of categorical columns: as a code, as one column per level, or as the share of rows with the level."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ml_pipeline.specs.preprocessing import Categories

if TYPE_CHECKING:
    from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder

MAX_LEVELS = 50
MIN_LEVEL_ROWS = 3


class Levels(NamedTuple):
    """Fitted encoding of categorical columns: a scikit-learn encoder, or the share of each level per column."""

    encoder: OrdinalEncoder | OneHotEncoder | None = None
    shares: list[dict[str, float]] | None = None

    def transform(self, levels: np.ndarray) -> np.ndarray:
        """Float32 matrix of an object array (rows x columns) of levels, where '' is missing."""
        if self.encoder is not None:
            return np.asarray(self.encoder.transform(levels).astype("float32", copy=False))
        columns = zip(levels.T, self.shares or [], strict=True)
        shares = [[share.get(level, 0.0) for level in column] for column, share in columns]
        return np.array(shares, dtype="float32").reshape(len(shares), len(levels)).T

    def names(self, columns: tuple[str, ...]) -> list[str]:
        """The source column of each column that :meth:`transform` returns."""
        from sklearn.preprocessing import OneHotEncoder

        if not isinstance(self.encoder, OneHotEncoder):
            return list(columns)
        return [name for name, width in zip(columns, _widths(self.encoder), strict=True) for _ in range(width)]


def fit_levels(kind: Categories, levels: np.ndarray) -> Levels | None:
    """Encoding fitted on ``levels``; None for ``target``, because the history features contain the target means."""
    from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder

    rare: dict[str, Any] = {"min_frequency": MIN_LEVEL_ROWS, "max_categories": MAX_LEVELS}
    match kind:
        case "ordinal":
            encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan, **rare)
            return Levels(encoder=encoder.fit(levels))
        case "onehot":
            encoder = OneHotEncoder(handle_unknown="infrequent_if_exist", sparse_output=False, dtype=np.float32, **rare)
            return Levels(encoder=encoder.fit(levels))
        case "frequency":
            return Levels(shares=[_shares(column) for column in levels.T])
        case "target":
            return None


def _shares(column: np.ndarray) -> dict[str, float]:
    names, counts = np.unique(column.astype(str), return_counts=True)
    return dict(zip(names.tolist(), (counts / len(column)).tolist(), strict=True))


def _widths(encoder: OneHotEncoder) -> list[int]:
    infrequent = [0 if levels is None else len(levels) for levels in encoder.infrequent_categories_]
    pairs = zip(encoder.categories_, infrequent, strict=True)
    return [len(levels) - rare + min(rare, 1) for levels, rare in pairs]
