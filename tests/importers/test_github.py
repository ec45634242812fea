"""Pull requests of GitHub into a real database, as CSV and as JSON Lines, for one tenant or many."""

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from ml_pipeline.importers import ImportFailed, import_github
from ml_pipeline.importers.github import derive_keys
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


def rest_review(login: str = "bob", state: str = "CHANGES_REQUESTED", day: int = 5, kind: str = "User") -> dict:
    return {"user": {"login": login, "type": kind}, "state": state, "submitted_at": f"2025-01-{day:02d}T00:00:00Z"}


def rest_commit(day: int, author_day: int | None = None) -> dict:
    dates = {"author": f"2025-01-{author_day or day:02d}T00:00:00Z", "committer": f"2025-01-{day:02d}T00:00:00Z"}
    return {"sha": "0", "commit": {person: {"name": "ann", "date": date} for person, date in dates.items()}}


GRAPHQL_REVIEWS = {
    "totalCount": 1,
    "nodes": [
        {
            "author": {"login": "bob", "__typename": "User"},
            "state": "CHANGES_REQUESTED",
            "submittedAt": "2025-01-05T00:00:00Z",
        }
    ],
}
GRAPHQL_COMMITS = {"nodes": [{"commit": {"committedDate": f"2025-01-{day:02d}T00:00:00Z"}} for day in (2, 6)]}
NO_TIME = {"user": {"login": "bob", "type": "User"}}


@pytest.mark.parametrize(
    ("reviews", "commits", "counts"),
    [
        # The spellings of REST, GraphQL and of an exporter that keeps edges.
        ([rest_review()], [rest_commit(2), rest_commit(6)], (1, 1)),
        (GRAPHQL_REVIEWS, GRAPHQL_COMMITS, (1, 1)),
        (
            {"edges": [{"node": node} for node in GRAPHQL_REVIEWS["nodes"]]},
            {"edges": [{"node": node} for node in GRAPHQL_COMMITS["nodes"]]},
            (1, 1),
        ),
        ([rest_review()], [rest_commit(6, author_day=2)], (1, 1)),
        ([rest_review()], [{"commit": {"author": {"date": "2025-01-06T00:00:00+00:00"}}}], (1, 1)),
        ([rest_review()], [{"committedDate": "2025-01-05T01:00:00+02:00"}], (1, 0)),
        # Who reviews.
        ([rest_review("ANN"), rest_review("ann", "COMMENTED")], [rest_commit(6)], (0, 0)),
        ([rest_review("lint", kind="Bot"), rest_review("ci[bot]", kind="")], [rest_commit(6)], (0, 0)),
        ([{"author": {"login": "ci", "__typename": "Bot"}, "state": "COMMENTED"}], [rest_commit(6)], (0, 0)),
        ([rest_review("ann", "COMMENTED", 3), rest_review(day=7)], [rest_commit(6)], (1, 0)),
        ([{"user": None, "state": "CHANGES_REQUESTED", "submitted_at": "2025-01-05T00:00:00Z"}], [], (1, 0)),
        # What is submitted.
        ([NO_TIME | {"state": "PENDING"}], [rest_commit(6)], (0, 0)),
        ([NO_TIME | {"state": "PENDING"}, rest_review(state="APPROVED")], [rest_commit(6)], (0, 1)),
        # What is absent is unknown.
        (None, [rest_commit(6)], (None, None)),
        (3, 2, (None, None)),
        ({"totalCount": 2}, {"totalCount": 1}, (None, None)),
        (GRAPHQL_REVIEWS | {"totalCount": 101}, GRAPHQL_COMMITS, (None, None)),
        (GRAPHQL_REVIEWS | {"pageInfo": {"hasNextPage": True}}, GRAPHQL_COMMITS, (None, None)),
        ([rest_review()], None, (1, None)),
        ([rest_review()], GRAPHQL_COMMITS | {"totalCount": 250}, (1, None)),
        ([rest_review()], [{"sha": "0"}, rest_commit(6)], (1, None)),
        ([NO_TIME | {"state": "APPROVED"}], [rest_commit(6)], (None, None)),
        ([NO_TIME | {"state": "CHANGES_REQUESTED"}], [rest_commit(6)], (1, None)),
        ([NO_TIME | {"state": "APPROVED", "submitted_at": "0001-01-01T00:00:00Z"}], [rest_commit(6)], (None, None)),
        ([{"submitted_at": "2025-01-05T00:00:00Z"}], [rest_commit(6)], (None, 1)),
        ([None], [rest_commit(6)], (None, None)),
        ([], [rest_commit(6)], (0, 0)),
        ([], None, (0, None)),
    ],
)
def test_reviews_and_commits_are_counted_in_each_of_their_spellings_or_unknown(reviews, commits, counts):
    keys = ("changes_requested", "commits_after_first_review")
    derived = derive_keys({"user": {"login": "ann"}, "reviews": reviews, "commits": commits})
    assert tuple(derived.get(key) for key in keys) == counts


