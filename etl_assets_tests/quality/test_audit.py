"""Rows that keep a contract, rows that do not, and frames that are wrong as a whole; bounds, quarantine and drift."""

from __future__ import annotations

import datetime as dt
import json
import re

import pandera.polars as pa
import polars as pl
import pytest
import shapely

from etl_assets.quality.audit import Audit, Bound, audit, unreadable
from etl_assets.quality.contract import Contract, column, geometry
from etl_assets.quality.drift import column_drift, volume_drift
from etl_assets.quality.quarantine import quarantine_table, quarantined
from etl_assets.storage.table import WHOLE, Facts

POINT = shapely.to_wkb(shapely.Point(1, 2))
HOURGLASS = shapely.to_wkb(shapely.from_wkt("POLYGON ((0 0, 1 1, 1 0, 0 1, 0 0))"))


class Places(Contract, stage="refined", table="places", key=["id"]):
    """Places."""

    id: pl.Int64 = column("Number")
    name: pl.String = column("Name", str_length={"max_value": 10})
    low: pl.Float64 = column("Least", nullable=True, ge=0, le=100)
    high: pl.Float64 = column("Most", nullable=True, ge=0)
    at: pl.Binary = geometry("Point", 4326, "Where", nullable=True)

    @pa.dataframe_check(name="low_is_not_above_high")
    def _order(cls, data: pa.PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select((pl.col("low") <= pl.col("high")).fill_null(True))

    @pa.dataframe_check(name="is_lucky")
    def _luck(cls, data: pa.PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select((pl.col("low") != 13).fill_null(True))


GOOD: dict[str, object] = {"id": 1, "name": "A", "low": 1.0, "high": 2.0, "at": POINT}


def frame(*rows: dict[str, object], **more: list[object] | pl.Series) -> pl.DataFrame:
    """Rows like the good one but for what is given, after two good ones."""
    data = [GOOD | {"id": 1}, GOOD | {"id": 2}, *(GOOD | {"id": n} | row for n, row in enumerate(rows, 3))]
    schema = {"id": pl.Int64, "name": pl.String, "low": pl.Float64, "high": pl.Float64, "at": pl.Binary}
    places = pl.DataFrame(data, schema=schema, orient="row")
    numbers = pl.int_range(10, 10 + places.height, dtype=pl.Int64, eager=True)
    return places.with_columns(numbers.alias("_source_row"), pl.lit("f").alias("_source_sha256"), **more)


def failures(found: Audit) -> set[tuple[int, str, str, str | None]]:
    """Record, check, column and value of every failure."""
    return {
        (f["record"], f["check"].split("(")[0], f["column"], f["value"]) for f in found.failures.iter_rows(named=True)
    }


@pytest.mark.parametrize(
    ("row", "check", "column", "value"),
    [
        pytest.param({"name": None}, "not_nullable", "name", None, id="null"),
        pytest.param({"name": "x" * 5000}, "str_length", "name", "x" * 200, id="long text, cut"),
        pytest.param({"low": -1.0}, "greater_than_or_equal_to", "low", "-1.0", id="too small"),
        pytest.param({"low": 3.0}, "low_is_not_above_high", "", "low=3.0, high=2.0", id="a check of the row"),
        pytest.param({"low": 13.0, "high": 20.0}, "is_lucky", "", None, id="one that names no column"),
        pytest.param({"at": b"no"}, "is_wkb", "at", "6e6f", id="no geometry"),
        pytest.param({"at": HOURGLASS}, "is_point", "at", HOURGLASS.hex()[:80], id="another geometry"),
        pytest.param(
            {"at": shapely.to_wkb(shapely.Point())}, "is_not_empty", "at", shapely.Point().wkb_hex.lower(), id="empty"
        ),
    ],
)
def test_a_bad_row_is_parted_from_the_good(row: dict[str, object], check: str, column: str, value: str | None) -> None:
    found = audit(frame({}, row, {}), Places)
    assert found.errors == ()
    assert found.good["id"].to_list() == [1, 2, 3, 5]
    assert found.rejected["id"].to_list() == [4]
    [(record, name, of, seen)] = failures(found)
    assert (record, name, of) == (13, check, column)
    assert value is None or seen == value


def test_a_geometry_that_must_be_there_and_valid() -> None:
    class Areas(Contract, stage="refined", table="areas", key=["id"]):
        """Areas."""

        id: pl.Int64 = column("Number")
        shape: pl.Binary = geometry("Polygon", 4326, "Where")

    areas = pl.DataFrame({"id": [1, 2, 3], "shape": [shapely.to_wkb(shapely.box(0, 0, 1, 1)), None, HOURGLASS]})
    found = audit(areas, Areas)
    assert found.good["id"].to_list() == [1]
    assert found.failures.select("row", "check").rows() == [(1, "not_nullable"), (2, "is_valid_geometry")]


def test_what_must_be_there_is_missing_with_and_without_checks() -> None:
    class Measures(Contract, stage="refined", table="measures", key=["id"]):
        """Measures."""

        id: pl.Int64 = column("Number")
        plain: pl.Float64 = column("Without checks")
        checked: pl.Float64 = column("With a check", ge=0)
        tags: pl.List(pl.String) = column("Words")  # pyrefly: ignore[invalid-annotation]

    nan = float("nan")
    rows = [(1, 1.0, 1.0, []), (2, None, 1.0, ["a"]), (3, nan, 1.0, []), (4, 1.0, None, []), (5, 1.0, 1.0, None)]
    measures = pl.DataFrame(rows, schema=["id", "plain", "checked", "tags"], orient="row")
    found = audit(measures, Measures)
    assert found.good["id"].to_list() == [1]
    assert found.failures.select("row", "check", "column", "value").rows() == [
        (1, "not_nullable", "plain", None),
        (2, "finite", "plain", "NaN"),
        (3, "not_nullable", "checked", None),
        (4, "not_nullable", "tags", None),
    ]


def test_what_is_no_number_is_no_measurement() -> None:
    """Of NaN, `ge=0` says that it is so; and a bound keeps infinity out only where there is one."""

    class Measures(Contract, stage="refined", table="measures", key=["id"]):
        """Measures."""

        id: pl.Int64 = column("Number")
        plain: pl.Float64 = column("Without checks", nullable=True)
        checked: pl.Float64 = column("With a check", nullable=True, ge=0)
        bounded: pl.Float64 = column("With a check that sees it too", nullable=True, le=9)

    nan, infinite = float("nan"), float("inf")
    rows = [(1, None, None, 9.0), (2, nan, 1.0, 0.0), (3, -infinite, 1.0, 0.0), (4, 1.0, nan, 0.0)]
    rows += [(5, 1.0, infinite, 0.0), (6, 1.0, 1.0, nan), (7, 1.0, 1.0, infinite)]
    found = audit(pl.DataFrame(rows, schema=["id", "plain", "checked", "bounded"], orient="row"), Measures)
    assert found.good["id"].to_list() == [1]
    assert found.failures.select("row", "check", "column", "value").rows() == [
        (1, "finite", "plain", "NaN"),
        (2, "finite", "plain", "-inf"),
        (3, "finite", "checked", "NaN"),
        (4, "finite", "checked", "inf"),
        (5, "finite", "bounded", "NaN"),
        (5, "less_than_or_equal_to(9)", "bounded", "NaN"),
        (6, "finite", "bounded", "inf"),
        (6, "less_than_or_equal_to(9)", "bounded", "inf"),
    ]


def test_a_row_that_fails_several_checks_is_one_record() -> None:
    found = audit(frame({"name": None, "low": -5.0, "high": -7.0}), Places)
    assert found.rejected.height == 1
    assert {(check, of) for _, check, of, _ in failures(found)} == {
        ("not_nullable", "name"),
        ("greater_than_or_equal_to", "low"),
        ("greater_than_or_equal_to", "high"),
        ("low_is_not_above_high", ""),
    }


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (frame().drop("name"), r"columns: missing \['name'\], not in the contract none"),
        (frame().with_columns(more=1), r"columns: missing none, not in the contract \['more'\]"),
        (frame().with_columns(pl.col("id").cast(pl.String)), "column id: the type is String, the contract says Int64"),
        (frame({"id": 2}).drop("_source_row"), r"the key \(id\) is not unique: 2 rows, such as one of 2 with id=2"),
    ],
)
def test_a_frame_that_is_wrong_as_a_whole(wrong: pl.DataFrame, why: str) -> None:
    [error] = audit(wrong, Places).errors
    assert re.search(why, error), error


