"""Other drift monitors, each in its own virtual environment: creates the environments, and calls the monitors.

``make bench-peers`` runs this module. A peer whose environment is missing or broken is reported as such.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENTS = ROOT / ".local" / "peers"
SECONDS = 900

# Each reads two .npy files (columns x rows), and prints wall and CPU seconds of each run as JSON.
_FRAME = """
import json, sys, time, warnings
warnings.filterwarnings("ignore")
import numpy as np, pandas as pd
reference, current = (pd.DataFrame(np.load(path).T).add_prefix("x") for path in sys.argv[1:3])
def timed(run):
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return [time.perf_counter() - wall, time.process_time() - cpu]
"""
_TIMED = "\nprint(json.dumps([timed(run) for _ in range(int(sys.argv[3]))]))\n"


@dataclass(frozen=True)
class Peer:
    """A package, the further packages of its environment, and the program that times its default check."""

    name: str
    requirements: tuple[str, ...]
    program: str

    @property
    def python(self) -> Path:
        return ENVIRONMENTS / self.name / "bin" / "python"


PEERS = (
    Peer(
        "evidently",
        ("evidently==0.7.23", "pandas==3.0.*"),
        """
from evidently import Report
from evidently.presets import DataDriftPreset
def run():
    Report([DataDriftPreset()]).run(current, reference).dict()
""",
    ),
    Peer(
        "nannyml",
        ("nannyml==0.13.1", "statsmodels"),
        """
import nannyml
names = list(reference)
def run():
    calculator = nannyml.UnivariateDriftCalculator(column_names=names, chunk_number=1)
    calculator.fit(reference)
    calculator.calculate(current)
""",
    ),
    Peer(
        "whylogs",
        ("whylogs[viz]", "pandas<3", "setuptools<80"),
        """
import whylogs
from whylogs.viz.drift.column_drift_algorithms import calculate_drift_scores
def run():
    views = [whylogs.log(frame).view() for frame in (current, reference)]
    calculate_drift_scores(target_view=views[0], reference_view=views[1], with_thresholds=True)
""",
    ),
)


# Detectors that take one item at a time would spend their time on pipes. They run in the process of the benchmark, from
# a separate folder after the project's packages.
RIVER, RIVER_FOLDER = "river==0.26.1", ENVIRONMENTS / "river"


def allow_river() -> None:
    """Adds the folder in which ``make bench-peers`` installs river to the import path."""
    if RIVER_FOLDER.is_dir() and str(RIVER_FOLDER) not in sys.path:
        sys.path.append(str(RIVER_FOLDER))


def make(peer: Peer) -> str | None:
    """Creates a peer's environment; returns the reason if that fails."""
    environment = str(ENVIRONMENTS / peer.name)
    return _run(
        ["venv", "--quiet", "--allow-existing", environment],
        ["pip", "install", "--quiet", "--python", str(peer.python), *peer.requirements],
    )


def make_river() -> str | None:
    """Installs river into its folder, without dependencies, which the project has; returns the reason of a failure."""
    return _run(["pip", "install", "--quiet", "--no-deps", "--target", str(RIVER_FOLDER), RIVER])


def _run(*commands: list[str]) -> str | None:
    uv = str(Path(sys.executable).parent / "uv")
    for command in commands:
        done = subprocess.run([uv, *command], capture_output=True, text=True, check=False)
        if done.returncode:
            return done.stderr.strip()[-500:] or f"uv {command[0]} ended with {done.returncode}"
    return None


def timings(peer: Peer, reference: Path, current: Path, runs: int) -> tuple[list[list[float]] | None, str]:
    """Wall and CPU seconds of each run of a peer's default check, or None and the reason."""
    if not peer.python.exists():
        return None, "not installed. Run: make bench-peers"
    command = [str(peer.python), "-c", _FRAME + peer.program + _TIMED, str(reference), str(current), str(runs)]
    environment = os.environ | {"NML_DISABLE_USAGE_LOGGING": "1", "WHYLOGS_NO_ANALYTICS": "True"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment, timeout=SECONDS * runs
        )
    except subprocess.TimeoutExpired:
        return None, f"took more than {SECONDS * runs} s"
    if done.returncode:
        return None, (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1][:200]
    found: Any = json.loads(done.stdout.strip().splitlines()[-1])
    return found, ""


def main() -> None:
    for name, problem in (*((peer.name, make(peer)) for peer in PEERS), ("river", make_river())):
        print(f"{name}: {'ready' if problem is None else 'missing: ' + problem}", flush=True)


if __name__ == "__main__":
    main()
