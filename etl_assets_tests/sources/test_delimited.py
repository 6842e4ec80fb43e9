"""Reading delimited text: every record as text, whatever is wrong with it, or a refusal that says what is wrong."""

from __future__ import annotations

import gzip
from pathlib import Path

import polars as pl
import pytest

from etl_assets.sources import SourceRefusedError
from etl_assets.sources.delimited import read_csv
from etl_assets.sources.records import UNPARSED

HEADER = "date,locality,state,title\n"
GOOD = "2025-01-02,B,CA,y\n"
LARGE = "x" * 10_000_000


def csv(folder: Path, content: str | bytes) -> Path:
    """A file with this content."""
    path = folder / "events.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def values(frame: pl.DataFrame) -> list[tuple[object, ...]]:
    """The source's own fields of every record."""
    return frame.select(pl.exclude("^_.*$")).rows()


@pytest.mark.parametrize(
    ("content", "fields"),
    [
        pytest.param(HEADER + GOOD, ("2025-01-02", "B", "CA", "y"), id="plain"),
        pytest.param((HEADER + GOOD).replace("\n", "\r\n"), ("2025-01-02", "B", "CA", "y"), id="crlf"),
        pytest.param(b"\xef\xbb\xbf" + (HEADER + GOOD).encode(), ("2025-01-02", "B", "CA", "y"), id="bom"),
        pytest.param((HEADER + GOOD).replace(",", "\t"), ("2025-01-02", "B", "CA", "y"), id="tabs"),
        pytest.param((HEADER + GOOD).replace(",", ";"), ("2025-01-02", "B", "CA", "y"), id="semicolons"),
        pytest.param(HEADER + GOOD.rstrip(), ("2025-01-02", "B", "CA", "y"), id="no last line end"),
        pytest.param(HEADER + "2025-01-02,,CA,\n", ("2025-01-02", None, "CA", None), id="empty fields"),
        pytest.param(HEADER + '2025-01-02,"",CA,NA\n', ("2025-01-02", None, "CA", "NA"), id="NA stays as it is"),
        pytest.param(
            HEADER.encode() + b"2025-01-02,Ca\xf1on,CA,Ni\xf1o\xe2\x80\x99s\n",
            ("2025-01-02", "Cañon", "CA", "Niño\u2019s"),
            id="latin-1 beside utf-8",
        ),
        pytest.param(HEADER + "2025-01-02,B\rC,CA,y\r\n", ("2025-01-02", "B\rC", "CA", "y"), id="lone cr"),
        pytest.param(
            HEADER + "2025-01-02,\r\ue00d,CA,\ue00d1\n",
            ("2025-01-02", "\r\ue00d", "CA", "\ue00d1"),
            id="lone cr and what stands for it",
        ),
        pytest.param(HEADER + '2025-01-02,B,CA,"y\rz"\n', ("2025-01-02", "B", "CA", "y\rz"), id="lone cr, quoted"),
        pytest.param(
            HEADER + '2025-01-02,B,CA,"y\r\nz, ""q"""\n',
            ("2025-01-02", "B", "CA", 'y\r\nz, "q"'),
            id="line end, quoted",
        ),
        pytest.param(HEADER + '2025-01-02,B,CA,12" y\n', ("2025-01-02", "B", "CA", '12" y'), id="quote within a field"),
        pytest.param(HEADER + "2025-01-02,B\0C,CA,y\n", ("2025-01-02", "B\u2400C", "CA", "y"), id="nul"),
        pytest.param(HEADER + f"2025-01-02,B,CA,{LARGE}\n", ("2025-01-02", "B", "CA", LARGE), id="10 MB in a field"),
        pytest.param(
            HEADER + f'2025-01-02,B,CA,"{LARGE}\n{LARGE}"\n',
            ("2025-01-02", "B", "CA", f"{LARGE}\n{LARGE}"),
            id="20 MB in a field of two lines",
        ),
        pytest.param(
            HEADER + "2025-01-02,=1+1,CA,'; DROP TABLE x; -- \x1b[31m 🌎\n",
            ("2025-01-02", "=1+1", "CA", "'; DROP TABLE x; -- \x1b[31m 🌎"),
            id="formula, sql, terminal escape, emoji",
        ),
    ],
)
def test_a_record_is_read_as_it_is(tmp_path: Path, content: str | bytes, fields: tuple[str | None, ...]) -> None:
    frame = read_csv(csv(tmp_path, content), required=["date", "locality", "state"])
    assert values(frame) == [fields]
    assert frame["_source_row"].to_list() == [1]
    assert frame[UNPARSED].to_list() == [None]
    assert set(frame.drop("_source_row").schema.values()) == {pl.String}


