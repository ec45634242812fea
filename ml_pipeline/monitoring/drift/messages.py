"""Texts of a drift report: how each column moved, likely causes of changed predictions, and a recommendation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ml_pipeline.monitoring.drift.results import Cause, ColumnDrift, CorrelationTest

NAMED = 3
UNIT_FACTORS = (10, 12, 24, 60, 100, 1000, 3600, 86400, 1_000_000)
UNIT_TOLERANCE = 0.08


def how(column: ColumnDrift) -> str:
    """How a column moved, as a short text.

    >>> from ml_pipeline.monitoring.drift.results import MissingTest
    >>> missing = MissingTest(p=0.001, effect=0.4, lower=0.2, drifted=True, baseline=0.0, current=0.1)
    >>> how(ColumnDrift(kind="numeric", judged=True, missing=missing))
    'missing 0% -> 10%'
    """
    if column.gone:
        return "gone"
    parts = []
    value, missing, top = column.value, column.missing, column.most_moved
    if value is not None and value.drifted:
        name = "psi" if column.kind == "categorical" else "ks"
        parts.append(f"{name.upper()} {value.statistics[name]:.2f}")
        factor = _unit_factor(column)
        if top and top.level in column.new_levels:
            parts.append(f"new level {top.level!r}")
        elif top:
            parts.append(f"{top.level!r} {top.baseline:.0%} -> {top.current:.0%}")
        elif column.stuck_at is not None:
            parts.append(f"stuck at {column.stuck_at:g}")
        elif factor:
            parts.append(f"about {factor}")
    if missing.drifted:
        parts.append(f"missing {missing.baseline:.0%} -> {missing.current:.0%}")
    return ", ".join(parts)


def _unit_factor(column: ColumnDrift) -> str:
    """Text such as '60 times larger' if the medians differ by a factor between common units; else empty.

    The distributions must hardly overlap (a Kolmogorov-Smirnov distance of at least 0.8).
    """
    medians, value = column.median, column.value
    if medians is None or value is None or value.statistics.get("ks", 0.0) < 0.8:
        return ""
    if medians.baseline * medians.current <= 0:
        return ""
    ratio = medians.current / medians.baseline
    larger = max(ratio, 1 / ratio)
    factor = next((factor for factor in UNIT_FACTORS if abs(larger / factor - 1) < UNIT_TOLERANCE), None)
    return "" if factor is None else f"{factor} times {'larger' if ratio > 1 else 'smaller'}"


def causes(
    moved: Mapping[str, ColumnDrift], joint: CorrelationTest | None, importance: Mapping[str, float] | None
) -> tuple[Cause, ...]:
    """Likely causes of changed predictions, the most likely one first.

    The weight of a cause is its effect (at most 1) times the feature's share of the champion's importance, if it is
    known. A feature that the champion hardly uses has a small weight, however far it moved.

    Parameters
    ----------
    moved : dict of str to ColumnDrift
        Drifted columns, and ``prediction`` or ``label`` if they drifted.
    joint : CorrelationTest or None
        The pair of columns whose correlation changed most.
    importance : dict or None
        Feature importance of the champion, in any unit.
    """
    total = sum(importance.values()) if importance else 0.0
    found = []
    for name, column in moved.items():
        share = importance.get(name, 0.0) / total if importance and total > 0 else None
        found.append(_cause(name, how(column), column.drift_effect, share))
    if joint is not None and joint.drifted:
        one, other = joint.pair
        words = f"correlation {joint.baseline:.2f} -> {joint.current:.2f}"
        shares = [importance.get(name, 0.0) / total for name in (one, other)] if importance and total > 0 else None
        found.append(_cause(f"{one} with {other}", words, joint.effect, max(shares) if shares else None))
    return tuple(sorted(found, key=lambda cause: (-cause.weight, -cause.effect, cause.name)))


def _cause(name: str, words: str, effect: float, share: float | None) -> Cause:
    weight = min(1.0, effect) * (1.0 if share is None else share)
    return Cause(name, words, float(effect), share, float(weight))


def reason(
    columns: Mapping[str, ColumnDrift],
    drifted: Sequence[str],
    others: Sequence[str],
    rows: tuple[int, int],
    unknown: Sequence[str],
) -> str:
    """A sentence on the columns that moved, the sentences ``others``, and a sentence on what could not be tested."""
    compared = f"{rows[1]} recent against {rows[0]} earlier rows"
    if drifted:
        named = ", ".join(f"{name} ({how(columns[name])})" for name in drifted[:NAMED])
        rest = f" and {len(drifted) - NAMED} more" if len(drifted) > NAMED else ""
        first = f"{len(drifted)} of {len(columns)} columns moved: {named}{rest} ({compared})."
    else:
        first = f"None of {len(columns)} columns moved ({compared})."
    last = []
    if unknown:
        rest = f" and {len(unknown) - NAMED} more" if len(unknown) > NAMED else ""
        last = [f"Not tested: {'; '.join(unknown[:NAMED])}{rest}."]
    return " ".join([first, *others, *last])


def recommendation(
    columns: Mapping[str, ColumnDrift],
    found: Sequence[Cause],
    label: ColumnDrift | None,
    prediction: ColumnDrift | None,
    alert: bool,
) -> str:
    """What to do about the drift."""
    if not found:
        return "Nothing to do."
    top = next((cause.name for cause in found if cause.name in columns), None)
    broken = _looks_broken(top, columns[top]) if top is not None else ""
    if broken:
        return broken
    if label is not None and label.drifted:
        return (
            "The outcomes have changed: compare the loss of the last days with the expected loss, "
            "and retrain as soon as enough outcomes since the change are known."
        )
    urgency = "Look at it today" if alert else "Nothing urgent"
    first = found[0]
    used = first.importance
    if used is not None and used < 0.02 and not (prediction is not None and prediction.drifted):
        return (
            f"Do not retrain: {first.name} moved, but the champion hardly uses it ({used:.0%} of its importance), "
            "and its predictions did not move."
        )
    follow = ". The predictions moved too" if prediction is not None and prediction.drifted else ""
    return (
        f"{urgency}: find out what changed in {first.name} ({first.how}){follow}. "
        "Retrain if the loss on new outcomes rises, not because of drift alone."
    )


def _looks_broken(name: str, column: ColumnDrift) -> str:
    """Recommendation for a move that a fault of the source probably caused; else empty."""
    missing, value = column.missing, column.value
    if column.gone:
        return f"Restore {name}: the version was trained with it, but the recent rows lack it. Do not retrain before."
    if missing.drifted and missing.current > missing.baseline:
        return (
            f"Check the source of {name}: {missing.current:.0%} of its values are missing, {missing.baseline:.0%} were "
            "before. Do not retrain on the gap."
        )
    if value is None or not value.drifted:
        return ""
    if column.stuck_at is not None:
        return f"Check the source of {name}: every recent value is {column.stuck_at:g}."
    factor = _unit_factor(column)
    if factor:
        return (
            f"Check the unit of {name}: its median is {factor} than before. Convert it at the source. Do not retrain."
        )
    return ""


def other_moves(singles: Mapping[str, ColumnDrift], together: CorrelationTest | None) -> list[str]:
    """Sentences on predictions, labels and the correlation, if they moved."""
    subjects = {"prediction": "The predictions", "label": "The outcomes"}
    found = [f"{subjects[name]} moved ({how(column)})." for name, column in singles.items()]
    if together is not None:
        one, other = together.pair
        found.append(
            f"The rank correlation of {one} and {other} changed ({together.baseline:.2f} -> {together.current:.2f})."
        )
    return found
