"""A search: judged by the mean over folds, within its budgets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_pipeline.specs.search import Search
from ml_pipeline.training.search.search import SearchError, search, trials_worth
from ml_pipeline.training.search.spaces import Choice, Float, Int, Space

SPACE: Space = {"x": Float(-5.0, 5.0, 0.0), "depth": Int(1, 6, 3)}
DECLARED = {"x": 4.0, "depth": 6, "loss": "absolute_error"}


@dataclass
class Bowl:
    """Least at x = 1 and depth = 2; folds differ far more than parameters do."""

    seen: list[tuple[dict, int]] = field(default_factory=list)

    def __call__(self, params: dict, fold: int) -> float:
        self.seen.append((params, fold))
        return 100 * fold + (params["x"] - 1) ** 2 + abs(params["depth"] - 2) + 1


def lucky(params: dict, fold: int) -> float:
    """Choice b has the best fold of all, choice a the best mean."""
    return {"a": [3.0, 3.0, 3.0], "b": [0.0, 6.0, 6.0], "declared": [5.0, 5.0, 5.0]}[params["way"]][fold]


def raises_beyond_zero(params: dict, fold: int) -> float:
    if params["x"] > 0:
        raise ArithmeticError(f"x is {params['x']}")
    return -params["x"]


def always_raises(params: dict, fold: int) -> float:
    raise RuntimeError("no such column 'points'")


def not_a_number(params: dict, fold: int) -> float:
    return float("nan") if params["x"] != DECLARED["x"] else 1.0


def run(objective: Callable, space: Space = SPACE, declared: dict = DECLARED, seed: int = 0, **settings):
    outside = {"clock": settings.pop("clock")} if "clock" in settings else {}
    return search(objective, space, declared, Search(**settings), seed=seed, **outside)


@pytest.mark.parametrize("method", ["tpe", "random"])
def test_a_search_comes_near_the_least_loss(method):
    best = run(Bowl(), method=method, trials=60).best
    assert np.abs(best.params["x"] - 1) < 0.6
    assert abs(best.params["depth"] - 2) <= 1


def test_the_best_is_the_one_of_the_lowest_mean_and_not_of_the_luckiest_fold():
    space: Space = {"way": Choice(("a", "b"))}
    result = run(lucky, space, {"way": "declared"}, method="grid")
    assert (result.best.params, result.best.mean, result.best.deviation) == ({"way": "a"}, 3.0, 0.0)
    assert result.gain == pytest.approx(0.4)


def test_the_first_trial_is_the_declared_parameters_as_they_are_wherever_the_space_lies():
    bowl = Bowl()
    result = run(bowl, {"x": Float(-1.0, 1.0, 0.0)}, trials=6)
    assert bowl.seen[0][0] == result.trials[0].params == DECLARED
    assert result.declared == result.trials[0]


def test_every_trial_has_the_declared_parameters_that_the_space_leaves_alone():
    assert {trial.params["loss"] for trial in run(Bowl(), trials=8).trials} == {"absolute_error"}


def test_no_more_trials_are_run_than_the_budget_has():
    result = run(Bowl(), trials=7, pruning=None)
    assert [trial.number for trial in result.trials] == list(range(7))
    assert result.stopped == "all 7 trials were run"


def test_the_end_of_the_seconds_stops_the_search_and_interrupts_what_was_under_way():
    ticks = iter(range(1000))
    result = run(Bowl(), trials=100, seconds=60, clock=lambda: next(ticks))
    assert 1 < len(result.trials) < 30
    assert {trial.state for trial in result.trials} >= {"complete", "interrupted"}
    assert result.stopped == "the time limit of 60 seconds was reached"


def test_the_declared_parameters_are_fitted_in_all_folds_even_if_that_alone_is_past_the_seconds():
    ticks = iter(range(0, 100_000, 100))
    result = run(Bowl(), trials=100, seconds=1, clock=lambda: next(ticks))
    assert len(result.best.losses) == 3
    assert result.best.declared


def test_a_grid_has_every_combination_and_the_declared_parameters():
    space: Space = {"x": Float(0.0, 2.0, 0.0), "depth": Choice((1, 2))}
    result = run(Bowl(), space, method="grid", trials=50)
    tried = {(trial.params["x"], trial.params["depth"]) for trial in result.trials}
    assert tried == {(x, depth) for x in (0.0, 1.0, 2.0) for depth in (1, 2)} | {(4.0, 6)}
    assert (result.stopped, len(result.trials)) == ("all points of the grid were tried", 7)


def test_a_parameter_set_that_cannot_be_fitted_is_recorded_and_the_search_goes_on():
    result = run(raises_beyond_zero, declared={"x": -4.0}, trials=30)
    failed = [trial for trial in result.trials if trial.state == "failed"]
    assert failed
    assert all(trial.params["x"] > 0 and (trial.error or "").startswith("ArithmeticError: x is") for trial in failed)
    assert len(result.trials) == 30
    assert result.best.state == "complete"


def test_declared_parameters_that_cannot_be_fitted_leave_the_others_to_be_tried():
    result = run(raises_beyond_zero, trials=30)
    assert (result.declared, result.gain) == (None, None)
    assert result.best.params["x"] <= 0


def test_a_loss_that_is_not_a_number_is_a_failure():
    result = run(not_a_number, trials=5)
    assert [trial.error for trial in result.trials[1:]] == ["the loss is nan"] * 4


def test_a_search_in_which_everything_fails_says_what_the_first_failure_was():
    with pytest.raises(SearchError, match=r"0 of 5 trials could .* trial 0 with .* RuntimeError: no such column"):
        run(always_raises, trials=5)


@pytest.mark.parametrize("pruning", ["median", "hyperband"])
def test_pruning_spares_fits_and_finds_as_good_a_place(pruning):
    pruned, full = Bowl(), Bowl()
    result = run(pruned, trials=60, pruning=pruning)
    reference = run(full, trials=60, pruning=None)
    assert len(pruned.seen) < 0.9 * len(full.seen)
    assert any(trial.state == "pruned" and len(trial.losses) < 3 for trial in result.trials)
    assert result.best.mean == pytest.approx(reference.best.mean, abs=0.7)


def test_the_declared_parameters_are_never_pruned():
    assert run(Bowl(), declared={"x": -5.0, "depth": 6}, trials=40).declared is not None


def test_trials_follow_from_the_seed():
    assert run(Bowl(), trials=20, seed=1).trials == run(Bowl(), trials=20, seed=1).trials
    assert run(Bowl(), trials=20, seed=1).trials != run(Bowl(), trials=20, seed=2).trials


def test_a_summary_counts_the_trials_and_has_their_curve():
    result = run(raises_beyond_zero, declared={"x": -4.0}, trials=30)
    summary = result.summary()
    assert summary["complete"] + summary["pruned"] + summary["failed"] == 30
    assert summary["declared_mean"] == 4.0
    assert summary["best_mean"] == pytest.approx(-summary["best_params"]["x"])
    assert [number for number, _, _ in summary["history"]] == list(range(30))


# --- the budget that a tenant deserves


def test_a_tenant_whose_searches_gain_nothing_gets_a_quarter_of_the_budget_most_of_the_time():
    history = np.random.default_rng(0).normal(0, 0.02, 200)
    spent = [trials_worth(history[:past], 100) for past in range(200)]
    assert np.mean(spent) < 55


def test_a_tenant_whose_searches_gain_keeps_the_full_budget():
    history = np.random.default_rng(0).normal(0.04, 0.02, 50)
    assert {trials_worth(history[:past], 100) for past in range(50)} == {100}


def test_a_tenant_whose_searches_begin_to_gain_has_the_full_budget_back_within_two():
    assert trials_worth([0.0] * 6, 80) == 20
    assert trials_worth([0.0] * 6 + [0.05, 0.06], 80) == 80


@given(history=st.lists(st.floats(-1, 1), max_size=30), declared=st.integers(1, 500))
def test_a_budget_is_between_ten_trials_and_the_full_one(history, declared):
    assert min(declared, 10) <= trials_worth(history, declared) <= declared
