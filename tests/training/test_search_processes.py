"""A search in worker processes. They import this module for each worker, so it imports little."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ml_pipeline.resources.compute import Compute
from ml_pipeline.specs.search import Search
from ml_pipeline.training.search.search import SearchError, search
from ml_pipeline.training.search.spaces import Float, Int, Space
from ml_pipeline.training.search.trials import SearchResult

SPACE: Space = {"x": Float(-5.0, 5.0, 0.0), "depth": Int(1, 6, 3)}
DECLARED = {"x": 4.0, "depth": 6}


def uneven(params: dict, fold: int) -> float:
    """Least at x = 1 and depth = 2; takes longer the deeper it is."""
    time.sleep(params["depth"] / 200)
    return 100 * fold + (params["x"] - 1) ** 2 + abs(params["depth"] - 2) + 1


def kills_its_process_beyond_three(params: dict, fold: int) -> float:
    if params["x"] > 3 and params != DECLARED:
        os.kill(os.getpid(), signal.SIGKILL)
    return (params["x"] - 1) ** 2


def hangs_unless_declared(params: dict, fold: int) -> float:
    if params != DECLARED:
        time.sleep(60)
    return 1.0


def always_raises(params: dict, fold: int) -> float:
    raise RuntimeError("no such column 'points'")


def says_its_process_and_hangs(params: dict, fold: int) -> float:
    (Path(params["folder"]) / str(os.getpid())).touch()
    time.sleep(120)
    return 0.0


def run(objective: Callable, declared: dict = DECLARED, **settings) -> SearchResult:
    settings = {"processes": 2} | settings
    return search(objective, SPACE, declared, Search(**settings), seed=0)


def search_here(_: str) -> list[float | None]:
    return [trial.mean for trial in run(uneven, trials=6).trials]


def waited_for(condition: Callable[[], bool], seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    return condition()


def test_two_processes_try_the_very_same_parameters_as_one():
    assert run(uneven, trials=30).trials == run(uneven, trials=30, processes=1).trials


def test_a_fit_that_kills_its_worker_process_fails_alone():
    result = run(kills_its_process_beyond_three, trials=12, pruning=None, method="random")
    died = [trial for trial in result.trials if trial.params["x"] > 3 and not trial.declared]
    assert died
    assert all("worker process died with exit code -9" in (trial.error or "") for trial in died)
    assert sum(trial.state == "complete" for trial in result.trials) == 12 - len(died)


def test_a_fit_that_hangs_does_not_outlast_the_seconds_nor_keep_the_declared_parameters_waiting():
    before = time.monotonic()
    result = run(hangs_unless_declared, trials=20, seconds=5)
    assert time.monotonic() - before < 40
    assert result.best.declared


def test_what_a_worker_process_raises_is_the_error_of_its_trial():
    with pytest.raises(SearchError, match=r"0 of 5 trials could .* trial 0 with .* RuntimeError: no such column"):
        run(always_raises, trials=5)


def test_an_objective_that_cannot_be_sent_to_worker_processes_is_refused_with_a_remedy():
    with pytest.raises(ValueError, match=r"cannot be sent to worker processes: .*lambda.* search in one process"):
        run(lambda params, fold: 0.0, trials=3)


def test_a_search_has_worker_processes_of_its_own_inside_a_worker_process():
    (result,) = Compute(workers=1, timeout=240).map(search_here, [("acme", "")])
    assert (result.error, result.value) == (None, search_here(""))


SEARCHING = """
import sys
from tests.training.test_search_processes import run, says_its_process_and_hangs

if __name__ == "__main__":
    run(says_its_process_and_hangs, {"folder": sys.argv[1]}, trials=4)
"""


def test_workers_in_the_middle_of_a_fit_end_with_the_process_that_searches(tmp_path):
    script, said = tmp_path / "search.py", tmp_path / "processes"
    script.write_text(SEARCHING, encoding="utf-8")
    said.mkdir()
    root = str(Path(__file__).resolve().parents[2])
    with subprocess.Popen([sys.executable, script, said], env=os.environ | {"PYTHONPATH": root}) as searching:
        assert waited_for(lambda: len(list(said.iterdir())) == 2)
        searching.kill()
    workers = [int(path.name) for path in said.iterdir()]
    assert waited_for(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
