"""The watchdog of a service: whatever is killed, nothing of the service's group stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_pipeline import watchdog

pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="processes are looked for in /proc")
PATIENCE = 15.0
# As `ml_pipeline.up` runs it, but that it waits a tenth of the time before it kills.
RUNS = f"import sys; sys.path.append({str(Path(watchdog.__file__).parent)!r}); import watchdog; "
RUNS += f"watchdog.GRACE_SECONDS = {watchdog.GRACE_SECONDS / 10}; watchdog.main()"
WATCHDOG = [sys.executable, "-I", "-S", "-c", RUNS]
# A service that ignores requests to end and has a child of its own, as a code server has.
SERVICE = ["sh", "-c", "trap '' TERM; sleep 300 & sleep 300; sleep 300"]


@pytest.fixture
def guarded() -> Iterator[subprocess.Popen[bytes]]:
    """A service under its watchdog, with its five processes at work."""
    process = subprocess.Popen([*WATCHDOG, *SERVICE], stdin=subprocess.PIPE, start_new_session=True)
    assert wait_until(lambda: len(group_of(process.pid)) == 5)
    yield process
    for member in group_of(process.pid):
        os.kill(member, signal.SIGKILL)
    process.wait()
    end_parent_of(process)


def end_parent_of(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()


def group_of(leader: int) -> list[int]:
    """Living members of a process group, the leader first."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, group = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(group) == leader and state != "Z":
            found.append(int(folder.name))
    return sorted(found)


def wait_until(holds) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not (found := holds()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def is_gone(process: subprocess.Popen[bytes]) -> bool:
    return wait_until(lambda: group_of(process.pid) == [])


def test_a_parent_that_is_gone_ends_all(guarded: subprocess.Popen[bytes]):
    end_parent_of(guarded)
    assert is_gone(guarded)


@pytest.mark.parametrize("place", [0, 1], ids=["outer", "inner"])
def test_a_watchdog_that_is_killed_ends_all(guarded: subprocess.Popen[bytes], place: int):
    os.kill(group_of(guarded.pid)[place], signal.SIGKILL)
    assert is_gone(guarded)


@pytest.mark.parametrize("place", [0, 1], ids=["outer", "inner"])
def test_a_watchdog_that_is_killed_together_with_the_parent_ends_all(guarded: subprocess.Popen[bytes], place: int):
    victim = group_of(guarded.pid)[place]
    end_parent_of(guarded)
    os.kill(victim, signal.SIGKILL)
    assert is_gone(guarded)


@pytest.mark.parametrize(
    ("command", "code"), [(["true"], 0), (["sh", "-c", "exit 3"], 3), (["sh", "-c", "kill -9 $$"], 137)]
)
def test_the_code_of_the_command_is_handed_on(command: list[str], code: int):
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", watchdog.__file__, *command], stdin=subprocess.PIPE, start_new_session=True
    )
    with process:
        assert process.wait(PATIENCE) == code
