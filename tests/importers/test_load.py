"""Bulk loading of frames, and the memory that a long file takes."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from ml_pipeline.importers import import_tables
from ml_pipeline.resources import tables

NOON = pd.Timestamp("2025-01-01 12:00", tz="UTC")

# In a process of its own, whose peak is that of the import alone (getrusage would include the parent's before exec).
MEASURE_PEAK = """
import re, sys
from pathlib import Path
from ml_pipeline.importers import import_jira
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.settings import Settings

warehouse = Warehouse(Settings(database_url=sys.argv[1]))
summary = import_jira(warehouse, Path(sys.argv[2]))
peak = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]
print(summary.rows_loaded, int(peak) // 1024)
"""


def issues(**columns) -> pd.DataFrame:
    return pd.DataFrame({"issue_key": ["A-1", "A-2"], "created_at": [NOON, NOON], **columns})


def test_frames_are_loaded_with_their_missing_values(warehouse, stored):
    frame = issues(story_points=[3.0, None], team=["core", None], resolved_at=[pd.NaT, NOON])
    import_tables(warehouse, "acme", frame, None)
    rows = stored("acme")
    assert rows["created_at"].tolist() == [NOON, NOON]
    assert rows["story_points"].isna().tolist() == [False, True]
    assert rows["team"].tolist()[0] == "core"
    assert rows["resolved_at"].isna().tolist() == [True, False]
    assert warehouse.tenants() == ["acme"]


def test_loading_again_replaces_the_columns_given_and_keeps_the_others(warehouse, stored):
    import_tables(warehouse, "acme", issues(team=["core", "web"]), None)
    import_tables(warehouse, "acme", issues(story_points=[1, 2]), None)
    rows = stored("acme")
    assert rows["team"].tolist() == ["core", "web"]
    assert rows["story_points"].tolist() == [1.0, 2.0]


def test_of_rows_with_the_same_key_the_last_wins(warehouse, stored):
    import_tables(warehouse, "acme", issues(team=["core", "web"]).assign(issue_key="A-1"), None)
    assert stored("acme")["team"].tolist() == ["web"]


def test_both_tables_are_filled(warehouse, stored):
    pulls = pd.DataFrame({"pull_request": ["a/b#1"], "created_at": [NOON], "changes_requested": [1]})
    import_tables(warehouse, "acme", issues(), pulls)
    assert len(stored("acme")) == 2
    assert stored("acme", tables.pull_requests)["changes_requested"].tolist() == [1.0]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (issues(points=[1, 2]), r"has columns \['points'\]"),
        (issues().drop(columns="created_at"), r"lacks \['created_at'\]"),
        (issues(tenant_id=["acme", "globex"]), r"contains rows of the tenants \['globex'\]"),
    ],
)
def test_a_frame_that_does_not_fit_its_table_is_refused(warehouse, frame, message):
    with pytest.raises(ValueError, match=message):
        import_tables(warehouse, "acme", frame, None)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_memory_does_not_grow_with_the_length_of_the_file(warehouse, tmp_path):
    path = tmp_path / "acme.csv"
    with path.open("w") as file:
        file.write("Issue key,Created,Resolved,Story Points,Summary,Description\n")
        for number in range(200_000):
            file.write(f"A-{number},2021-03-01 10:00,2021-03-02 10:00,3,Summary {number},{'words of text ' * 30}\n")
    command = [sys.executable, "-c", MEASURE_PEAK, warehouse.settings.database_url, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    loaded, peak_megabytes = map(int, done.stdout.split())
    assert loaded == 200_000
    assert peak_megabytes < 300
