"""Pull requests of GitHub into a real database, as CSV and as JSON Lines, for one tenant or many."""

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from ml_pipeline.importers import ImportFailed, import_github
from ml_pipeline.resources import tables

HEADER = "repository,number,title,body,created_at,closed_at,merged_at,author"
PULLS = tables.pull_requests


@pytest.fixture
def export(tmp_path: Path):
    def write(*rows: str, header: str = HEADER, name: str = "acme.csv") -> Path:
        path = tmp_path / name
        path.write_text("\n".join([header, *rows]) + "\n")
        return path

    return write


@pytest.fixture
def json_export(tmp_path: Path):
    def write(*objects: dict, name: str = "acme.jsonl") -> Path:
        path = tmp_path / name
        text = "".join(json.dumps(item) + "\n" for item in objects)
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return write


REST = {
    "html_url": "https://github.com/acme/web/pull/7",
    "number": 7,
    "title": "Fix",
    "body": None,
    "user": {"login": "ann", "type": "User"},
    "created_at": "2025-01-02T03:04:05Z",
    "closed_at": "2025-01-04T00:00:00Z",
    "merged_at": "2025-01-03T00:00:00Z",
    "base": {"repo": {"full_name": "acme/web"}},
    "additions": 120,
    "labels": [{"name": "bug"}],
}
GH = {
    "url": "https://github.com/acme/web/pull/8",
    "number": 8,
    "title": "Fix more",
    "author": {"login": "bot", "is_bot": True},
    "createdAt": "2025-02-02T03:04:05Z",
    "closedAt": None,
    "mergedAt": None,
    "reviews": [
        {"state": "CHANGES_REQUESTED", "submittedAt": "2025-02-03T00:00:00Z"},
        {"state": "APPROVED", "submittedAt": "2025-02-05T00:00:00Z"},
    ],
    "commits": [{"committedDate": "2025-02-02T00:00:00Z"}, {"committedDate": "2025-02-04T00:00:00Z"}],
}


def test_objects_of_the_rest_api_arrive_in_the_tables_columns(warehouse, stored, json_export):
    import_github(warehouse, json_export(REST))
    row = stored("acme", PULLS).iloc[0]
    named = ["pull_request", "repository", "author", "author_kind", "title"]
    assert row[named].tolist() == ["acme/web#7", "acme/web", "ann", "User", "Fix"]
    assert row["created_at"] == datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert pd.isna(row["body"])


def test_objects_of_the_command_line_tool_bring_their_review_counts(warehouse, stored, json_export):
    import_github(warehouse, json_export(GH, name="acme.jsonl.gz"))
    row = stored("acme", PULLS).iloc[0]
    assert row[["pull_request", "author", "author_kind"]].tolist() == ["acme/web#8", "bot", "Bot"]
    assert row[["changes_requested", "commits_after_first_review"]].tolist() == [1.0, 1.0]
    assert pd.isna(row["closed_at"])


@pytest.mark.parametrize(
    ("closed", "merged"), [("2025-01-04", "2025-01-03"), ("2025-01-03", "2025-01-04"), ("", "2025-01-03")]
)
def test_closed_at_is_the_earlier_of_closed_and_merged(warehouse, stored, export, closed, merged):
    import_github(warehouse, export(f"a/b,1,t,b,2025-01-01,{closed},{merged},ann"))
    assert stored("acme", PULLS)["closed_at"].item() == datetime(2025, 1, 3, tzinfo=UTC)


def test_final_counts_are_not_taken_for_those_at_opening(warehouse, stored, export):
    header = "repository,number,created_at,additions,changed_files,deletions,additions_at_opening"
    import_github(warehouse, export("a/b,1,2025-01-01,900,80,70,9", header=header))
    row = stored("acme", PULLS).iloc[0]
    assert row["additions"] == 9
    assert row[["changed_files", "deletions"]].isna().all()


@pytest.mark.parametrize(("number", "key"), [("603", "a/b#603"), ("603.0", "a/b#603"), (" 7 ", "a/b#7")])
def test_the_key_is_repository_and_whole_number(warehouse, stored, export, number, key):
    import_github(warehouse, export(f"a/b,{number},t,,2025-01-01,,,ann"))
    assert stored("acme", PULLS)["pull_request"].tolist() == [key]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("a/b,1.5,t,b,2025-01-01,,,ann", "number is no whole number"),
        ("a/b,,t,b,2025-01-01,,,ann", "number is missing"),
        ("a/b,-2,t,b,2025-01-01,,,ann", "number is negative"),
        (",2,t,b,2025-01-01,,,ann", "repository is missing"),
        ("a/b,2,t,b,,,,ann", "created_at is missing"),
        ("a/b,2,t,b,2025-01-02,,2025-01-01,ann", "closed_at is before created_at"),
    ],
)
def test_a_bad_row_is_set_aside_and_the_others_are_loaded(warehouse, stored, export, bad, reason):
    summary = import_github(warehouse, export("a/b,1,t,b,2025-01-01,,,ann", bad))
    assert summary.reasons == {reason: 1}
    assert len(stored("acme", PULLS)) == 1
    assert stored("acme", tables.quarantine)["line"].tolist() == [3]


