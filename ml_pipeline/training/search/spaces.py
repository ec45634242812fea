"""Search spaces: a range or choices per parameter, with a default space for each estimator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ml_pipeline.specs.search import Value, is_range

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

GRID_VALUES = 3  # values of a range in a grid: both ends and the middle


@dataclass(frozen=True)
class Float:
    """A real number from ``low`` to ``high``; ``default`` is the library's default."""

    low: float
    high: float
    default: float
    log: bool = False

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import FloatDistribution

        return FloatDistribution(self.low, self.high, log=self.log)

    def nearest(self, value: Any) -> float:
        return min(max(float(value), self.low), self.high)

    def grid(self) -> list[Value]:
        return [float(value) for value in _spaced(self.low, self.high, self.log)]


@dataclass(frozen=True)
class Int:
    """A whole number from ``low`` to ``high``; ``default`` as in :class:`Float`."""

    low: int
    high: int
    default: int
    log: bool = False

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import IntDistribution

        return IntDistribution(self.low, self.high, log=self.log)

    def nearest(self, value: Any) -> int:
        return min(max(int(value), self.low), self.high)

    def grid(self) -> list[Value]:
        return list(dict.fromkeys(round(value) for value in _spaced(self.low, self.high, self.log)))


@dataclass(frozen=True)
class Choice:
    """One of several values; the first is the default."""

    options: tuple[Value, ...]

    @property
    def default(self) -> Value:
        return self.options[0]

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.options)

    def nearest(self, value: Any) -> Value:
        return value if value in self.options else self.default

    def grid(self) -> list[Value]:
        return list(self.options)


Parameter = Float | Int | Choice
Space = dict[str, Parameter]


# Ranges for tenants with a few hundred to some ten thousand rows, by the libraries' own names.
SPACES: dict[str, Space] = {
    "xgboost": {
        "n_estimators": Int(50, 300, 100, log=True),
        "max_depth": Int(2, 6, 6),
        "learning_rate": Float(0.01, 0.3, 0.3, log=True),
        "subsample": Float(0.5, 1.0, 1.0),
        "colsample_bytree": Float(0.4, 1.0, 1.0),
        "min_child_weight": Float(1.0, 20.0, 1.0, log=True),
        "reg_lambda": Float(0.01, 30.0, 1.0, log=True),
        "reg_alpha": Float(0.001, 10.0, 0.0, log=True),
    },
    "lightgbm": {
        "n_estimators": Int(50, 300, 100, log=True),
        "num_leaves": Int(4, 64, 31, log=True),
        "learning_rate": Float(0.01, 0.3, 0.1, log=True),
        "min_data_in_leaf": Int(5, 60, 20, log=True),
        "feature_fraction": Float(0.4, 1.0, 1.0),
        "bagging_fraction": Float(0.5, 1.0, 1.0),
        "bagging_freq": Int(0, 5, 0),
        "lambda_l1": Float(0.001, 10.0, 0.0, log=True),
        "lambda_l2": Float(0.001, 30.0, 0.0, log=True),
    },
    "hist_gradient_boosting": {
        "max_iter": Int(50, 300, 100, log=True),
        "max_leaf_nodes": Int(4, 64, 31, log=True),
        "learning_rate": Float(0.01, 0.3, 0.1, log=True),
        "min_samples_leaf": Int(5, 60, 20, log=True),
        "max_features": Float(0.4, 1.0, 1.0),
        "l2_regularization": Float(0.001, 30.0, 0.0, log=True),
    },
    "random_forest": {
        "n_estimators": Int(50, 300, 100, log=True),
        "max_features": Float(0.1, 1.0, 1.0),
        "min_samples_leaf": Int(1, 30, 1, log=True),
        "max_depth": Int(3, 20, 20),
    },
    "linear": {"alpha": Float(0.0001, 1000.0, 1.0, log=True)},
}


def space_of(
    estimator: str,
    overrides: Mapping[str, list[Value]] | None = None,
    extra: Mapping[str, tuple[Value, ...]] | None = None,
) -> Space:
    """The default space of an estimator, updated with the ranges of a specification and further choices.

    ``overrides`` is ``training.search.space``: two numbers are the ends of a range with the type and scale (logarithmic
    or not) of the default one; any other list is choices. ``extra`` contains further choices, such as preprocessing
    methods, the default first.

    Raises
    ------
    ValueError
        If the estimator has no space.

    >>> space_of("linear", {"alpha": [1, 10]}, {"scaling": ("none", "standard")})
    {'alpha': Float(low=1.0, high=10.0, default=1.0, log=True), 'scaling': Choice(options=('none', 'standard'))}
    """
    if estimator not in SPACES:
        raise ValueError(f"estimator {estimator!r} has no search space; these have one: {', '.join(SPACES)}")
    space = dict(SPACES[estimator])
    for name, values in (overrides or {}).items():
        space[name] = _overridden(space.get(name), values)
    return space | {name: Choice(options) for name, options in (extra or {}).items()}


def _overridden(usual: Parameter | None, values: list[Value]) -> Parameter:
    if not is_range(values):
        return Choice(tuple(values))
    low, high = (float(value) for value in values)
    default = low if usual is None or isinstance(usual, Choice) else float(usual.default)
    log = isinstance(usual, Float | Int) and usual.log and low > 0
    whole = all(isinstance(value, int) for value in values)
    if isinstance(usual, Int) or (usual is None and whole):
        return Int(int(low), int(high), int(default), log)
    return Float(low, high, default, log)


def nearest(space: Space, params: Mapping[str, Any]) -> dict[str, Any]:
    """The point of the space nearest to ``params``, with the library's default for parameters not in ``params``."""
    return {name: parameter.nearest(params.get(name, parameter.default)) for name, parameter in space.items()}


def grid(space: Space, count: int, seed: int) -> list[dict[str, Any]]:
    """At most ``count`` points of the grid over a space, in random order, so that any part of it covers the space.

    >>> [point["alpha"] for point in grid({"alpha": Float(1, 100, 1, log=True)}, 10, seed=0)]
    [100.0, 1.0, 10.0]
    """
    values = [parameter.grid() for parameter in space.values()]
    shape = [len(of_one) for of_one in values]
    size = int(np.prod(shape, dtype=float))
    chosen = np.random.default_rng(seed).choice(size, size=min(count, size), replace=False)
    places = zip(*np.unravel_index(chosen, shape), strict=True)
    return [{name: of_one[place] for name, of_one, place in zip(space, values, point, strict=True)} for point in places]


def _spaced(low: float, high: float, log: bool) -> np.ndarray:
    return np.geomspace(low, high, GRID_VALUES) if log else np.linspace(low, high, GRID_VALUES)
