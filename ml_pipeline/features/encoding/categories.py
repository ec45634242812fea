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
        names = []
        for name, levels, rare in zip(
            columns, self.encoder.categories_, self.encoder.infrequent_categories_, strict=True
        ):
            infrequent = 0 if rare is None else len(rare)  # they share one column
            names += [name] * (len(levels) - infrequent + min(infrequent, 1))
        return names


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
            shares = []
            for column in levels.T:
                names, counts = np.unique(column.astype(str), return_counts=True)
                shares.append(dict(zip(names.tolist(), (counts / len(column)).tolist(), strict=True)))
            return Levels(shares=shares)
        case "target":
            return None
