"""Names of the experts of a mixture, such as ``last:50`` or ``training``."""

from __future__ import annotations

TRAINING, LEARNERS = "training", "learners"
NUMBERED = ("last", "half_life", "group", "forest", "neighbours")
SHORTEST, LONGEST = 30, 36_500  # days of a half-life
ONLINE_EXPERTS = (
    "last:20",
    "last:50",
    "last:200",
    "half_life:90",
    "group:50",
    TRAINING,
    "forest:90",
    "forest:365",
    "forest:3000",
    "neighbours:10",
    LEARNERS,
)
MEAN_EXPERTS = (LEARNERS, "forest:90", "forest:365", "forest:3000")


def kind_and_number(name: str) -> tuple[str, int]:
    """The kind of an expert and its number: of outcomes, days or neighbours; 0 for a kind without a number.

    Raises
    ------
    ValueError
        If there is no such expert; the message lists those that exist.

    >>> kind_and_number("last:50"), kind_and_number("training")
    (('last', 50), ('training', 0))
    """
    if name in (TRAINING, LEARNERS):
        return name, 0
    kind, _, number = name.partition(":")
    if kind not in NUMBERED or not number.isdecimal() or not int(number):
        exist = ", ".join([*(f"{kind}:<number>" for kind in NUMBERED), TRAINING, LEARNERS])
        raise ValueError(f"{name!r} is not an expert. Use one of {exist}")
    if kind in ("half_life", "forest") and not SHORTEST <= int(number) <= LONGEST:
        raise ValueError(f"{name!r} has a half-life of {number} days. Use {SHORTEST} to {LONGEST}")
    return kind, int(number)
