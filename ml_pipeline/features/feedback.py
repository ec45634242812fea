"""Labels from people's feedback on predictions, used until the outcome of the entity itself is known."""

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
    """Add labels from feedback to the entities whose own outcome is not yet known at ``as_of``.

    The newest feedback on an entity, given at ``as_of`` or before, decides. The label is the corrected value, or the
    accepted prediction, and its label time is the time of the feedback. A rejection removes the label of earlier
    feedback. Values outside ``label.above`` and ``label.at_most`` are ignored. As soon as the entity's own outcome is
    known it replaces the feedback, even if it lies outside those bounds. Features do not change: history features use
    outcomes only.

    Parameters
    ----------
    spec
        The model.
    frame
        Result of ``point_in_time.build`` for ``spec`` and ``as_of``.
    feedback
        One row per feedback with the columns ``FEEDBACK_COLUMNS``: ``given_at`` datetime64[us, UTC], ``value`` in the
        label's reported unit (NaN for a rejection), ``weight`` above 0 (an outcome has weight 1).
    as_of
        Aware time; later feedback is ignored.

    Returns
    -------
    DataFrame
        ``frame`` with ``label``, ``label_time`` and ``state`` changed where feedback gives the label, and two more
        columns: ``weight`` (float64), the sample weight for a fit, 1 without feedback; ``feedback``, the verdict that
        gives the label, else None.
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
    """Boolean array: rows whose label does not come from feedback. All rows of a frame without feedback."""
    import numpy as np

    return frame[VERDICT].isna().to_numpy() if VERDICT in frame else np.ones(len(frame), dtype=bool)


def usable(spec: ModelSpec, value: pd.Series) -> pd.Series:
    """Boolean series: values (in the label's reported unit) that can be a label: 0 or 1, or finite and in bounds."""
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
