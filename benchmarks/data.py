"""Public data as source tables: one row per entity, aware times, names that SQL accepts without quotes.

``calls`` (bank marketing): rows are in time order and contain only the month. The months are counted from May 2008
on, and the rows of a month are spread evenly over it. ``duration``, known only afterwards, is
left out.

``commits``: the columns ``ndev``, ``pd``, ``npt``, ``exp``, ``rexp`` and ``sexp`` of the files repeat ``ns``, ``nm``,
``entropy`` (divided by ``nf``), ``ns``, ``nm`` and ``entropy``. ``fixed_at`` is when it became known that a later
commit fixed what this one broke: the fix was committed and the failure reported, whichever is later. A commit that
would have been fixed before it was made has a clock error and is left out.

``reviews``: one row per change, with all its votes. Columns that are known only with the votes or later are left out:
everything about reviewers, later fixes, and the committer, who differs from the author if somebody else uploaded a
later patch set. Dates have no times, and votes have no dates: they count as known when the change was committed for the
last time. A change whose two dates are more than three years apart has a clock error and is left out.

``pull_requests``: unchanged, without the columns that are known only at the end, except for the outcome.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

BANK = "bank-additional/bank-additional-full.csv"
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
CHANGE_MEASURES = ["ns", "nm", "nf", "entropy", "la", "ld", "lt", "fix"]
CLOCK_ERROR_DAYS = 3 * 365
CHANGE_COLUMNS = [
    "num_lines_added",
    "num_lines_deleted",
    "num_lines_of_code",
    "num_file_impacted",
    "num_dirs_impacted",
    "min_complexity",
    "mean_complexity",
    "max_complexity",
    "entropy",
    "bug_fixing",
    "description_length",
    "num_prior_commits",
    "avg_prior_age",
    "num_prior_commits_bug_fixing",
    "author_is_core",
    "author_is_exp_author",
    "author_is_exp_reviewer",
]
DERIVED_COLUMNS = ["lines_changed", "relative_churn", "lines_per_file", "share_added"]
OUTCOME_OF_PULL_REQUEST = ["closed_at", "changes_requested", "commits_after_first_review"]


def calls(data: Path) -> pd.DataFrame | None:
    """Calls of the bank's campaigns, or None if ``data`` does not contain them; ``subscribed`` is 0 or 1."""
    path = data / "streams" / "bank-additional.zip"
    if not path.is_file():
        return None
    with zipfile.ZipFile(path) as archive:
        table = pd.read_csv(io.BytesIO(archive.read(BANK)), sep=";")
    called_at = _spread_over_months(table["month"].map(MONTHS.index).to_numpy() + 1)
    subscribed = (table["y"] == "yes").astype(float)
    chosen = table.drop(columns=["duration", "month", "day_of_week", "y"])
    chosen = chosen.rename(columns=lambda name: name.replace(".", "_")).assign(
        call=[f"{number:06d}" for number in range(len(table))], called_at=called_at, subscribed=subscribed
    )
    return chosen


def commits(data: Path) -> Iterator[tuple[str, pd.DataFrame]]:
    """Name and commits of each project under ``data``, smallest file first; ``fixed_at`` is missing without a fix."""
    for path in sorted((data / "commits").glob("*.zip"), key=lambda path: (path.stat().st_size, path.name)):
        yield path.stem, _project(path)


def reviews(data: Path) -> Iterator[tuple[str, pd.DataFrame]]:
    """Name and changes of each project with review votes; ``negative`` is 1 if any vote is negative."""
    for path in sorted((data / "reviews").glob("*_votes.csv.gz")):
        votes = pd.read_csv(path)
        for column in ("author_date", "commit_date"):
            votes[column] = pd.to_datetime(votes[column], utc=True, errors="coerce")
        for name, rows in votes.groupby("project", sort=True):
            yield str(name), _changes(rows)


