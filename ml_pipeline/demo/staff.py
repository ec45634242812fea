"""The people of a simulated organisation: their time in the organisation, teams and habits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ml_pipeline.demo.arrivals import STAFF_STREAM
from ml_pipeline.demo.organisation import Organisation
from ml_pipeline.demo.vocabulary import TOPICS

_FIRST = """
    aisha alex amara ana anton bela carla chen clara dana david elena emil eva farid finn greta hana hugo ines
    ivan jana jonas julia kai karim lars lea lin luca maria mei milan nadia noor olga omar priya rosa sven
"""
_LAST = """
    abe adler arslan bauer berg bianchi cohen costa dubois eriksen farkas fischer garcia haddad horvat ito jensen
    kaya keller kim kowalski lange lopez marino meyer moreau nagy novak okafor olsen patel petrov rossi sato
    schmidt silva sousa tanaka varga weber
"""
_TEAMS = (
    "atlas",
    "borealis",
    "cobalt",
    "delta",
    "ember",
    "falcon",
    "granite",
    "harbor",
    "indigo",
    "juniper",
    "krypton",
    "lagoon",
)

_TURNOVER = 8  # consecutive people on one seat; the last one stays
_MEAN_TENURE = 4 * 365 * 86400  # seconds
_SEAT_WEIGHT_POWER = 0.4  # inequality of the activity between people


@dataclass(frozen=True)
class Traits:
    """Differences of a person or a team from the average, on the log scale of each outcome."""

    points: np.ndarray
    duration: np.ndarray
    rework: np.ndarray
    verbosity: np.ndarray

    def of(self, index: np.ndarray | tuple[np.ndarray, ...]) -> Traits:
        return Traits(self.points[index], self.duration[index], self.rework[index], self.verbosity[index])


@dataclass(frozen=True)
class Staff:
    """Seats, each occupied by one person after another.

    ``names`` and ``habits`` have one row per seat and one column per person; ``handovers`` contains the times between
    them (seconds since the epoch). ``teams`` and ``styles`` have one element per team. ``activity`` contains cumulative
    shares of all items by seat, ending at 1; each row of ``interests`` contains those of a team's topics.
    """

    names: np.ndarray
    habits: Traits
    handovers: np.ndarray
    teams: np.ndarray
    styles: Traits
    activity: np.ndarray
    interests: np.ndarray

    def seat(self, uniform: np.ndarray) -> np.ndarray:
        """Seats of the authors of items, drawn by activity."""
        return np.searchsorted(self.activity, uniform, side="right")

    def team(self, seat: np.ndarray) -> np.ndarray:
        """Index of the team that a seat belongs to."""
        return seat % len(self.teams)

    def topic(self, team: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """Topics of items, drawn by the interests of the teams."""
        topics: np.ndarray = (self.interests[team, :-1] <= uniform[:, None]).sum(axis=1)
        return topics

    def holder(self, seat: np.ndarray, seconds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Index into ``names`` and ``habits`` of the person on each seat at each time."""
        return seat, (self.handovers[seat] <= seconds[:, None]).sum(axis=1)


def staff_of(organisation: Organisation) -> Staff:
    """All people who ever work in the organisation; the same for every ``end``.

    Tenures are exponential, so that the share of new people is about constant.
    """
    rng = np.random.default_rng([organisation.seed, STAFF_STREAM])
    seats, teams = organisation.people, organisation.teams
    tenures = rng.exponential(_MEAN_TENURE, size=(seats, _TURNOVER - 1))
    activity = np.cumsum((1.0 + np.arange(seats)) ** -_SEAT_WEIGHT_POWER)
    names = rng.permutation(
        np.array([f"{first}.{last}" for first in _FIRST.split() for last in _LAST.split()], dtype=object)
    )
    return Staff(
        names=names[: seats * _TURNOVER].reshape(seats, _TURNOVER),
        habits=_traits(rng, (seats, _TURNOVER)),
        handovers=organisation.start.timestamp() + np.cumsum(tenures, axis=1),
        teams=rng.permutation(np.array(_TEAMS, dtype=object))[:teams],
        styles=_traits(rng, (teams,)),
        activity=activity / activity[-1],
        interests=np.cumsum(rng.dirichlet(np.full(len(TOPICS), 2.0), size=teams), axis=1),
    )


def _traits(rng: np.random.Generator, shape: tuple[int, ...]) -> Traits:
    deviations = rng.standard_normal((4, *shape))
    points, duration, rework, verbosity = deviations
    return Traits(0.25 * points, 0.35 * duration, 0.6 * rework, verbosity)
