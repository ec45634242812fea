"""Files made to break an import, and files broken at random: each ends in time and memory, with rows or a clear error.

Run as a program, this file reads one folder of them under a limit of its memory and prints what became of each.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import resource
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ml_pipeline.importers import ImportFailed, flow, github, import_github, import_jira, jira
from ml_pipeline.importers.load import CopyRows
from ml_pipeline.importers.reading import read_chunks
from ml_pipeline.resources import tables

MEGABYTES = 300  # that reading may take on top of what the imports of Python take
SECONDS = 20  # that a file of a few megabytes may take on a busy machine; it takes one or two on an idle one
CASES = 200

GRIN = "\U0001f600".encode()
HEADER = "Issue key,Created,Summary\n"
CSV = (
    HEADER.replace("\n", ",Resolved,Story Points,Story Points\n")
    + 'A-1,2021-03-01 10:00,"two\nlines, ""quoted""",2021-03-02,3,\n'
    + "A-2,02/Mar/21 4:05 PM,caf\u00e9 \U0001f600,,,5\n"
) * 3
JSON = "".join(
    json.dumps(
        {
            "number": number,
            "repository": {"nameWithOwner": "acme/web"},
            "createdAt": "2025-01-02T03:04:05Z",
            "body": "caf\u00e9 \U0001f600\n",
            "user": {"login": "ann", "type": "User"},
            "reviews": {"nodes": [{"state": "APPROVED", "submittedAt": "2025-01-03T00:00:00Z"}], "totalCount": 1},
            "commits": [{"commit": {"committer": {"date": "2025-01-03T00:00:00Z"}}}],
        }
    )
    + "\n"
    for number in range(1, 7)
)
TOKENS = [
    *(b'"', b'""', b'","', b",", b"\n", b"\r", b"\r\n", b"\t", b";", b"\0", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf"),
    *(b"\\ud83d", b"\\u0000", b"{", b"}", b"[", b"]", b"[[[[", b'{"a":', b":", b"null", b"NaN", b"-", b"1e999", b"\\"),
    *(b"9999-12-31T23:59:59-12:00", b"0001-01-01", b"NULL", b"\\N", b"1_000", b"9" * 400, b"\x1f\x8b\x08", b" " * 70),
]


def unfinished(member: str) -> bytes:
    keys = ",".join(f'"k{number}":{number}' for number in range(600_000))
    return f'{{"number":1,"created_at":"2021-01-01",{keys}{member}'.encode()


def long_name(number: int) -> bytes:
    unlike = random.Random(number).randbytes(300).hex().encode()
    return b'{"a":1,"%s%s":1}\n' % (unlike, b"k" * 100_000)


# Made to take time: each is a few megabytes at most, and unpacked many.
MADE = {
    "quotes_that_close_on_the_next_line.csv": lambda: HEADER.encode() + b'x","z\n' * 830_000,
    "quotes_that_never_close.csv": lambda: HEADER.encode() + b'x,"z\n' * 1_000_000,
    "rows_of_one_character.csv": lambda: HEADER.encode() + b"x\n" * 2_500_000,
    "fields_without_end.csv": lambda: HEADER.encode() + b"," * 5_000_000,
    "columns_without_end.csv": lambda: b"Created," * 700_000 + b"\n",
    "one_column_over_and_over.csv": lambda: b"Created," * 9_999 + b"Issue key\n" + (b"," * 9_999 + b"k\n") * 300,
    "characters_of_four_bytes.csv": lambda: HEADER.encode() + (b"k,2021-01-01," + GRIN * 999_000 + b"\n") * 2,
    "zeros.csv": lambda: gzip.compress(b"\0" * 100_000_000, 1),
    "members.csv": lambda: gzip.compress(HEADER.encode() + b"k,2021-01-01,s\n", 1) + gzip.compress(b"") * 100_000,
    "a_name_without_end.csv": lambda: b"\x1f\x8b\x08\x08" + b"x" * 3_000_000,
    "keys_without_end.jsonl": lambda: gzip.compress(unfinished("}\n") * 3, 1),
    "one_line_of_keys.jsonl": lambda: gzip.compress(unfinished(',"a":1' * 9_000_000), 1),
    "nesting.jsonl": lambda: b'{"a":' * 190_000 + b"1" + b"}" * 190_000 + b"\n",
    "lists.jsonl": lambda: b'{"a":[' + b"[]," * 1_000_000 + b"[]]}\n",
    "a_number_without_end.jsonl": lambda: b'{"number":' + b"9" * 5_000_000 + b"}\n",
    "names_without_end.jsonl": lambda: gzip.compress(b"".join(map(long_name, range(2_700))), 1),
}


def broken(number: int) -> tuple[str, bytes]:
    """The file of that number: a good one with a few random changes, in one of six shapes."""
    choice = random.Random(number)
    name, text = choice.choice([("csv", CSV), ("csv", CSV.replace(",", ";")), ("jsonl", JSON)])
    content = bytearray(text.encode())
    for _ in range(choice.choice([1, 2, 5, 20, 200])):
        place = choice.randrange(len(content) + 1)
        length = choice.choice([0, 0, 1, 10])
        match choice.randrange(4):
            case 0:
                content[place : place + length] = choice.choice(TOKENS)
            case 1:
                content[place : place + length] = choice.randbytes(choice.choice([1, 3]))
            case 2:
                content[place:place] = content[choice.randrange(len(content) + 1) :][:100]
            case 3:
                del content[place : place + 3 * length]
    if choice.random() < 0.05:
        content = bytearray(choice.randbytes(2_000))
    if choice.random() < 0.3:
        content = bytearray(gzip.compress(bytes(content), 1))
        if choice.random() < 0.7:
            place = choice.randrange(len(content))
            content[place : place + choice.choice([1, 5, 1_000])] = choice.randbytes(choice.choice([0, 1, 5]))
    return f"{number}.{name}", bytes(content)


def read(path: Path) -> str:
    """What becomes of a file on its way up to the database: counts of rows, or the error."""
    if path.suffix == ".jsonl":
        columns = (replace(github.COLUMNS[0], required=False), *github.COLUMNS[1:])
        layout = flow.Layout(tables.pull_requests, "pull_request", columns, pulls, enrich=github.derive_keys)
    else:
        layout = flow.Layout(tables.issues, "issue_key", jira.COLUMNS, lambda typed, _: typed.assign(tenant_id="t"))
    loaded = rejected = 0
    try:
        for chunk in read_chunks(path, layout.columns, layout.enrich):
            parsed = flow.check(chunk, layout, ZoneInfo("America/Adak"), datetime.now(UTC))
            "".join(CopyRows.of(layout.table, parsed.rows).lines).encode()
            "".join(CopyRows.of(tables.quarantine, parsed.rejected.assign(file="f")).lines).encode()
            loaded += len(parsed.rows)
            rejected += len(parsed.rejected)
    except ImportFailed as error:
        return f"refused: {error}"
    return f"loaded {loaded}, set aside {rejected}"


def pulls(typed, problems):
    return github._pull_requests(typed, "t", problems).assign(tenant_id="t")


def main(folder: Path) -> None:
    warm_up = folder / "warm_up.jsonl"
    warm_up.write_text(JSON)
    read(warm_up)
    warm_up.unlink()
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEGABYTES * 1_000_000
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for path in sorted(folder.iterdir()):
        began = time.monotonic()
        became = read(path)
        print(json.dumps([path.name, time.monotonic() - began, became]), flush=True)


def in_a_process(folder: Path) -> dict[str, tuple[float, str]]:
    command = [sys.executable, __file__, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    became = {name: (seconds, said) for name, seconds, said in map(json.loads, done.stdout.splitlines())}
    assert done.returncode == 0, f"ended after {list(became)[-1:]}: {done.stderr[-3_000:]}"
    return became


needs_linux = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is limited as Linux counts it")


@needs_linux
def test_files_made_to_take_time_and_memory_take_little_of_either(tmp_path):
    for name, content in MADE.items():
        (tmp_path / name).write_bytes(content())
    became = in_a_process(tmp_path)
    assert became.keys() == MADE.keys()
    slow = {name: seconds for name, (seconds, _) in became.items() if seconds > SECONDS}
    assert not slow
    refused = {name.partition(".")[0] for name, (_, said) in became.items() if said.startswith("refused")}
    assert refused == {
        *("quotes_that_close_on_the_next_line", "quotes_that_never_close", "rows_of_one_character", "zeros"),
        *("columns_without_end", "one_column_over_and_over", "a_name_without_end"),
    }


@needs_linux
def test_files_broken_at_random_are_read_or_refused_with_a_reason(tmp_path):
    for number in range(CASES):
        name, content = broken(number)
        (tmp_path / name).write_bytes(content)
    became = in_a_process(tmp_path)
    assert len(became) == CASES
    assert max(seconds for seconds, _ in became.values()) < SECONDS
    outcomes = [said.partition(" ")[0] for _, said in became.values()]
    assert min(outcomes.count("loaded"), outcomes.count("refused:")) > CASES / 20  # both ways were taken


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30)
NOTHING = st.sampled_from(["", " ", "NULL", "NaN", "None", r"\N", "NaT", "n/a", "-"])
BAD_TIME = st.sampled_from(
    ["0000-01-01", "9999-12-31T23:59:59-12:00", "0001-01-01", "24:00", "2021-02-30", "2021-01-01T00:00+99:99", "1e9"]
)
BAD_NUMBER = st.sampled_from(["1e400", "Infinity", "0x10", "1_000", "\uff11", "-1", "9" * 400, "five"])
GOOD = {"key": "A", "created": "2021-03-01", "resolved": "2021-03-02", "points": "3", "summary": "s"}
SPOILT = st.one_of(
    st.fixed_dictionaries({"key": NOTHING}),
    st.fixed_dictionaries({"created": BAD_TIME | NOTHING}),
    st.fixed_dictionaries({"resolved": BAD_TIME}),
    st.fixed_dictionaries({"points": BAD_NUMBER}),
    st.fixed_dictionaries({"summary": TEXT.map(lambda text: text + "\0")}),
)
FINE = st.fixed_dictionaries({"summary": TEXT, "points": NOTHING | st.just("5.5"), "resolved": NOTHING})
ONE_DATABASE = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@ONE_DATABASE
@example([(False, {"summary": "\r0", "points": "5.5", "resolved": ""}, {"key": ""})], "UTC")
@given(st.lists(st.tuples(st.booleans(), FINE, SPOILT), max_size=30), st.sampled_from(["UTC", "America/Adak"]))
def test_of_any_mixture_the_good_rows_are_loaded_and_exactly_the_others_set_aside(warehouse, tmp_path, rows, zone):
    path = tmp_path / "acme.csv"
    text = io.StringIO(newline="")
    # All quoted: Python's writer leaves a carriage return bare, which makes the line no CSV and sets it aside.
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(["Issue key", "Created", "Resolved", "Story Points", "Summary"])
    bad = 0
    for number, (spoilt, fine, wrong) in enumerate([(False, {}, {}), *rows]):
        row = GOOD | {"key": f"A-{number}"} | fine | (wrong if spoilt else {})
        writer.writerow(row.values())
        bad += spoilt
    path.write_text(text.getvalue(), newline="")
    summary = import_jira(warehouse, path, timezone=zone, shift_to=datetime(2026, 1, 31, tzinfo=UTC))
    assert (summary.rows_loaded, summary.quarantined) == (1 + len(rows) - bad, bad)


KEYS = st.sampled_from(
    [
        *(
            "number",
            "repository",
            "nameWithOwner",
            "created_at",
            "createdAt",
            "closed_at",
            "user",
            "author",
            "login",
            "url",
        ),
        *(
            "reviews",
            "commits",
            "nodes",
            "edges",
            "node",
            "state",
            "submittedAt",
            "commit",
            "committer",
            "date",
            "totalCount",
        ),
        *("title", "type", "is_bot", "changes_requested"),
    ]
)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | BAD_TIME | BAD_NUMBER | NOTHING,
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(KEYS, parts, max_size=3),
    max_leaves=8,
)


@ONE_DATABASE
@given(st.lists(st.dictionaries(KEYS, ANY_JSON, max_size=8), max_size=10))
def test_of_any_json_each_object_is_loaded_or_set_aside(warehouse, tmp_path, objects):
    path = tmp_path / "acme.jsonl"
    good = {"number": 1_000_000, "created_at": "2021-03-01"}
    path.write_text("".join(json.dumps(item) + "\n" for item in [good, *objects]))
    summary = import_github(warehouse, path, tenant="acme")
    assert summary.rows_read == summary.rows_loaded + summary.duplicates + summary.quarantined == 1 + len(objects)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
