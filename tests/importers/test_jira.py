"""Jira exports into a real database: what is stored, what is set aside, and what a second import changes."""

import gzip
import os
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest
import sqlalchemy as sa

from ml_pipeline.importers import ImportFailed, import_jira
from ml_pipeline.importers.files import file_labels
from ml_pipeline.resources import postgres, tables

HEADER = "Issue key,Issue Type,Created,Resolved,Custom field (Story Points),Summary,Description"
GOOD = "A-1,Bug,2021-03-01 10:00,2021-03-03 10:00,3.0,Crash,Steps"
OUT_OF_RANGE = ["0000-01-01", "0001-01-01T00:00+12:00", "9999-12-31T23:59:59-12:00", "9999-12-31 23:59:59"]
BAD_TIMES = [
    *OUT_OF_RANGE,
    "NULL",
    "NaN",
    "None",
    r"\N",
    "NaT",
    "n/a",
    "-",
    "10000-01-01",
    "2021-01-01T24:00",
    "infinity",
]


@pytest.fixture
def export(tmp_path: Path):
    def write(*rows: str, header: str = HEADER, name: str = "acme.csv") -> Path:
        path = tmp_path / name
        text = "\n".join([header, *rows]) + "\n"
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return write


def test_jiras_own_columns_arrive_in_those_of_the_table(warehouse, stored, export):
    header = (
        "Summary,Issue key,Issue id,Issue Type,Reporter,Priority,Created,Resolved,Custom field (Team),"
        "Custom field (Story Points),Story point estimate,Description"
    )
    path = export('"Crash, at start",A-1,7,Bug,ann,High,02/Mar/21 4:05 PM,,core,,5,', header=header)
    import_jira(warehouse, path)
    row = stored("acme").iloc[0]
    named = ["issue_key", "issue_type", "reporter", "priority", "team", "story_points", "summary"]
    assert row[named].tolist() == ["A-1", "Bug", "ann", "High", "core", 5.0, "Crash, at start"]
    assert row["created_at"] == datetime(2021, 3, 2, 16, 5, tzinfo=UTC)
    assert row[["resolved_at", "description", "started_at"]].isna().all()


def test_text_arrives_as_it_was_written(warehouse, stored, export):
    text = "tab\there \\N \\. back\\slash\n\\.\r\nline 'q' é \U0001f600"
    import_jira(warehouse, export(f'A-1,Bug,2021-03-01,,1,s,"{text}"'))
    assert stored("acme")["description"].item() == text


def test_the_tenant_is_the_files_name_and_is_made_known(warehouse, export):
    summary = import_jira(warehouse, export(GOOD, name="globex.csv.gz"))
    assert summary.tenants == ("globex",)
    assert warehouse.tenants() == ["globex"]


@pytest.mark.parametrize("tenant", ["a|b", "a[b", "a]b", "a,b", "a/b", "a:b", "a b", "a\x07b", "", "__global__", ".."])
def test_an_id_that_cannot_be_a_partition_key_or_path_is_refused(warehouse, export, tenant):
    with pytest.raises(ImportFailed, match="--tenant"):
        import_jira(warehouse, export(GOOD), tenant)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (",Bug,2021-03-01,,3,s,d", "issue_key is missing"),
        ("A-2,Bug,,,3,s,d", "created_at is missing"),
        ("A-2,Bug,2021-13-01,,3,s,d", "created_at is not a time: '2021-13-01'"),
        ("A-2,Bug,2021-03-01,soon,3,s,d", "resolved_at is not a time: 'soon'"),
        ("A-2,Bug,2021-03-02,2021-03-01,3,s,d", "resolved_at is before created_at"),
        ("A-2,Bug,2021-03-01,,-3,s,d", "story_points is negative: '-3'"),
        ("A-2,Bug,2021-03-01,,XL,s,d", "story_points is not a number: 'XL'"),
        ("A-2,Bug,2021-03-01,,3,s,a\x00b", "NUL byte"),
        ("A-2,Bug,2021-03-01,,3,s", "wrong number of fields: '6, not 7'"),
        (f"{'K' * 501},Bug,2021-03-01,,3,s,d", "issue_key is longer than 500 characters"),
        (f"A-2,{'T' * 501},2021-03-01,,3,s,d", "issue_type is longer than 500 characters"),
    ],
)
def test_a_bad_row_is_set_aside_with_its_line_and_reason_and_the_others_are_loaded(
    warehouse, stored, export, bad, reason
):
    multiline = 'A-0,Bug,2021-03-01,,3,s,"two\nlines"'
    summary = import_jira(warehouse, export(multiline, bad, GOOD))
    assert stored("acme")["issue_key"].tolist() == ["A-0", "A-1"]
    row = stored("acme", tables.quarantine).iloc[0]
    assert row[["file", "line", "reason"]].tolist() == ["acme.csv", 4, reason]
    assert row["content"] == bad.replace("\x00", "\N{REPLACEMENT CHARACTER}") + "\n"
    assert (summary.rows_read, summary.rows_loaded, summary.quarantined) == (3, 2, 1)
    assert summary.reasons == {reason.partition(":")[0]: 1}