def test_records_that_contradict_each_other_are_kept_out_all_of_them() -> None:
    """Which of them is right cannot be told; the others are not at fault."""
    found = audit(frame({"id": 2, "name": "Another"}), Places)
    assert found.errors == ()
    assert found.rejected["id"].to_list() == [2, 2]
    assert 2 not in found.good["id"]
    assert {failure[1:] for failure in failures(found)} == {("unique_key", "", "one of 2 with id=2")}


def test_pieces_of_which_the_first_has_nothing_to_tell() -> None:
    """A frame may have come in pieces; what is wrong may be in the later ones alone."""
    pieces = pl.concat([frame(), frame({"id": 4}, {"id": 4}).tail(2)], rechunk=False)
    found = audit(pieces, Places)
    assert {failure[1:] for failure in failures(found)} == {("unique_key", "", "one of 2 with id=4")}
    assert len(quarantined(found, pieces.drop("at"), pl.Series([WHOLE] * 2))) == 2


def test_a_bad_row_does_not_make_the_key_ambiguous() -> None:
    """The key has to be unique among what is published."""
    assert audit(frame({"id": 2, "name": None}), Places).errors == ()


class Names(Contract, stage="refined", table="names", key=["name", "of"]):
    """Names."""

    name: pl.String = column("Name")
    of: pl.String = column("Whose")