def test_a_record_with_another_number_of_fields_is_kept_whole(tmp_path: Path) -> None:
    """Beside the others, with its number in the file; lines without anything are no records."""
    odd = ["2025-01-03,C,CA", "2025-01-04" + ",x" * 499, '2025-01-05,D,CA,"two\nlines",more']
    content = HEADER + GOOD + odd[0] + "\n\n" + GOOD + odd[1] + "\n" + odd[2] + "\n" + GOOD
    frame = read_csv(csv(tmp_path, content))
    assert frame["_source_row"].to_list() == [1, 2, 3, 4, 5, 6]
    assert frame[UNPARSED].to_list() == [None, odd[0], None, odd[1], odd[2], None]
    assert frame["date"].is_null().to_list() == [False, True, False, True, True, False]


@pytest.mark.parametrize("long", ["short", LARGE])
def test_records_are_numbered_through_a_file_that_is_parsed_in_pieces(tmp_path: Path, long: str) -> None:
    """Odd ones, bytes that are no UTF-8 and line ends within a field too, wherever a piece ends."""
    many = GOOD * 100_000
    odd, latin, broken = "2025-01-03,C,CA\n", b"2025-01-04,Ca\xf1on,CA,y\n", f'2025-01-05,E,CA,"y\r\n{long}"\n'
    frame = read_csv(csv(tmp_path, (HEADER + many + odd + many).encode() + latin + (many + broken).encode()))
    assert frame["_source_row"].to_list() == list(range(1, 300_004))
    assert frame.filter(pl.col(UNPARSED).is_not_null()).select("_source_row", UNPARSED).rows() == [(100_001, odd[:-1])]
    assert frame.filter(pl.col("locality") == "Cañon")["_source_row"].to_list() == [200_002]
    assert frame.row(-1)[:4] == ("2025-01-05", "E", "CA", f"y\r\n{long}")
    assert frame["title"].drop_nulls().eq("y").sum() == 300_001


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        pytest.param(",date,,x", ["column_1", "date", "column_3", "x"], id="no name"),
        pytest.param("_id,_source_row,_unparsed,x", ["source_id", "source_source_row", "source_unparsed", "x"], id="_"),
        pytest.param('a,"b, c","d\ne",f', ["a", "b, c", "d\ne", "f"], id="quoted"),
    ],
)
def test_columns_keep_their_names(tmp_path: Path, header: str, columns: list[str]) -> None:
    """But for those that would be none, or one of our own."""
    frame = read_csv(csv(tmp_path, header + "\n1,2,3,4\n"))
    assert frame.columns == [*columns, "_source_row", UNPARSED]
    assert values(frame) == [("1", "2", "3", "4")]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        pytest.param("", "has no header", id="empty"),
        pytest.param("\n\n", "has no header", id="line ends only"),
        pytest.param(
            "date,state\n2025-01-01,CA\n", r"missing: \['locality'\]. It has: \['date', 'state'\]", id="missing"
        ),
        pytest.param(
            "date,locality,state,date\n1,2,3,4\n", r"columns \['date'\] occur more than once", id="column twice"
        ),
        pytest.param("<!doctype html>\n<html></html>\n", r"missing: .*It has: \['<!doctype html>'\]", id="html"),
        pytest.param(HEADER.encode("utf-16"), "is text in UTF-16, but must be", id="utf-16"),
        pytest.param(gzip.compress(HEADER.encode()), "is packed .gzip., but must be", id="gzip"),
        pytest.param(b"PK\x03\x04" + b"x" * 99, "is a spreadsheet, or packed .zip.", id="spreadsheet"),
        pytest.param(bytes(range(256)) * 9, "required columns are missing", id="binary"),
        pytest.param(HEADER.replace("\n", "\r") + "1,2,3,4\r", "bare carriage return", id="classic mac"),
        pytest.param(f"date,locality,state,{LARGE}\n", "header cannot be read", id="10 MB in the header"),
        pytest.param(
            HEADER + GOOD + '2025-01-03,"C,CA,z\n' + GOOD * 3 + '2025-01-04,D,CA,"q, z"\n',
            r"record 2 opens a quote that is never closed: '2025-01-03.* swallows 4 lines",
            id="open quote, closed by another",
        ),
        pytest.param(
            HEADER + '2025-01-03,C,CA,"z\n' + GOOD + '2025-01-04,D,CA,"q"\n' + GOOD,
            "record 1 opens a quote that is never closed",
            id="open quote, the number of fields is right",
        ),
        pytest.param(
            HEADER + GOOD + '2025-01-03,C,CA,"z\n' + GOOD * 9, "record 2 opens a quote", id="open quote to the end"
        ),
    ],
)
def test_a_file_that_is_wrong_as_a_whole_is_refused(tmp_path: Path, content: str | bytes, why: str) -> None:
    path = csv(tmp_path, content)
    with pytest.raises(SourceRefusedError, match=f"(?s)events.csv.*{why}.*last good .* stays") as refused:
        read_csv(path, required=["date", "locality", "state"])
    assert len(str(refused.value)) < 2000
    assert "mended" not in str(refused.value)