def test_without_repository_the_tenant_stands_in_for_it(warehouse, stored, export):
    path = export("1,2025-01-01", header="number,created_at")
    with pytest.raises(ImportFailed, match="no column for repository"):
        import_github(warehouse, path)
    import_github(warehouse, path, tenant="globex")
    assert stored("globex", PULLS)["pull_request"].tolist() == ["globex#1"]


@pytest.mark.parametrize(
    ("tenant_from", "tenants"), [("owner", ("acme", "globex")), ("repository", ("acme.web", "acme.api", "globex.web"))]
)
def test_one_file_is_divided_among_tenants_that_never_mix(warehouse, stored, export, tenant_from, tenants):
    rows = [f"{name},1,t,b,2025-01-01,,,ann" for name in ("acme/web", "acme/api", "globex/web")]
    summary = import_github(warehouse, export(*rows), tenant_from=tenant_from)
    assert summary.tenants == tenants
    seen = [key for tenant in tenants for key in stored(tenant, PULLS)["pull_request"]]
    assert sorted(seen) == ["acme/api#1", "acme/web#1", "globex/web#1"]
    assert stored(tenants[-1], PULLS)["pull_request"].tolist() == ["globex/web#1"]


def test_bad_rows_of_a_divided_file_go_to_their_tenant_where_it_is_known(warehouse, stored, export):
    rows = [
        "acme/web,1,t,b,2025-01-01,,,ann",
        "acme/web,2,t,b,never,,,ann",
        "acme,3,t,b,2025-01-01,,,ann",
        "a b/web,4,t,b,2025-01-01,,,ann",
        "acme/web,5",
    ]
    summary = import_github(warehouse, export(*rows), tenant_from="owner")
    assert stored("acme", tables.quarantine)["line"].tolist() == [3]
    unknown = stored("__unknown__", tables.quarantine)
    assert unknown["line"].tolist() == [4, 5, 6]
    assert unknown["reason"].tolist()[1] == "repository gives no tenant id: 'a b/web'"
    assert summary.tenants == ("acme",)
    assert warehouse.tenants() == ["acme"]


def test_a_corrected_divided_file_leaves_nothing_in_quarantine(warehouse, stored, export):
    good = "acme/web,1,t,b,2025-01-01,,,ann"
    import_github(warehouse, export(good, "acme/web,5", "acme/web,2,t,b,never,,,ann"), tenant_from="owner")
    import_github(warehouse, export(good), tenant_from="owner")
    assert stored("__unknown__", tables.quarantine).empty
    assert stored("acme", tables.quarantine).empty


def test_each_tenant_of_a_divided_file_is_shifted_by_weeks_of_its_own(warehouse, stored, export):
    path = export("acme/web,1,t,b,2025-01-01,,,ann", "globex/web,1,t,b,2020-01-01,,,ann")
    target = pd.Timestamp("2026-01-31", tz="UTC")
    import_github(warehouse, path, tenant_from="owner", shift_to=target)
    for tenant in ("acme", "globex"):
        newest = stored(tenant, PULLS)["created_at"].max()
        assert target - pd.Timedelta(weeks=1) < newest <= target


def test_a_tenant_and_a_rule_for_tenants_exclude_each_other(warehouse, export):
    with pytest.raises(ImportFailed, match="exclude each other"):
        import_github(warehouse, export(), tenant="acme", tenant_from="owner")


def test_a_json_chunk_without_a_usable_line_is_an_error(warehouse, stored, tmp_path):
    path = tmp_path / "acme.jsonl"
    path.write_text('{"number": 1}\n{broken\n')
    with pytest.raises(ImportFailed, match="none of 2 rows is usable"):
        import_github(warehouse, path)
    assert len(stored("acme", tables.quarantine)) == 2


def test_real_pull_requests_are_loaded_whole_and_once(warehouse, stored, shared_data):
    path = shared_data / "pull_requests" / "github_agent_prs.csv.gz"
    source = pd.read_csv(path)
    for _ in range(2):
        summary = import_github(warehouse, path, tenant="agents")
        assert (summary.rows_loaded, summary.quarantined, summary.duplicates) == (len(source), 0, 0)
    rows = stored("agents", PULLS)
    assert len(rows) == len(source)
    assert rows["closed_at"].notna().sum() == source["closed_at"].notna().sum()
    assert rows["changes_requested"].sum() == source["changes_requested"].sum()


def test_owners_that_differ_only_in_case_are_one_tenant_and_the_later_spelling_is_set_aside(warehouse, stored, export):
    warehouse.add_tenant("Globex")
    rows = ("Acme/web,1,t,b,2021-03-01,,,ann", "acme/api,2,t,b,2021-03-01,,,ann", "globex/web,3,t,b,2021-03-01,,,ann")
    summary = import_github(warehouse, export(*rows), tenant_from="owner")
    assert (summary.rows_loaded, summary.quarantined) == (1, 2)
    assert warehouse.tenants() == ["Globex", "Acme"]
    assert stored("__unknown__", tables.quarantine)["reason"].tolist() == [
        "repository gives no tenant id: 'acme/api'",
        "repository gives no tenant id: 'globex/web'",
    ]