def test_an_app_is_the_author_of_its_own_reviews_under_either_of_its_names():
    review = rest_review("renovate", "COMMENTED")
    for login in ("app/renovate", "renovate[bot]", "Renovate"):
        counts = derive_keys({"author": {"login": login}, "reviews": [review], "commits": [rest_commit(6)]})
        assert counts["commits_after_first_review"] == 0


def test_what_reviews_do_not_show_is_stored_as_unknown_and_what_the_object_says_counts_first(
    warehouse, stored, json_export
):
    known = REST | {"reviews": [rest_review()], "commits": [rest_commit(6)]}
    said = known | {"number": 9, "changes_requested": 4, "commits_after_first_review": None}
    import_github(warehouse, json_export(REST, known | {"number": 8}, said))
    rows = stored("acme", PULLS)[["changes_requested", "commits_after_first_review"]]
    assert rows.iloc[0].isna().all()
    assert rows.iloc[1:].to_numpy().tolist() == [[1.0, 1.0], [4.0, 1.0]]


def test_graphql_says_of_an_author_what_kind_it_is(warehouse, stored, json_export):
    import_github(warehouse, json_export(GH | {"author": {"__typename": "Bot", "login": "renovate"}}))
    assert stored("acme", PULLS)["author_kind"].tolist() == ["Bot"]


def test_of_a_key_that_stands_twice_the_value_counts_wherever_it_stands(warehouse, stored, tmp_path):
    path = tmp_path / "acme.jsonl"
    twice = '{"number": 7, "created_at": "NULL", "repo": "a/b", "created_at": "2025-01-02", "created_at": null}'
    spelled = '{"number": 8, "created_at": "", "createdAt": "2025-01-02", "opened_at": "n/a", "repo": "a/b"}'
    path.write_text(f"{twice}\n{spelled}\n")
    import_github(warehouse, path)
    assert stored("acme", PULLS)["created_at"].tolist() == [datetime(2025, 1, 2, tzinfo=UTC)] * 2


def test_a_number_of_json_is_set_aside_as_it_was_written(warehouse, stored, tmp_path):
    path = tmp_path / "acme.jsonl"
    numbers = ["7", "1e400", "Infinity", "9" * 5_000, "12345678901234567890", "NaN", "7.5", "true"]
    objects = [f'{{"number": {number}, "created_at": "2025-01-02", "repo": "a/b"}}' for number in numbers]
    path.write_text("\n".join(objects))
    import_github(warehouse, path)
    assert stored("acme", PULLS)["pull_request"].tolist() == ["a/b#7"]
    assert [reason[:40] for reason in stored("acme", tables.quarantine)["reason"]] == [
        "number is larger than 1e+15: '1e400'",
        "number is not a number: 'Infinity'",
        "number is not a number: '9999999999999999"[:40],
        "number is larger than 1e+15: '1234567890"[:40],
        "number is missing: 'NaN'",
        "number is not a whole number",
        "number is not a number: 'True'",
    ]


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
        ("a/b,1.5,t,b,2025-01-01,,,ann", "number is not a whole number"),
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
    assert unknown["reason"].tolist()[1] == "repository does not give a valid tenant id: 'a b/web'"
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
    with pytest.raises(ImportFailed, match="all 2 rows are invalid"):
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
        "repository does not give a valid tenant id: 'acme/api'",
        "repository does not give a valid tenant id: 'globex/web'",
    ]
