"""People's reactions to predictions as labels, until the entity has an outcome of its own."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from ml_pipeline.specs import ModelSpec

if TYPE_CHECKING:  # the verdicts are read by commands that compute nothing
    import numpy as np
    import pandas as pd

ACCEPTED, CORRECTED, REJECTED = "accepted", "corrected", "rejected"
VERDICTS = (ACCEPTED, CORRECTED, REJECTED)
VERDICT = "feedback"  # column of the merged frame
FEEDBACK_COLUMNS = ("entity_id", "given_at", "given_by", "verdict", "value", "weight")


def with_feedback(spec: ModelSpec, frame: pd.DataFrame, feedback: pd.DataFrame, as_of: datetime) -> pd.DataFrame:
    """The feature frame with labels from feedback where nothing is known of the entity's own outcome at ``as_of``.

    Of an entity the newest feedback counts, and none that is given after ``as_of``. Its value is the label, known when
    it was given: the corrected value, or what was predicted and accepted. A rejection takes back what was said before
    and is no label. A value outside ``label.above`` and ``label.at_most`` is none either. As soon as the own outcome
    is known it is the label, also where it lies outside those bounds. Features stay as they are: history is made of
    outcomes alone.

    Parameters
    ----------
    frame
        What ``point_in_time.build`` returned for ``spec`` and ``as_of``.
    feedback
        ``FEEDBACK_COLUMNS``: ``given_at`` datetime64[us, UTC], ``value`` in the label's reported unit (NaN for a
        rejection), ``weight`` above 0, where an outcome has 1.

    Returns
    -------
    DataFrame
        ``frame`` with ``label``, ``label_time`` and ``state`` changed where feedback counts, and two more columns:
        ``weight`` float64, 1 without feedback, for the loss of a fit; ``feedback``, the verdict that made the label,
        None elsewhere.
    """
    import numpy as np
    import pandas as pd

    known = feedback[feedback["given_at"] <= pd.Timestamp(as_of)].sort_values(["given_at", "given_by"])
    newest = known.drop_duplicates("entity_id", keep="last")
    labels = newest[(newest["verdict"] != REJECTED) & usable(spec, newest["value"])].reset_index(drop=True)
    place = pd.Index(labels["entity_id"]).get_indexer(pd.Index(frame["entity_id"]))
    taken = (place >= 0) & frame["label_time"].isna().to_numpy()
    chosen = labels.iloc[place[taken]].set_axis(frame.index[taken])
    weight, verdict = np.ones(len(frame)), np.full(len(frame), None, dtype=object)
    weight[taken], verdict[taken] = chosen["weight"], chosen["verdict"]
    merged = frame.assign(weight=weight, feedback=pd.Series(verdict, index=frame.index, dtype=object))
    merged.loc[taken, "label"] = chosen["value"]
    merged.loc[taken, "label_time"] = np.maximum(chosen["given_at"], frame.loc[taken, "event_time"])
    merged.loc[taken, "state"] = "matured"
    return merged


def own_outcomes(frame: pd.DataFrame) -> np.ndarray:
    """Which rows have their label, if any, from an outcome: all of them in a frame without feedback."""
    import numpy as np

    return frame[VERDICT].isna().to_numpy() if VERDICT in frame else np.ones(len(frame), dtype=bool)


def usable(spec: ModelSpec, value: pd.Series) -> pd.Series:
    """Which values, in the label's reported unit, can be a label: 0 or 1, or finite and inside the bounds."""
    import numpy as np
    import pandas as pd

    if spec.task == "binary":
        return value.isin([0.0, 1.0])
    own = value * spec.label.unit_size
    good = pd.Series(np.isfinite(value), index=value.index)
    if spec.label.above is not None:
        good &= own > spec.label.above
    if spec.label.at_most is not None:
        good &= own <= spec.label.at_most
    return good