def test_a_key_that_no_index_takes() -> None:
    """It is told by its length, of all columns together; the table would be refused by its row."""
    texts = pl.DataFrame({"name": ["a", "b" * 1_500, "ü" * 900], "of": ["c", "d" * 500, "e" * 201]})
    found = audit(texts, Names)
    assert found.good["name"].str.len_chars().to_list() == [1, 1_500]
    assert found.failures.select("row", "check", "column", "value").rows() == [
        (2, "key_length", "name, of", "2001 bytes, more than 2000")
    ]


def test_an_empty_frame_keeps_the_contract() -> None:
    found = audit(Places.empty(), Places)
    assert found.errors == ()
    assert found.good.height == found.rejected.height == 0


def test_what_is_there_but_cannot_be_read() -> None:
    """A number that is none is not a missing one."""
    source = pl.DataFrame({"size": ["12", "a dozen", None]})
    readings = {"low": ("size", pl.col("size").cast(pl.Float64, strict=False))}
    problems = source.select(unreadable(readings)).to_series().to_list()
    assert problems == [[], [{"check": "readable", "column": "low", "value": "a dozen"}], []]
    assert source.select("size", unreadable({}))["_problems"].to_list() == [[], [], []]
    found = audit(frame(_problems=pl.Series([[], problems[1]])), Places)
    assert found.good["id"].to_list() == [1]
    assert failures(found) == {(11, "readable", "low", "a dozen")}


def test_failures_as_tables_for_a_person() -> None:
    """At most five of each check, each with the number of its record; counts are of all."""
    nameless: list[dict[str, object]] = [{"name": None}] * 30
    found = audit(frame(*nameless, {"low": -1.0}), Places)
    shown = [record.data for record in found.examples().records]
    assert [row["record"] for row in shown] == [12, 13, 14, 15, 16, 42]
    counts = {row.data["column"]: row.data["rows"] for row in found.counts().records}
    assert counts == {"name": 30, "low": 1}
    last = found.of_rows(found.rejected["id"] == 33)
    assert failures(last) == {(42, "greater_than_or_equal_to", "low", "-1.0")}


@pytest.mark.parametrize(
    ("rejected", "rows", "exceeded"),
    [(20, 20, False), (21, 21, True), (21, 419, True), (21, 420, False), (21, 10_000, False), (0, 0, False)],
)
def test_the_bound_is_exceeded_when_share_and_count_are(rejected: int, rows: int, exceeded: bool) -> None:
    assert Bound().exceeded(rejected, rows) is exceeded


def test_quarantine_says_what_where_and_why() -> None:
    """Equal records are told apart; what is not known of a failure is an empty text; the record stays as it was."""
    raw = pl.DataFrame(
        {
            "id": ["a", "b", "b"],
            "_source_sha256": "f",
            "_source_row": pl.Series([12, 13, 14], dtype=pl.Int64),
            "_unparsed": None,
        }
    )
    found = audit(frame({}, {"name": None, "low": -1.0}, {"name": None}), Places)
    kept = quarantined(found, raw, pl.Series(["p", "p"]))
    assert kept.columns == [c.name for c in quarantine_table("places").columns]
    assert kept["_source_row"].to_list() == [13, 14]
    assert kept["checks"].to_list()[1] == ["not_nullable"]
    assert sorted(kept["columns"].to_list()[0]) == ["low", "name"]
    assert kept["values"].to_list()[1] == [""]
    assert "not_nullable: name is missing" in kept["reason"][0]
    assert "low is -1.0" in kept["reason"][0]
    assert [json.loads(record) for record in kept["record"]] == [{"id": "b"}] * 2
    assert kept["row_id"].n_unique() == 2
    assert quarantined(found, raw, pl.Series(["p", "p"])).equals(kept)  # a re-run gives the same identities
    beside = raw.with_columns(another=pl.lit(None, pl.String)).select("another", *raw.columns)
    assert quarantined(found, beside, pl.Series(["p", "p"])).equals(kept)  # beside days that have more columns, too


