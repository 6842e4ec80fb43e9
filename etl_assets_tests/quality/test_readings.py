"""How values are read: exactly, or not at all."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import polars as pl
import pytest

from etl_assets.quality.readings import as_read, date_by_form, day, distinct_as_read, exact, moment, number, whole
from etl_assets.quality.rules import Rule, obey

FORMS = {
    r"\d{4}-\d{2}-\d{2}": "%Y-%m-%d",
    r"\d{1,2}/\d{1,2}/\d{4}": "%d/%m/%Y",
    r"\d{1,2}-\d{1,2}-\d{4}": "%m-%d-%Y",
}


def test_what_is_read_as_the_same_is_merged() -> None:
    """However it is written; what cannot be read is the same if it is written the same."""
    written = ["1", "1.0", " 1 ", "x", "x", "y", None, "2"]
    raw = pl.DataFrame(
        {
            "day": ["2025-01-01"] * 8,
            "rate": written,
            "_unparsed": [None] * 8,
            "_partition": "all",
            "_source_row": range(8),
            "_row_hash": [hash(text) for text in written],
        },
        schema_overrides={"_unparsed": pl.String},
    )
    raw = pl.concat([raw, raw.tail(2).with_columns(_unparsed=pl.lit("a,b,c"), _source_row=pl.Series([8, 9]))])
    readings = {
        "day": ("day", date_by_form(pl.col("day"), FORMS)),
        "rate": ("rate", exact(pl.col("rate"), pl.Decimal(9, 2))),
    }
    rows, merged = distinct_as_read(as_read(raw, readings), readings)
    assert merged["_source_row"].to_list() == [1, 2, 4]
    assert rows["_source_row"].to_list() == [0, 3, 5, 6, 7, 8, 9]
    assert rows["_problems"].list.len().to_list() == [0, 1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("2022-03-04", date(2022, 3, 4)),
        ("03/04/2022", date(2022, 4, 3)),
        ("03-04-2022", date(2022, 3, 4)),
        (" 3/4/2022\n", date(2022, 4, 3)),
        ("13/13/2022", None),
        ("12/13/2022", None),  # a month of 13 is not made a day
        ("13-12-2022", None),
        ("2022-02-30", None),
        ("2022-3-4", None),
        ("3.4.2022", None),
        ("2022-03-04T00:00", None),
        ("", None),
        (None, None),
    ],
)
def test_a_date_is_read_by_its_form(text: str | None, day: date | None) -> None:
    frame = pl.DataFrame({"text": [text]}, schema={"text": pl.String})
    assert frame.select(date_by_form(pl.col("text"), FORMS)).item() == day


def test_a_year_that_there_is_not() -> None:
    texts = pl.DataFrame({"text": ["0000-05-05", "0001-01-01", "9999-12-31"]})
    read = texts.select(date_by_form(pl.col("text"), {r"\d{4}-\d{2}-\d{2}": "%Y-%m-%d"}))
    assert read["text"].to_list() == [None, date(1, 1, 1), date(9999, 12, 31)]


def test_decimals_without_a_fraction() -> None:
    texts = pl.DataFrame({"n": ["100", "7", "1.5", "100.0", "1."]})
    frame = texts.with_columns(n=exact(pl.col("n"), pl.Decimal(10, 0)))
    assert frame["n"].to_list() == [Decimal(100), Decimal(7), None, Decimal(100), None]
    told = obey(frame, [Rule("n", "is large", pl.col("n") > 50, "null", "It is.")])
    assert told["values_before"].to_list() == [["100"], [], [], ["100"], []]


def test_a_whole_number_may_be_written_with_a_fraction_of_nothing() -> None:
    """As pandas writes them beside gaps."""
    texts = pl.DataFrame({"text": ["56.0", "-7.000", "56.5", "56.", ".0"]})
    assert texts.select(whole(pl.col("text")))["text"].to_list() == [56, -7, None, None, None]


def test_numbers_are_read_exactly_or_not_at_all() -> None:
    texts = pl.DataFrame(
        {"text": ["1.10000", " 7 ", "-0.5", "1.234,50", "1,5", "1e3", "1.005", "99999999999", "", None, "٣"]}
    )
    money = texts.select(exact(pl.col("text"), pl.Decimal(12, 2))).to_series().to_list()
    assert money == [Decimal("1.10"), Decimal(7), Decimal("-0.50"), *[None] * 8]
    assert texts.select(whole(pl.col("text"))).to_series().to_list() == [
        None,
        7,
        *[None] * 5,
        99999999999,
        None,
        None,
        None,
    ]


def test_numbers_are_finite() -> None:
    texts = pl.DataFrame({"text": [" 79.5 ", "-1e3", "nan", "inf", "1,5", "", None]})
    assert texts.select(number(pl.col("text")))["text"].to_list() == [79.5, -1000.0, *[None] * 5]
    assert texts.head(1).select(whole(pl.lit("3000000000"), pl.Int32)).item() is None


def test_a_small_number_may_have_an_exponent() -> None:
    texts = pl.DataFrame({"text": ["6.1e-05", "-1E-7", "1.25e-6", "1.2e-8", "1.e-5", "12e-5", "1E+05", "1e-999"]})
    rates = texts.select(exact(pl.col("text"), pl.Decimal(18, 8)))["text"].to_list()
    assert rates == [Decimal("0.000061"), Decimal("-0.0000001"), Decimal("0.00000125"), *[None] * 5]


def test_a_moment_may_have_any_offset_or_none() -> None:
    ten = "2024-01-15T10:00:00"
    texts = pl.DataFrame({"text": [f"{ten}Z", f" {ten}-05:00 ", f"{ten}.5+01:00", ten, "2024-01-15", "soon", "", None]})
    read = texts.select(moment(pl.col("text")))["text"].dt.to_string("%d %H:%M:%S%.f").to_list()
    assert read == ["15 10:00:00", "15 15:00:00", "15 09:00:00.500", "15 10:00:00", *[None] * 4]


def test_a_day_has_a_year_of_four_digits() -> None:
    texts = pl.DataFrame(
        {"text": ["2024-11-05", " 2024-1-5 ", "24-11-05", "+024-11-05", "0000-01-01", "2024-02-30", ""]}
    )
    assert texts.select(day(pl.col("text")))["text"].to_list() == [date(2024, 11, 5), date(2024, 1, 5), *[None] * 5]


def test_a_moment_that_an_offset_takes_out_of_the_calendar_is_none() -> None:
    """Such as the first moment of .NET, as a clock east of Greenwich writes it: Python knows no year 0."""
    texts = pl.DataFrame({"text": ["0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-05:00", "0001-01-01T00:00:00Z"]})
    assert texts.select(moment(pl.col("text")))["text"].is_null().to_list() == [True, True, False]


def test_a_column_that_the_source_lacks_is_no_problem() -> None:
    """Nor is a marker for a missing value; what is written in another form is."""
    raw = pl.DataFrame({"Rate": ["1", "n/a", "many"], "Name": ["a", "b", "c"], "_source_row": [1, 2, 3]})
    readings = {"rate": ("Rate", whole(pl.col("Rate"))), "age": ("Age", pl.lit(None, pl.Int64))}
    rows = as_read(raw, readings, nothing=["n/a"], name="Name")
    assert rows.select("rate", "age", "name", "_source_row").rows() == [
        (1, None, "a", 1),
        (None, None, "b", 2),
        (None, None, "c", 3),
    ]
    assert [[p["value"] for p in problems] for problems in rows["_problems"].to_list()] == [[], [], ["many"]]