@pytest.mark.parametrize("shift_to", [None, pd.Timestamp("2026-01-31", tz="UTC")])
@pytest.mark.parametrize("timezone", ["UTC", "America/Adak"])
def test_no_cell_ends_an_import_whatever_the_zone_or_the_shift(warehouse, stored, export, timezone, shift_to):
    bad = [f"B-{number},Bug,{cell},,1,s,d" for number, cell in enumerate(BAD_TIMES)]
    bad += [f"C-{number},Bug,2021-01-01,{cell},1,s,d" for number, cell in enumerate(OUT_OF_RANGE)]
    bad += [f"{cell},Bug,2021-01-01,,1,s,d" for cell in ("NULL", "-")]
    summary = import_jira(
        warehouse, export(GOOD, *bad, GOOD.replace("A-1", "A-2")), timezone=timezone, shift_to=shift_to
    )
    assert stored("acme")["issue_key"].tolist() == ["A-1", "A-2"]
    aside = stored("acme", tables.quarantine)
    assert aside["line"].tolist() == list(range(3, 3 + len(bad)))
    assert all(repr(cell) in reason for cell, reason in zip(BAD_TIMES, aside["reason"], strict=False))
    assert summary.quarantined == len(bad)


def test_rows_that_postgresql_refuses_are_told_with_file_and_tenant(warehouse, export):
    with postgres.engine(warehouse.url).begin() as connection:
        connection.execute(sa.text("ALTER TABLE source.issues ADD CONSTRAINT no_bugs CHECK (issue_type <> 'Bug')"))
    with pytest.raises(ImportFailed, match=r"acme.csv, tenant acme: PostgreSQL rejects rows .* \"no_bugs\""):
        import_jira(warehouse, export(GOOD))


def test_a_custom_field_that_stands_twice_is_read_where_it_has_a_value(warehouse, stored, export):
    header = "Issue key,Created,Custom field (Story Points),Summary,Custom field (Story Points),Story point estimate"
    rows = ["A-1,2021-03-01,,s,5,", "A-2,2021-03-01,3,s,,8", "A-3,2021-03-01,,s,NULL,8", "A-4,2021-03-01,,s,,"]
    import_jira(warehouse, export(*rows, header=header))
    assert stored("acme")["story_points"].fillna(-1).tolist() == [5.0, 3.0, 8.0, -1.0]


@pytest.mark.parametrize("column", ["Summary", "Team", "Created", "Resolved", "Issue key"])
def test_every_column_is_read_where_it_stands_with_a_value(warehouse, stored, export, column):
    names = ["Issue key", "Created", "Summary", "Team", "Resolved"]
    values = {"Issue key": "A-1", "Created": "2021-03-01", "Summary": "s", "Team": "core", "Resolved": "2021-03-02"}
    import_jira(warehouse, export(",".join(["", *values.values()]), header=",".join([column, *names])))
    row = stored("acme").iloc[0]
    assert row[["issue_key", "summary", "team"]].tolist() == ["A-1", "s", "core"]
    assert row[["created_at", "resolved_at"]].notna().all()