def known(counts: dict[str, int]) -> dict[str, Facts]:
    """The bookkeeping of partitions with these row counts."""
    return {key: Facts(key, rows, "", "", "", "") for key, rows in counts.items()}


DAYS = {str(dt.date(2025, 1, 1) + dt.timedelta(days=n)): 1000 + n % 5 for n in range(30)}
EMPTIED = DAYS | {str(dt.date(2025, 2, 1) + dt.timedelta(days=n)): 0 for n in range(28)}
LONG = {str(dt.date(2025, 1, 1) + dt.timedelta(days=n)): 100 if n < 60 else 1000 for n in range(120)}


@pytest.mark.parametrize(
    ("partition", "rows", "counts", "drift"),
    [
        ("2025-03-01", 1010, DAYS, None),
        ("2025-03-01", 100, DAYS, "100 rows instead of the usual 1002 (give or take 1)"),
        ("2025-03-01", 2000, DAYS, "2000 rows instead of the usual 1002 (give or take 1)"),
        ("2025-03-01", 100, dict(list(DAYS.items())[:7]), None),  # too few to know
        ("2024-01-01", 100, DAYS, None),  # only what came before counts
        ("2025-01-03", 1, dict(list(DAYS.items())[:3]), "1 rows, 1002 when last published"),
        ("2025-01-03", 2100, dict(list(DAYS.items())[:3]), None),  # rows come late
        (WHOLE, 100, {WHOLE: 1000}, "100 rows, 1000 when last published"),
        (WHOLE, 900, {WHOLE: 1000}, None),
        (WHOLE, 900, {}, None),
        ("2025-03-01", 1010, EMPTIED, None),  # days that a publication has emptied are not what is usual
        ("2025-03-01", 100, EMPTIED, "100 rows instead of the usual 1002 (give or take 1)"),
        ("2025-12-01", 1000, LONG, None),  # the last sixty count, not the first
    ],
)
def test_volume_drift(partition: str, rows: int, counts: dict[str, int], drift: str | None) -> None:
    assert volume_drift(partition, rows, known(counts)) == drift


def test_there_is_no_column_drift_without_a_before() -> None:
    """What it says of two files is tested where there are two."""
    assert column_drift(["a"], None) == []


class Sizes(Contract, stage="refined", table="sizes", key=["id"]):
    """Sizes, with a check that not every text lets be made, and one of all of them together."""

    id: pl.Int64 = column("Number")
    size: pl.String = column("Size")

    @pa.dataframe_check(name="size_is_positive")
    def _positive(cls, data: pa.PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col("size").cast(pl.Int64) > 0)

    @pa.dataframe_check(name="ids_begin_with_one")
    def _from_one(cls, data: pa.PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col("id").min() == 1)


def test_a_check_that_cannot_be_made_is_an_error_of_the_whole() -> None:
    """Nobody knows what it would have found: without it, every row would pass."""
    [error] = audit(pl.DataFrame({"id": [1, 2], "size": ["1", "many"]}), Sizes).errors
    assert error.startswith("size_is_positive: ")
    assert audit(pl.DataFrame({"id": [1], "size": ["1"]}), Sizes).errors == ()


def test_a_check_of_all_rows_together_blames_none_of_them() -> None:
    found = audit(pl.DataFrame({"id": [2, 3, 4], "size": ["1", "-1", "1"]}), Sizes)
    assert found.errors == ("ids_begin_with_one: is not true of the rows as a whole",)
    assert found.failures.select("row", "check").rows() == [(1, "size_is_positive")]


def test_a_quarantined_record_is_the_same_whichever_days_are_made_with_its_own() -> None:
    raw = pl.DataFrame({"id": ["b", "b"], "_source_sha256": "f", "_source_row": [13, 14]})
    found = audit(frame({}, {"name": None}, {"name": None}), Places)
    assert quarantined(found, raw, pl.Series(["p", "q"]))["row_id"].n_unique() == 1
