"""Common properties of simulated issues and pull requests: author, team and topic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ml_pipeline.demo.arrivals import Arrivals
from ml_pipeline.demo.organisation import Organisation
from ml_pipeline.demo.staff import Staff, Traits
from ml_pipeline.demo.vocabulary import (
    DESCRIPTION_DRAWS,
    EVERYDAY_TOPICS,
    MAX_SENTENCES,
    SUMMARY_DRAWS,
    descriptions,
    summaries,
)

ITEM_DRAWS = ("campaign", "seat", "topic", "sentences", "body_missing")
TEXT_DRAWS = SUMMARY_DRAWS + DESCRIPTION_DRAWS

_CAMPAIGN_SEATS = 0.25  # share of the activity, of the busiest people, that a campaign's items come from


@dataclass(frozen=True)
class Items:
    """Arrays with one element per item; ``meaning`` is 1 and falls to -1 in a full concept drift."""

    campaign: np.ndarray
    author: np.ndarray
    habits: Traits
    team: np.ndarray
    style: Traits
    topic: np.ndarray
    meaning: np.ndarray


def items_of(organisation: Organisation, staff: Staff, arrived: Arrivals) -> Items:
    """Author, team and topic of all items that arrived."""
    draws = arrived.draws
    campaign = draws["campaign"] < organisation.share("covariate", arrived.created)
    seat = staff.seat(np.where(campaign, _CAMPAIGN_SEATS * draws["seat"], draws["seat"]))
    holder = staff.holder(seat, arrived.created)
    team = staff.team(seat)
    everyday = np.array(EVERYDAY_TOPICS)[(draws["topic"] * len(EVERYDAY_TOPICS)).astype(int)]
    return Items(
        campaign=campaign,
        author=staff.names[holder],
        habits=staff.habits.of(holder),
        team=team,
        style=staff.styles.of(team),
        topic=np.where(campaign, everyday, staff.topic(team, draws["topic"])),
        meaning=1 - 2 * organisation.share("concept", arrived.created),
    )


def texts(
    organisation: Organisation, arrived: Arrivals, items: Items, opening: np.ndarray, usually_missing: float
) -> tuple[list[str], np.ndarray]:
    """Summary and body of every item; a share of the bodies (``usually_missing`` without drift) is None."""
    length = 2.5 + 0.8 * items.habits.verbosity + 1.2 * arrived.normal("sentences") + 2.0 * items.campaign
    sentences = np.clip(np.round(length), 1, MAX_SENTENCES).astype(int)
    headline, body = np.split(arrived.words, [SUMMARY_DRAWS], axis=1)
    missing = arrived.draws["body_missing"] < organisation.missing_share(usually_missing, arrived.created)
    return summaries(opening, items.topic, headline), omit(descriptions(sentences, opening, items.topic, body), missing)


def choose(uniform: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """Index of the share that each number in [0, 1) falls into; the shares sum to 1.

    >>> choose(np.array([0.0, 0.3, 0.99]), (0.3, 0.7)).tolist()
    [0, 1, 1]
    """
    return np.searchsorted(np.cumsum(shares)[:-1], uniform, side="right")


def omit(values: Sequence[str] | np.ndarray, missing: np.ndarray) -> np.ndarray:
    """The values as an object array with None for missing ones."""
    given = np.array(values, dtype=object)
    given[missing] = None
    return given
