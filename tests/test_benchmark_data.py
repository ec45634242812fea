"""What the benchmarks make of public files: what is known when, and what is left out."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pandas as pd
import pytest

from benchmarks import data
from benchmarks.rework_risk import periods
from ml_pipeline.specs import load_specs

EXAMPLES = Path(__file__).parents[1] / "examples" / "specs"


def vote(change: str, value: int, uploaded: str = "2014-01-01", committed: str = "2014-01-05") -> dict:
    numbers = dict.fromkeys(data.CHANGE_COLUMNS, 1)
    dates = {"author_date": uploaded, "commit_date": committed}
    later = {"num_future_commits_bug_fixing": 3, "fix_inducing": 1, "reviewer_freq": 0.5, "committer": "c"}
    return {"change_id": change, "project": "web", "author": "ann", "reviewer_vote": value} | numbers | dates | later


def reviews_of(folder: Path, votes: list[dict]) -> pd.DataFrame:
    (folder / "reviews").mkdir()
    pd.DataFrame(votes).to_csv(folder / "reviews" / "web_votes.csv.gz", index=False)
    ((name, changes),) = data.reviews(folder)
    assert name == "web"
    return changes.set_index("change")


def test_one_negative_vote_makes_a_change_negative(tmp_path: Path):
    changes = reviews_of(tmp_path, [vote("a", 2), vote("a", -1), vote("b", 1)])
    assert changes["negative"].to_dict() == {"a": 1.0, "b": 0.0}


def test_a_change_is_known_when_its_last_patch_set_was_committed(tmp_path: Path):
    changes = reviews_of(tmp_path, [vote("a", 2), vote("a", 2, committed="2014-02-01")])
    assert changes.loc["a", "committed_at"] == pd.Timestamp("2014-02-01", tz="UTC")


def test_a_change_with_a_clock_error_is_left_out(tmp_path: Path):
    votes = [vote("a", 2), vote("b", 2, uploaded="2001-01-01"), vote("c", 2, committed="2001-01-01")]
    assert reviews_of(tmp_path, votes).index.tolist() == ["a"]


@pytest.mark.parametrize("column", ["num_future_commits_bug_fixing", "fix_inducing", "reviewer_freq", "committer"])
def test_what_is_known_only_after_the_upload_is_no_column_of_a_change(tmp_path: Path, column: str):
    assert column not in reviews_of(tmp_path, [vote("a", 2)])


def project(folder: Path, committed: list[str], mapping: list[tuple[int, int, str]], reported: dict[str, str]) -> None:
    """A zip of commits 1, 2, ... at these times; ``mapping`` holds the fix, the commit it blames, and the failure."""
    (folder / "commits").mkdir()
    numbers = range(1, len(committed) + 1)
    measures = dict.fromkeys(data.CHANGE_MEASURES, 1)
    created = [int(pd.Timestamp(moment).timestamp()) for moment in reported.values()]
    tables = {
        "input": pd.DataFrame({"transactionid": numbers, "commitdate": committed}).assign(**measures),
        "commitsID": pd.DataFrame({"commit": [f"h{number}" for number in numbers], "transactionid": numbers}),
        "failures": pd.DataFrame({"issue.names": list(reported), "creat.date": created}),
        "mapping": pd.DataFrame(
            [(f"h{fix}", f"h{broken}", issue) for fix, broken, issue in mapping], columns=["fix", "intro.", "issue"]
        ),
    }
    with zipfile.ZipFile(folder / "commits" / "Shop.zip", "w") as archive:
        for part, table in tables.items():
            archive.writestr(f"Shop_{part}.csv", table.to_csv(index=False))


def test_a_commit_is_known_to_be_guilty_when_it_was_fixed_and_the_failure_reported(tmp_path: Path):
    committed = ["2014-01-01 10:00:00", "2014-02-01 10:00:00", "2014-03-01 10:00:00"]
    project(tmp_path, committed, [(3, 1, "S-1"), (3, 2, "S-2")], {"S-1": "2014-01-15", "S-2": "2014-04-01"})
    ((_, commits),) = data.commits(tmp_path)
    fixed_at = commits.set_index("commit")["fixed_at"]
    assert fixed_at["1"] == pd.Timestamp("2014-03-01 10:00", tz="UTC")
    assert fixed_at["2"] == pd.Timestamp("2014-04-01", tz="UTC")
    assert pd.isna(fixed_at["3"])


def test_a_commit_that_was_fixed_before_it_was_made_is_left_out(tmp_path: Path):
    committed = ["2014-01-01 10:00:00", "2014-02-01 10:00:00"]
    project(tmp_path, committed, [(1, 2, "S-1")], {"S-1": "2013-12-01"})
    ((_, commits),) = data.commits(tmp_path)
    assert commits["commit"].tolist() == ["1"]


def test_a_commit_counts_as_clean_until_the_fix_that_blames_it(tmp_path: Path):
    committed = ["2014-01-01 10:00:00", "2015-09-01 10:00:00", "2016-09-01 10:00:00"]
    project(tmp_path, committed, [(2, 1, "S-1")], {"S-1": "2015-08-01"})
    ((_, commits),) = data.commits(tmp_path)
    spec = load_specs([EXAMPLES])["defect_risk"]
    labels = {origin: frame.set_index("entity_id")["label"]["1"] for origin, frame in periods(spec, commits)}
    fixed = pd.Timestamp("2015-09-01 10:00", tz="UTC")
    assert {label for origin, label in labels.items() if origin < fixed} == {0.0}
    assert {label for origin, label in labels.items() if origin >= fixed} == {1.0}