def pull_requests(data: Path) -> pd.DataFrame | None:
    """Pull requests of every repository, as known when opened, with their outcome."""
    path = data / "pull_requests" / "github_agent_prs.csv.gz"
    if not path.is_file():
        return None
    table = pd.read_csv(path)
    known = ["repository", "number", "title", "body", "author", "author_kind", "created_at"]
    chosen = table[known + OUTCOME_OF_PULL_REQUEST].rename(columns={"number": "pull_request"})
    for column in ("created_at", "closed_at"):
        chosen[column] = pd.to_datetime(chosen[column], utc=True)
    return chosen.assign(pull_request=chosen["repository"] + "#" + chosen["pull_request"].astype(str))


def _project(path: Path) -> pd.DataFrame:
    with zipfile.ZipFile(path) as archive:
        table, mapping, failures, hashes = (
            _table(archive, f"{path.stem}_{part}.csv") for part in ("input", "mapping", "failures", "commitsID")
        )
    committed_at = pd.to_datetime(table["commitdate"], utc=True)
    number = dict(zip(hashes["commit"], hashes["transactionid"], strict=True))
    when = dict(zip(table["transactionid"], committed_at, strict=True))
    reported = dict(
        zip(failures["issue.names"], pd.to_datetime(failures["creat.date"], unit="s", utc=True), strict=True)
    )
    blamed = pd.DataFrame(
        {
            "fixed": pd.to_datetime(mapping["fix"].map(number).map(when), utc=True),
            "reported": pd.to_datetime(mapping["issue"].map(reported), utc=True),
        }
    )
    known = blamed.max(axis=1).groupby(mapping["intro."].map(number)).min()
    fixed_at = pd.to_datetime(table["transactionid"].map(known), utc=True)
    rows = table[CHANGE_MEASURES].astype(float)
    rows = rows.assign(commit=table["transactionid"].astype(str), committed_at=committed_at, fixed_at=fixed_at)
    return rows[committed_at.notna() & ~(fixed_at < committed_at)].reset_index(drop=True)


def _table(archive: zipfile.ZipFile, name: str) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(archive.read(name)), sep=None, engine="python")


def _changes(votes: pd.DataFrame) -> pd.DataFrame:
    votes = votes.sort_values(["change_id", "commit_date"], kind="stable")
    of_change = votes.groupby("change_id")
    changes = of_change[["author", "author_date", *CHANGE_COLUMNS]].first()
    changes = changes.assign(
        committed_at=of_change["commit_date"].max(),
        negative=(of_change["reviewer_vote"].min() < 0).astype(float),
    )
    lines = changes["num_lines_added"] + changes["num_lines_deleted"]
    changes = changes.assign(
        lines_changed=lines,
        relative_churn=lines / (changes["num_lines_of_code"] + 1),
        lines_per_file=lines / (changes["num_file_impacted"] + 1),
        share_added=changes["num_lines_added"] / (lines + 1),
    )
    days_between = (changes["committed_at"] - changes["author_date"]).dt.days.abs()
    changes = changes[days_between <= CLOCK_ERROR_DAYS]
    return changes.reset_index().rename(columns={"change_id": "change", "author_date": "uploaded_at"})


def _spread_over_months(month: np.ndarray) -> pd.DatetimeIndex:
    """Times of rows that contain only the month; a smaller number than the last one begins the next year."""
    starts = np.flatnonzero(np.diff(month, prepend=-1))
    ends = np.append(starts[1:], len(month))
    year, before, parts = 2008, 0, []
    for start, end in zip(starts, ends, strict=True):
        number = int(month[start])
        year += number < before
        before = number
        month_start = np.datetime64(f"{year}-{number:02d}", "M")
        first, following = (month_start + step for step in (0, 1))
        length = (following.astype("datetime64[us]") - first.astype("datetime64[us]")).astype(int)
        offsets = np.arange(end - start) * length // (end - start)
        parts.append(first.astype("datetime64[us]") + offsets.astype("timedelta64[us]"))
    return pd.DatetimeIndex(np.concatenate(parts)).tz_localize("UTC")