def test_parts_of_one_tenant_with_one_file_name_keep_what_each_set_aside(warehouse, stored, export):
    folders = [export(GOOD, "A-9,Bug,never,,3,s,d", name=f"part{number}.csv") for number in (1, 2)]
    paths = []
    for number, path in enumerate(folders):
        paths.append(path.parent / f"cust{number}" / "Jira.csv")
        paths[-1].parent.mkdir()
        path.rename(paths[-1])
    for _ in range(2):
        for path, label in zip(paths, file_labels(paths), strict=True):
            import_jira(warehouse, path, "acme", label=label)
    assert stored("acme", tables.quarantine)["file"].tolist() == ["cust0/Jira.csv", "cust1/Jira.csv"]
    import_jira(warehouse, paths[0], "acme")
    assert stored("acme", tables.quarantine)["file"].tolist() == ["Jira.csv", "cust1/Jira.csv"]


def test_a_file_name_that_is_not_utf8_is_stored_with_its_bytes_escaped(warehouse, stored, export):
    path = export(GOOD, "A-2,Bug,never,,3,s,d")
    named = path.rename(path.parent / os.fsdecode(b"caf\xe9.csv"))
    assert import_jira(warehouse, named, "acme").file == r"caf\xe9.csv"
    assert stored("acme", tables.quarantine)["file"].tolist() == [r"caf\xe9.csv"]


def test_the_content_of_a_long_bad_row_is_cut(warehouse, stored, export):
    import_jira(warehouse, export(GOOD, f"A-2,Bug,never,,3,s,{'x' * 5_000}"))
    assert stored("acme", tables.quarantine)["content"].str.len().tolist() == [2_000]


def test_the_same_file_twice_leaves_the_same_rows(warehouse, stored, export):
    path = export(GOOD, "A-2,Bug,never,,3,s,d")
    first, rows = import_jira(warehouse, path), stored("acme")
    second = import_jira(warehouse, path)
    assert first == second
    pd.testing.assert_frame_equal(stored("acme"), rows)
    assert len(stored("acme", tables.quarantine)) == 1


def test_a_corrected_file_replaces_its_quarantined_rows_and_leaves_those_of_other_files(warehouse, stored, export):
    import_jira(warehouse, export(GOOD, "A-2,Bug,never,,3,s,d"))
    import_jira(warehouse, export("A-3,Bug,2021-03-01,,3,s,d", "A-4,Bug,never,,3,s,d", name="more.csv"), "acme")
    import_jira(warehouse, export(GOOD, "A-2,Bug,2021-03-01,,3,s,d"))
    assert stored("acme", tables.quarantine)["file"].tolist() == ["more.csv"]


def test_of_rows_with_the_same_key_the_last_wins_and_the_others_are_counted(warehouse, stored, export):
    older = "A-1,Bug,2021-03-01 10:00,,1,first,d"
    summary = import_jira(warehouse, export(older, GOOD, "A-2,Bug,2021-03-01,,1,s,d"))
    assert stored("acme")["summary"].tolist() == ["Crash", "s"]
    assert (summary.rows_read, summary.rows_loaded, summary.duplicates) == (3, 2, 1)


def test_duplicates_are_counted_across_chunks(warehouse, stored, export):
    rows = [f"A-{number % 20_500},Bug,2021-03-01,,{number // 20_500},s,d" for number in range(21_000)]
    summary = import_jira(warehouse, export(*rows))
    assert (summary.rows_loaded, summary.duplicates) == (20_500, 500)
    assert stored("acme")["story_points"].sum() == 500