def test_multi_line_texts_with_many_commas_are_not_taken_for_open_quotes(tmp_path: Path) -> None:
    """Even beside an odd number of quotes, such as inches in a text."""
    text = "a, b, c, d, e\nf"
    frame = read_csv(csv(tmp_path, HEADER + f'2025-01-02,B,CA,"{text}"\n'))
    assert values(frame) == [("2025-01-02", "B", "CA", text)]


def test_a_column_may_be_called_as_a_parquet_file_begins(tmp_path: Path) -> None:
    assert values(read_csv(csv(tmp_path, "PAR1,b\n1,2\n"))) == [("1", "2")]
    pl.DataFrame({"a": ["1"]}).write_parquet(path := tmp_path / "events.csv")
    with pytest.raises(SourceRefusedError, match="is a Parquet file"):
        read_csv(path)


def test_a_sign_that_stands_for_something_here_is_one_like_others_in_a_header(tmp_path: Path) -> None:
    (path := tmp_path / "a.csv").write_text("date,\ue00d1\n2025-01-02,1\n")
    assert read_csv(path).columns[:2] == ["date", "\ue00d1"]


def test_a_header_alone_is_no_error_of_reading(tmp_path: Path) -> None:
    """Whether a dataset may be empty is not the reader's to say."""
    for content in (HEADER, HEADER.rstrip(), HEADER.replace("\n", "\r\n")):
        assert read_csv(csv(tmp_path, content)).shape == (0, 6)


@pytest.mark.shared
@pytest.mark.parametrize(("date", "rows", "columns"), [("2025-03-05", 2669, 71), ("2025-04-04", 5169, 74)])
def test_real_publications(shared_data: Path, tmp_path: Path, date: str, rows: int, columns: int) -> None:
    content = gzip.decompress((shared_data / "protest_events" / date / "ccc.csv.gz").read_bytes())
    frame = read_csv(csv(tmp_path, content))
    assert frame.height == rows
    assert frame.width == columns + 2
    assert frame[UNPARSED].count() == 0


def test_names_that_postgresql_would_not_keep(tmp_path: Path) -> None:
    """Its own are told apart from the source's, and two long ones that begin alike stay two."""
    one, other = "n" * 64 + "1", "n" * 64 + "2"
    names = read_csv(csv(tmp_path, f"ctid,{one},{other},\nx,1,2,3\n")).columns[:4]
    assert names[0] == "source_ctid"
    assert names[3] == "column_4"
    assert names[1] != names[2]
    assert all(name.startswith("n" * 54 + "_") and len(name) == 63 for name in names[1:3])
