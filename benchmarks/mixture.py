"""Time of a mixture of the shipped story points: training and files, and the predictions of a day months later.

The rows are the first 2,000 of a Jira project with text. The version is trained on the older ``SHARE`` of them; a day's
predictions take up every outcome since then, as the hourly run does after that time without a training.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.common import AFTER_EVERYTHING, jira_tenants, parse_arguments, print_result, print_table, source_rows
from ml_pipeline.features.point_in_time import build
from ml_pipeline.specs import ModelSpec, load_specs
from ml_pipeline.training.fitted_model import FittedModel
from ml_pipeline.training.splits import time_split
from ml_pipeline.training.train import train_on_split

ROWS = 2_000
SHARE = 0.9
REPEATS = 5


def seconds(work: Callable[[], object]) -> float:
    """Median of the seconds that the work takes, after one run that imports what it needs."""
    work()
    taken = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def measure(spec: ModelSpec, frame: pd.DataFrame, seed: int) -> dict[str, Any]:
    """Seconds of the training, of writing and reading its files, and of a day's predictions."""
    as_of = frame["label_time"].sort_values().iloc[round(SHARE * len(frame))]
    known = frame[frame["label_time"] <= as_of].reset_index(drop=True)
    split = time_split(known, spec.training.validation_share, spec.training.test_share)
    model = train_on_split(spec, known, split, seed, as_of=as_of).model
    day = frame.iloc[-5:]
    with tempfile.TemporaryDirectory() as folder:
        return {
            "rows": len(known),
            "outcomes_since": int((frame["label_time"] > as_of).sum()),
            "train_seconds": seconds(lambda: train_on_split(spec, known, split, seed, as_of=as_of)),
            "write_seconds": seconds(lambda: model.save(Path(folder))),
            "read_seconds": seconds(lambda: FittedModel.load(Path(folder))),
            "predict_seconds": seconds(lambda: model.predict(day, frame)),
            "megabytes": sum(file.stat().st_size for file in Path(folder).iterdir()) / 1e6,
        }


def main() -> None:
    arguments = parse_arguments(__doc__ or "")
    spec = load_specs()["story_points"]
    for name, export in jira_tenants(arguments.data):
        frame = build(spec, source_rows(spec, export), AFTER_EVERYTHING)
        frame = frame[frame["state"] == "matured"].reset_index(drop=True).iloc[:ROWS]
        if len(frame) == ROWS:
            figures = {"tenant": name, **measure(spec, frame, arguments.seed)}
            print_table([figures])
            print_result(figures, arguments.seed, arguments.json)
            return
    raise SystemExit(f"no export under {arguments.data} has {ROWS} matured rows")


if __name__ == "__main__":
    main()
