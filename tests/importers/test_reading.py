"""Reading files: what a line, a record and a chunk are, whatever the file looks like."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_pipeline.importers import ImportFailed
from ml_pipeline.importers.lines import FREE_TO_REREAD, REREAD_FACTOR, Lines
from ml_pipeline.importers.mapping import Column
from ml_pipeline.importers.reading import CHUNK_ROWS, MAX_CONTENT, Chunk, read_chunks

COLUMNS = (Column("key", "level", ("Issue key",), required=True), Column("text", "text", ("Summary",)))


def read(path: Path, content: str | bytes, **options) -> Chunk:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    (chunk,) = read_chunks(path, COLUMNS, **options)
    return chunk


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file.csv"


def test_a_record_starts_at_its_first_line_when_quoted_text_holds_newlines(file):
    chunk = read(file, 'key,text\nA,"one\ntwo\nthree"\nB,x\n')
    assert [record.line for record in chunk.records] == [2, 5]


def test_header_names_are_compared_without_case_blanks_and_underscores(file):
    chunk = read(file, "ISSUE_KEY,summary \nA,x\n")
    assert chunk.names == ["key", "text"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_delimiter_is_the_one_of_the_header(file, delimiter):
    chunk = read(file, f"key{delimiter}text\nA{delimiter}x\n")
    assert chunk.records[0].values == ("A", "x")


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_byte_order_mark_and_blank_lines_are_no_data(file, ending):
    chunk = read(file, "\ufeff" + ending.join(["key,text", "A,x", "", "B,y", ""]))
    assert [record.values for record in chunk.records] == [("A", "x"), ("B", "y")]


def test_a_missing_column_is_named_with_the_names_that_would_do(file):
    with pytest.raises(ImportFailed, match=r"no column for key \(accepted: Issue key, key\).*'text'"):
        read(file, "text\nx\n")


def test_an_empty_file_lacks_the_required_columns(file):
    with pytest.raises(ImportFailed, match="no column for key"):
        read(file, "")


def test_a_missing_file_is_named_with_the_remedy(tmp_path):
    with pytest.raises(ImportFailed, match=r"absent\.csv: cannot be opened.*Check the path"):
        list(read_chunks(tmp_path / "absent.csv", COLUMNS))


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ("B", "wrong number of fields"),
        ("B,x,y", "wrong number of fields"),
        ('B,"x"y', "broken quotes"),
        ("B,a\x00b", "NUL byte"),
        ("B," + "x" * 1_000_001, "a field is longer than 1,000,000 characters"),
    ],
)
def test_a_row_that_is_no_row_is_set_aside_and_its_neighbours_are_read(file, bad, problem):
    chunk = read(file, f"key,text\nA,x\n{bad}\nC,z\n")
    assert [record.values for record in chunk.records] == [("A", "x"), ("C", "z")]
    (rejected,) = chunk.rejected
    assert (rejected.line, rejected.problem) == (3, problem)
    assert rejected.content == f"{bad}\n"[:MAX_CONTENT]


def test_a_quote_that_is_never_closed_costs_one_row_not_the_rest_of_the_file(file):
    rest = [f"K{number},x" for number in range(50)]
    chunk = read(file, "\n".join(["key,text", 'A,"open', *rest]) + "\n")
    assert len(chunk.records) == 50
    assert [record.line for record in chunk.rejected] == [2]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.just("A,x\n"), st.just('B,"two\nlines"\n'), st.text("AB,\"\n\x00é'", max_size=12).map(lambda t: t + "\n")
        ),
        max_size=30,
    )
)
def test_whatever_stands_in_a_file_reading_ends_and_lines_never_go_back(tmp_path_factory, parts):
    chunk = read(tmp_path_factory.mktemp("any") / "file.csv", "key,text\n" + "".join(parts))
    good = [record.line for record in chunk.records]
    bad = [record.line for record in chunk.rejected]
    assert good == sorted(set(good))
    assert bad == sorted(set(bad))
    assert not set(good) & set(bad)


def hostile(size: int) -> str:
    line = 'x","z\n'
    return "key,text\n" + line * (size // len(line))


def lines_given(path: Path, monkeypatch) -> tuple[int, int]:
    """Lines that the file has, and how many the CSV reader was given."""
    given = 0
    take = Lines.take

    def counted(lines: Lines) -> str:
        nonlocal given
        given += 1
        return take(lines)

    with monkeypatch.context() as patch:
        patch.setattr(Lines, "take", counted)
        rows = sum(map(len, read_chunks(path, COLUMNS)))
    return rows, given


def test_the_work_over_records_that_never_end_grows_with_the_file_and_not_with_its_square(file, monkeypatch):
    work = {}
    for kilobytes in (12, 24, 48, 96, 290):
        file.write_text(hostile(kilobytes * 1_000))
        rows, given = lines_given(file, monkeypatch)
        assert rows == kilobytes * 1_000 // 6
        work[kilobytes] = given - (FREE_TO_REREAD + 10_000) // 6
    assert all(given < (REREAD_FACTOR + 2) * kilobytes * 1_000 / 6 for kilobytes, given in work.items())


def test_a_record_ends_where_it_has_too_many_lines_and_the_good_ones_it_swallowed_are_read(file, monkeypatch):
    monkeypatch.setattr("ml_pipeline.importers.lines.MAX_RECORD_LINES", 5)
    rest = [f'K{number},"x"' for number in range(20)]
    chunk = read(file, "\n".join(["key,text", 'A,"open', *rest]) + "\n")
    assert [record.values for record in chunk.records] == [(f"K{number}", "x") for number in range(20)]
    (rejected,) = chunk.rejected
    assert rejected.line == 2


@pytest.mark.parametrize("free", [0, 10_000])
def test_lines_that_are_not_read_again_are_read_each_by_itself(file, monkeypatch, free):
    monkeypatch.setattr("ml_pipeline.importers.lines.FREE_TO_REREAD", free)
    monkeypatch.setattr("ml_pipeline.importers.lines.REREAD_FACTOR", 0)
    chunk = read(file, 'key,text\nA,"open\nB,x\nC\nD,"y"\n\nE,"open\nF,"z"\n')
    assert [(record.line, record.values) for record in chunk.records] == [
        *((3, ("B", "x")), (5, ("D", "y")), (8, ("F", "z"))),
    ]
    assert sorted(record.line for record in chunk.rejected) == [2, 4, 7]


@pytest.mark.parametrize("start", ["A,", '{"key": "A", "text": "'])
def test_a_line_that_is_too_long_is_set_aside_with_its_beginning_and_its_neighbours_are_read(file, monkeypatch, start):
    monkeypatch.setattr("ml_pipeline.importers.lines.MAX_LINE", 5_000)
    first = "key,text\nB,x\n" if start == "A," else '{"key": "B"}\n'
    last = "C,z\n" if start == "A," else '{"key": "C"}\n'
    chunk = read(file, first + start + "\u00e9" * 3_000_000 + "\n" + last, enrich=None if start == "A," else dict)
    assert len(chunk.records) == 2
    (rejected,) = chunk.rejected
    assert rejected.problem.startswith("a line of more than ")
    assert rejected.content == (start + "\u00e9" * MAX_CONTENT)[:MAX_CONTENT]


def test_a_header_with_more_columns_than_an_export_has_is_refused(file):
    for columns in (10_001, 101):
        with pytest.raises(ImportFailed, match=r"the header has .* columns"):
            read(file, "key" + ",text" * columns + "\n")


@pytest.mark.parametrize("good", [0, 5])
def test_a_file_that_is_hardly_one_is_given_up_after_its_good_rows(file, monkeypatch, good):
    monkeypatch.setattr("ml_pipeline.importers.reading.GIVE_UP_AFTER", 50)
    file.write_text("key,text\n" + "K,x\n" * good + "B\n" * 1_000)
    chunks = []
    with pytest.raises(ImportFailed, match=r"line \d+: 50 records before it cannot be read, and .* can.*wrong number"):
        for chunk in read_chunks(file, COLUMNS):
            chunks.append(chunk)
    assert sum(len(chunk.records) for chunk in chunks) == good
    file.write_text("key,text\n" + "K,x\n" * 6 + "B\n" * 59)
    assert sum(map(len, read_chunks(file, COLUMNS))) == 65


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gzip.compress(b"\0" * 70_000_000, 1), "unpacks to more than 64,000,000 bytes, over 200 times its size"),
        (gzip.compress(gzip.compress(b"key,text\nA,x\n")), "is compressed twice"),
        (gzip.compress(b"key,text\nA,x\n") + b"garbage", "line 3: cannot be read: Not a gzipped file"),
        (gzip.compress(b"key,text\nA,x\n")[:-6], "line 3: the compressed file ends too early"),
        (b"\x1f\x8b\x08\x08" + b"x" * 50_000, "the compressed file ends too early"),
        (b"\x1f\x8b\x07" + bytes(20), "cannot be read: Unknown compression method"),
    ],
    ids=["a bomb", "twice", "garbage after it", "cut off", "random", "another method"],
)
def test_a_gzip_file_that_is_broken_or_a_bomb_is_refused_with_the_reason(file, content, said):
    file.write_bytes(content)
    with pytest.raises(ImportFailed, match=said):
        list(read_chunks(file, COLUMNS))


def test_a_gzip_file_of_several_members_is_one_file(file):
    chunk = read(file, gzip.compress(b"key,text\nA,") + gzip.compress(b"") * 50 + gzip.compress(b"x\n"))
    assert [record.values for record in chunk.records] == [("A", "x")]


def test_gzip_is_known_by_its_bytes_not_by_its_name(file):
    chunk = read(file, gzip.compress(b"key,text\nA,x\n"))
    assert chunk.records[0].values == ("A", "x")


def numbered(rows: int) -> bytes:
    return b"key,text\n" + b"".join(b"K%d,%032x\n" % (row, row * 2654435761 % 2**120) for row in range(rows))


def test_rows_before_the_end_of_a_truncated_gzip_come_before_the_error(file):
    compressed = gzip.compress(numbered(5_000))
    file.write_bytes(compressed[: len(compressed) // 2])
    rows = []
    with pytest.raises(ImportFailed, match=r"line \d+: the compressed file ends too early") as failure:
        for chunk in read_chunks(file, COLUMNS):
            rows += chunk.records
    assert f"line {len(rows) + 2}:" in str(failure.value)
    assert len(rows) > 1_000


def test_bytes_that_are_not_utf8_stop_at_their_line(file):
    file.write_bytes(b"key,text\nA,x\nB,caf\xe9\nC,z\n")
    rows = []
    with pytest.raises(ImportFailed, match=r"line 3: byte 0xe9 is not UTF-8"):
        for chunk in read_chunks(file, COLUMNS):
            rows += chunk.records
    assert [record.values for record in rows] == [("A", "x")]


def test_chunks_are_bounded_in_rows_and_in_characters(file):
    file.write_bytes(numbered(CHUNK_ROWS + 1))
    assert [len(chunk) for chunk in read_chunks(file, COLUMNS)] == [CHUNK_ROWS, 1]
    file.write_text("key,text\n" + "".join(f"K{row},{'x' * 900_000}\n" for row in range(7)))
    assert [len(chunk) for chunk in read_chunks(file, COLUMNS)] == [5, 2]


def json_lines(*objects: object) -> str:
    return "".join(f"{item if isinstance(item, str) else json.dumps(item)}\n" for item in objects)


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ("{", "not a JSON object"),
        ("7", "not a JSON object"),
        ({"key": "B", "other": [[]] * 200_000}, "a JSON object of more than 200,000 values"),
        ({"key": "B"} | {f"k{number}": 0 for number in range(200_000)}, "a JSON object of more than 200,000 values"),
        ('{"key":' * 5_000 + "1" + "}" * 5_000, "a JSON object that is nested too deeply"),
        ({"key": "B", "text": "x" * 1_000_001}, "a field is longer than 1,000,000 characters"),
        ({"key": "B\x00"}, "NUL byte"),
        ({"key": "B\ud83d"}, "half of a surrogate pair, which is not a character"),
    ],
)
def test_a_bad_json_line_is_set_aside_and_its_neighbours_are_read(file, bad, problem):
    chunk = read(file, json_lines({"key": "A"}, bad, "", {"key": "C"}), enrich=dict)
    assert [(record.line, record.values) for record in chunk.records] == [(1, {"key": "A"}), (4, {"key": "C"})]
    assert [(record.line, record.problem) for record in chunk.rejected] == [(2, problem)]


def test_a_json_array_is_refused_with_the_way_to_make_lines_of_it(file):
    with pytest.raises(ImportFailed, match=r"--jq '\.\[\]'"):
        read(file, '[{"key": "A"}]', enrich=dict)
