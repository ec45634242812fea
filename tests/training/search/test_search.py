"""A search: judged by the mean over folds, within its budgets, resumed from PostgreSQL."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from optuna.exceptions import StorageInternalError

from ml_pipeline.resources import postgres
from ml_pipeline.settings import Settings
from ml_pipeline.specs.search import Search
from ml_pipeline.training.search import record as search_record
from ml_pipeline.training.search.search import SearchError, search, trials_worth
from ml_pipeline.training.search.spaces import Choice, Float, Int, Space

SPACE: Space = {"x": Float(-5.0, 5.0, 0.0), "depth": Int(1, 6, 3)}
ROOT = str(Path(__file__).resolve().parents[2])
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
    outside = {name: settings.pop(name) for name in ("study", "storage", "clock") if name in settings}
    return search(objective, space, declared, Search(**settings), seed=seed, **{"study": "acme", **outside})


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


# --- the record in PostgreSQL


@pytest.fixture
def storage(settings: Settings) -> str:
    """URL of the test's own database, in a schema that holds nothing else."""
    url = postgres.parse_url(settings.database_url or "")
    with sa.create_engine(url, poolclass=sa.NullPool).begin() as connection:
        connection.execute(sa.text("CREATE SCHEMA search"))
    return postgres.plain(postgres.url_with_options(url, search_path="search"))


def executed(storage: str, statement: str) -> list:
    with sa.create_engine(storage, poolclass=sa.NullPool).begin() as connection:
        result = connection.execute(sa.text(statement))
        return list(result) if result.returns_rows else []


def test_a_search_goes_on_where_it_was_cut_off_and_tries_nothing_twice(storage):
    first, second = Bowl(), Bowl()
    run(first, trials=13, storage=storage)
    result = run(second, trials=30, storage=storage)
    assert [trial.number for trial in result.trials] == list(range(30))
    assert not {params["x"] for params, _ in first.seen} & {params["x"] for params, _ in second.seen}


def test_a_search_that_is_over_is_read_and_not_run_again(storage):
    first = run(Bowl(), trials=12, storage=storage)
    bowl = Bowl()
    assert run(bowl, trials=12, storage=storage).trials == first.trials
    assert bowl.seen == []


def test_the_seconds_of_earlier_sittings_count(storage):
    ticks = iter(range(1000))
    run(Bowl(), trials=50, seconds=30, storage=storage, clock=lambda: next(ticks))
    bowl = Bowl()
    result = run(bowl, trials=50, seconds=30, storage=storage, clock=lambda: next(ticks))
    assert bowl.seen == []
    assert result.stopped == "the time limit of 30 seconds was reached"


def test_a_grid_is_finished_in_a_second_sitting(storage):
    space: Space = {"x": Float(0.0, 2.0, 0.0), "depth": Choice((1, 2))}
    run(Bowl(), space, method="grid", trials=4, storage=storage)
    result = run(Bowl(), space, method="grid", trials=50, storage=storage)
    assert len({(trial.params["x"], trial.params["depth"]) for trial in result.trials}) == len(result.trials) == 7


def test_failed_and_pruned_trials_are_remembered_with_their_losses_and_errors(storage):
    run(raises_beyond_zero, declared={"x": -4.0}, trials=30, storage=storage)
    again = run(raises_beyond_zero, declared={"x": -4.0}, trials=30, storage=storage)
    assert any((trial.error or "").startswith("ArithmeticError") for trial in again.trials)
    assert any(trial.state == "pruned" and trial.losses for trial in again.trials)


KILLED = """
import os, signal, sys, time
sys.path.insert(0, sys.argv[2])
from tests.training.search.test_search import Bowl, run

class Killed(Bowl):
    def __call__(self, params, fold):
        if len(self.seen) == 20:
            time.sleep(2)  # the record is written by a thread
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(params, fold)

run(Killed(), trials=30, storage=sys.argv[1])
"""


def test_trials_that_were_killed_with_their_process_fail_by_their_heartbeat_and_are_replaced(storage):
    ended = subprocess.run([sys.executable, "-c", KILLED, storage, ROOT], check=False, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    running = executed(storage, "SELECT number FROM trials WHERE state = 'RUNNING' ORDER BY number")
    assert len(running) == 4
    executed(storage, "UPDATE trial_heartbeats SET heartbeat = heartbeat - interval '2 minutes'")
    result = run(Bowl(), trials=30, storage=storage)
    lost = [trial.number for trial in result.trials if trial.state == "interrupted"]
    assert lost == [number for (number,) in running]
    assert sum(trial.state != "interrupted" for trial in result.trials) == 30
    assert executed(storage, "SELECT number FROM trials WHERE state = 'RUNNING'") == []


def test_a_trial_with_a_long_fit_keeps_its_heartbeat(storage, monkeypatch):
    monkeypatch.setattr(search_record, "HEARTBEAT_SECONDS", 1)
    beats = []

    def long(params: dict, fold: int) -> float:
        time.sleep(2.5)
        beats.append(executed(storage, "SELECT heartbeat FROM trial_heartbeats WHERE trial_id = 1"))
        return 1.0

    run(long, trials=1, folds=2, storage=storage)
    assert beats[0] < beats[1]


def test_two_studies_in_one_storage_know_nothing_of_each_other(storage):
    run(Bowl(), trials=5, storage=storage, study="acme")
    assert len(run(Bowl(), trials=7, storage=storage, study="globex").trials) == 7


def test_an_objective_that_is_interrupted_by_its_user_leaves_no_running_trial(storage):
    def interrupted(params: dict, fold: int) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(interrupted, trials=5, storage=storage)
    assert executed(storage, "SELECT DISTINCT state FROM trials") == [("FAIL",)]


def test_a_study_of_another_space_is_refused_rather_than_mixed(storage):
    run(Bowl(), trials=3, storage=storage)
    with pytest.raises(ValueError, match="study 'acme' was started with another folds and space"):
        run(Bowl(), {"x": Float(0.0, 1.0, 0.0)}, trials=3, folds=4, storage=storage)


def test_a_database_that_fails_in_the_middle_ends_the_search_with_its_error(storage):
    def drops_the_tables(params: dict, fold: int) -> float:
        executed(storage, "DROP SCHEMA IF EXISTS search CASCADE")
        return 1.0

    with pytest.raises(StorageInternalError):
        run(drops_the_tables, trials=5, storage=storage)


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
