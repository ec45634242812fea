"""Tasks fail alone: raising, hanging, killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ml_pipeline.resources.compute import Compute


def task(argument: str) -> str:
    match argument:
        case "raise":
            raise ValueError("no such column 'points'")
        case "hang":
            time.sleep(60)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
    return argument.upper()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("raise", "ValueError: no such column 'points'"),
        ("hang", "took longer than 2 s"),
        ("kill", "its worker process died with exit code -9"),
    ],
)
def test_a_task_that_fails_leaves_the_others_with_their_results(bad: str, message: str):
    names = [f"t{i}" for i in range(12)]
    tasks = [*((name, name) for name in names[:6]), (bad, bad), *((name, name) for name in names[6:])]
    results = {result.key: result for result in Compute(workers=2, timeout=2).map(task, tasks)}
    assert {key: result.value for key, result in results.items() if result.error is None} == {
        name: name.upper() for name in names
    }
    assert message in (results[bad].error or "")


def test_every_killed_worker_is_replaced():
    tasks = [(i, "kill") for i in range(5)] + [(i, "fine") for i in range(5, 10)]
    results = list(Compute(workers=2, timeout=20).map(task, tasks))
    assert sorted(result.key for result in results if result.error) == [0, 1, 2, 3, 4]
    assert sorted(result.key for result in results if result.value == "FINE") == [5, 6, 7, 8, 9]


def test_no_tasks_start_no_work():
    assert list(Compute(workers=2, timeout=1).map(task, [])) == []


EARLY = """
import os, pathlib, sys
from ml_pipeline.resources.compute import Compute, start_fork_server
if __name__ == "__main__":
    start_fork_server(pathlib.Path(sys.argv[1]))
    print([result.value for result in Compute(1, 60).map(os.system, [("task", "echo from the worker")])])
"""


def test_workers_of_a_fork_server_that_starts_early_write_to_its_log(tmp_path: Path):
    log = tmp_path / "workers.log"
    shown = subprocess.run([sys.executable, "-c", EARLY, str(log)], capture_output=True, text=True, check=True)
    assert (shown.stdout, shown.stderr) == ("[0]\n", "")
    assert log.read_text() == "from the worker\n"