def test_columns_that_a_later_file_lacks_keep_their_values(warehouse, stored, export):
    import_jira(warehouse, export(GOOD))
    import_jira(warehouse, export("A-1,2021-03-01 10:00,8", header="Key,Created,Story Points"))
    row = stored("acme").iloc[0]
    assert row[["summary", "story_points"]].tolist() == ["Crash", 8.0]


def test_two_tenants_with_the_same_keys_never_mix(warehouse, stored, export):
    import_jira(warehouse, export(GOOD), "acme")
    import_jira(warehouse, export(GOOD.replace("Crash", "Other")), "globex")
    assert stored("acme")["summary"].tolist() == ["Crash"]
    assert stored("globex")["summary"].tolist() == ["Other"]


@pytest.mark.parametrize("rows", [(), ("A-2,Bug,never,,3,s,d",)])
def test_a_file_without_a_usable_row_is_an_error_and_its_rows_are_set_aside(warehouse, stored, export, rows):
    with pytest.raises(ImportFailed, match=f"all {len(rows)} rows are invalid"):
        import_jira(warehouse, export(*rows))
    assert len(stored("acme", tables.quarantine)) == len(rows)


def test_what_was_read_before_a_file_breaks_off_stays(warehouse, stored, export):
    path = export(GOOD)
    path.write_bytes(path.read_bytes() + b"A-2,Bug,2021-03-01,,3,s,caf\xe9\n")
    with pytest.raises(ImportFailed, match="line 3"):
        import_jira(warehouse, path, shift_to=pd.Timestamp("2026-01-31", tz="UTC"))
    assert len(stored("acme")) == 1


def test_shifting_moves_every_time_by_the_same_whole_weeks_up_to_the_target(warehouse, stored, export):
    path = export(GOOD, "A-2,Bug,2020-01-01 00:00,,3,s,d")
    import_jira(warehouse, path)
    before = stored("acme")
    target = pd.Timestamp("2026-01-31T09:00Z")
    import_jira(warehouse, path, shift_to=target)
    after = stored("acme")
    moved = (after["created_at"] - before["created_at"]).unique()
    assert len(moved) == 1
    assert moved[0] % pd.Timedelta(weeks=1) == pd.Timedelta(0)
    assert after["resolved_at"].max() - before["resolved_at"].max() == moved[0]
    assert target - pd.Timedelta(weeks=1) < after["resolved_at"].max() <= target


def test_a_target_without_time_zone_is_refused(warehouse, export):
    with pytest.raises(ImportFailed, match="no time zone"):
        import_jira(warehouse, export(GOOD), shift_to=datetime(2026, 1, 31))


def test_an_unknown_timezone_is_refused(warehouse, export):
    for zone in ("Mars/Base", "Europe", "../UTC", ""):
        with pytest.raises(ImportFailed, match=f"{zone!r} is unknown"):
            import_jira(warehouse, export(GOOD), timezone=zone)


def test_progress_is_told_the_rows_done_so_far(warehouse, export):
    done: list[int] = []
    import_jira(warehouse, export(*[f"A-{n},Bug,2021-03-01,,1,s,d" for n in range(20_001)]), progress=done.append)
    assert done == [20_000, 20_001]


def test_a_real_project_is_loaded_whole_and_within_the_wall(warehouse, stored, shared_data):
    summary = import_jira(warehouse, shared_data / "jira" / "DNN.csv.gz")
    source = pd.read_csv(shared_data / "jira" / "DNN.csv.gz")
    backwards = (source["resolved_at"] < source["created_at"]).sum()
    rows = stored("DNN")
    assert summary.reasons == {"resolved_at is before created_at": backwards}
    kept = source[~(source["resolved_at"] < source["created_at"])].set_index("issue_key")
    rows = rows.set_index("issue_key").loc[kept.index]
    assert rows["story_points"].tolist() == kept["story_points"].tolist()
    assert (rows["created_at"] == pd.to_datetime(kept["created_at"], utc=True)).all()
    assert rows["summary"].isna().tolist() == kept["summary"].isna().tolist()
    assert stored("ALOY").empty
