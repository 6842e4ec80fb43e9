"""Binary COPY against a real PostGIS: what goes in comes out, and what cannot go in is named."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import psycopg
import pyarrow as pa
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from etl_assets.local.postgres import Cluster
from etl_assets.storage import copy
from etl_assets.storage.copy import copy_table

TARGET = sql.Identifier("public", "Odd % name")
UTC = dt.UTC
at = dt.datetime.fromisoformat

Load = Callable[[pa.Table, Mapping[str, str]], list[tuple[Any, ...]]]


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[psycopg.Connection]:
    cluster = Cluster(tmp_path_factory.mktemp("postgres"), fast=True)
    cluster.start()
    try:
        with psycopg.connect(cluster.create_database("copy"), autocommit=True) as connection:
            connection.execute("SET timezone = 'UTC'")
            connection.prepare_threshold = None  # the same query meets a table of another shape in every test
            yield connection
    finally:
        cluster.stop(immediate=True)


def create(connection: psycopg.Connection, types: Mapping[str, str]) -> None:
    columns = [sql.SQL("{} ").format(sql.Identifier(name)).as_string() + type_ for name, type_ in types.items()]
    connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(TARGET))
    connection.execute(f"CREATE TABLE {TARGET.as_string()} ({', '.join(columns)})".encode())


@pytest.fixture(scope="module")
def load(connection: psycopg.Connection) -> Load:
    """Copy a table into a new one of the given types, and read that back."""

    def load(table: pa.Table, types: Mapping[str, str]) -> list[tuple[Any, ...]]:
        create(connection, types)
        with connection.cursor() as cursor:
            copy_table(cursor, TARGET, table, types)
            assert cursor.rowcount == table.num_rows
            names = sql.SQL(", ").join(map(sql.Identifier, table.schema.names))
            return cursor.execute(sql.SQL("SELECT {} FROM {}").format(names, TARGET)).fetchall()

    return load


def column(values: Sequence[Any], arrow: pa.DataType) -> pa.Table:
    return pa.table({"c": pa.array(values, arrow)})


NEW_YORK = pa.timestamp("us", "America/New_York")
DICTIONARY = pa.dictionary(pa.int32(), pa.string())
NINES = "9" * 38
DECIMALS = ["9999999999.99", "-9999999999.99", "0.00", "-0.01", "10000.00"]
TEXTS = [
    "",
    "a",
    None,
    "münchen",
    "👩‍👩‍👧 emoji",
    "'; DROP TABLE x; --",
    "line\r\n\ttab \\N",
    "\x01",
    "x" * 70_000,
    "a",
]
LISTS = [[], None, [None], ["a", None, "b,c", '"q"', "{}", "NULL", "\\", ""], ["👩‍👩‍👧"]]
DATES = [dt.date(1, 1, 1), dt.date(1999, 12, 31), dt.date(2000, 1, 1), dt.date(9999, 12, 31), None]
LAST_TIME = dt.time(23, 59, 59, 999_999)
MILLISECONDS = [at("0001-01-01"), at("1969-12-31T23:59:59.999"), at("9999-12-31"), None]
MICROSECONDS = [*MILLISECONDS, at("1969-12-31T23:59:59.999999")]
NANOSECONDS = [at("1700-01-01"), at("1969-12-31T23:59:59.000001"), None]
INSTANTS = [time and time.replace(tzinfo=UTC) for time in MICROSECONDS]


def decimals(*values: str) -> list[Decimal | None]:
    return [*map(Decimal, values), None]


ROUND_TRIPS: list[tuple[str, pa.DataType, Sequence[Any]]] = [
    ("boolean", pa.bool_(), [True, False, None]),
    ("smallint", pa.int16(), [-(2**15), 2**15 - 1, None]),
    ("smallint", pa.int64(), [-(2**15), 2**15 - 1, None]),
    ("smallint", pa.int8(), [-128, 127, None]),
    ("integer", pa.int32(), [-(2**31), 2**31 - 1, None]),
    ("integer", pa.uint64(), [0, 2**31 - 1, None]),
    ("bigint", pa.int64(), [-(2**63), -1, 0, 2**63 - 1, None]),
    ("bigint", pa.int16(), [-(2**15), None]),
    ("real", pa.float32(), [1.5, -0.0, float("inf"), float("nan"), None]),
    (
        "double precision",
        pa.float64(),
        [0.1, 5e-324, 1.7976931348623157e308, float("-inf"), float("nan"), None],
    ),
    ("double precision", pa.float32(), [1.5, None]),
    ("numeric(12,2)", pa.decimal128(12, 2), decimals(*DECIMALS)),
    ("numeric(12,2)", pa.decimal64(12, 2), decimals(*DECIMALS)),
    ("numeric(12,2)", pa.decimal256(50, 2), decimals(*DECIMALS)),
    ("numeric(38,0)", pa.decimal128(38, 0), decimals(NINES, f"-{NINES}", "10000", "100000000")),
    ("numeric(38,38)", pa.decimal128(38, 38), decimals(f"0.{NINES}", f"-0.{NINES}", "1e-38", "-1e-38")),
    ("numeric(5)", pa.decimal128(5, 0), decimals("12345", "-1")),
    ("numeric", pa.decimal128(20, 7), decimals("-0.0001000", "10000.0000000")),
    ("numeric", pa.null(), [None, None]),
    ("text", pa.string(), TEXTS),
    ("text", pa.large_string(), TEXTS),
    ("text", pa.string_view(), TEXTS),
    ("text", DICTIONARY, TEXTS),
    ("text", pa.dictionary(pa.uint8(), pa.large_string()), TEXTS),
    ("text", pa.null(), [None, None]),
    ("bytea", pa.binary(), [b"", b"\x00\xff\\x", None]),
    ("bytea", pa.large_binary(), [b"", b"\x00\xff", None]),
    ("bytea", pa.binary_view(), [b"", b"\x00\xff", None]),
    ("bytea", pa.binary(2), [b"\x00\xff", None]),
    ("date", pa.date32(), DATES),
    ("date", pa.date64(), DATES),
    ("time without time zone", pa.time64("us"), [dt.time(0), LAST_TIME, None]),
    ("time without time zone", pa.time64("ns"), [dt.time(0), LAST_TIME, None]),
    ("time without time zone", pa.time32("s"), [dt.time(12, 34, 56), None]),
    ("timestamp without time zone", pa.timestamp("us"), MICROSECONDS),
    ("timestamp without time zone", pa.timestamp("ms"), MILLISECONDS),
    ("timestamp without time zone", pa.timestamp("ns"), NANOSECONDS),
    ("timestamp with time zone", pa.timestamp("us", "UTC"), INSTANTS),
    ("text[]", pa.list_(pa.string()), LISTS),
    ("text[]", pa.large_list(pa.string_view()), LISTS),
    ("text[]", pa.list_(DICTIONARY), LISTS),
    ("text[]", pa.list_(pa.string(), 2), [["a", None], None]),
    ("text[]", pa.list_(pa.null()), [[], None, [None]]),
    ("text[]", pa.null(), [None, None]),
    ("bigint[]", pa.list_(pa.int64()), [[-(2**63), None, 2**63 - 1], [], None]),
    ("integer[]", pa.list_(pa.int64()), [[1, 2, 3], None]),
    ("double precision[]", pa.list_(pa.float64()), [[0.1, None]]),
    ("boolean[]", pa.list_(pa.bool_()), [[True, None]]),
    ("numeric(6,2)[]", pa.list_(pa.decimal128(6, 2)), [decimals("-1234.50")]),
    ("date[]", pa.list_(pa.date32()), [DATES]),
]


@pytest.mark.parametrize(
    ("sql_type", "arrow", "values"),
    ROUND_TRIPS,
    ids=[f"{sql_type} from {arrow}" for sql_type, arrow, _ in ROUND_TRIPS],
)
def test_what_goes_in_comes_out(load: Load, sql_type: str, arrow: pa.DataType, values: Sequence[Any]) -> None:
    got = [value for (value,) in load(column(values, arrow), {"c": sql_type})]
    # by repr, since 1.50 == 1.5, -0.0 == 0.0 and True == 1
    assert [repr(value) for value in got] == [repr(value) for value in values]


@pytest.mark.parametrize(
    ("sql_type", "arrow", "value", "expected"),
    [
        ("double precision", pa.int64(), 2**53, float(2**53)),
        ("numeric(12,2)", pa.decimal128(20, 4), Decimal("-12345.6700"), Decimal("-12345.67")),
        ("timestamp with time zone", pa.timestamp("us"), at("2020-07-01T12:00"), at("2020-07-01T12:00+00:00")),
        # Given in UTC: where pandera has been imported, pyarrow does not see the offset of a Python datetime.
        ("timestamp with time zone", NEW_YORK, at("2020-07-01T12:00+00:00"), at("2020-07-01T12:00+00:00")),
        ("timestamp without time zone", NEW_YORK, at("2020-07-01T12:00+00:00"), at("2020-07-01T12:00")),
    ],
)
def test_another_spelling_of_the_same_value(
    load: Load, sql_type: str, arrow: pa.DataType, value: Any, expected: Any
) -> None:
    assert repr(load(column([value], arrow), {"c": sql_type})) == repr([(expected,)])


def test_an_empty_list_is_the_servers_empty_array(load: Load, connection: psycopg.Connection) -> None:
    load(column([[]], pa.list_(pa.string())), {"c": "text[]"})
    query = sql.SQL("SELECT c = '{{}}', array_ndims(c) FROM {}").format(TARGET)
    assert connection.execute(query).fetchall() == [(True, None)]


def test_jsonb_from_every_kind_of_text(load: Load) -> None:
    values = ['{"a": [1, null, "\\u00fc"]}', "null", '""', None]
    for arrow in (pa.string(), pa.large_string(), pa.string_view(), DICTIONARY):
        got = load(column(values, arrow), {"c": "jsonb"})
        assert got == [({"a": [1, None, "ü"]},), (None,), ("",), (None,)]


def test_columns_are_matched_by_name(connection: psycopg.Connection) -> None:
    create(connection, {"b": "text", "a": "bigint", "left_out": "text"})
    table = pa.table({"a": [1, 2], "b": ["x", "y"]})
    with connection.cursor() as cursor:
        copy_table(cursor, TARGET, table, {"b": "text", "a": "bigint"})
        rows = cursor.execute(sql.SQL("SELECT a, b, left_out FROM {}").format(TARGET)).fetchall()
    assert rows == [(1, "x", None), (2, "y", None)]


# --- geometry


GEOMETRIES = [
    shapely.Point(-74.25, 40.5),
    shapely.Point(1, 2, 3),
    shapely.MultiPolygon([shapely.box(0, 0, 1, 1), shapely.box(2, 2, 3, 3)]),
    shapely.GeometryCollection(),
]


@pytest.mark.parametrize("flavor", ["iso", "extended"])
@pytest.mark.parametrize("byte_order", [0, 1])
def test_wkb_without_srid_takes_the_columns(
    load: Load, connection: psycopg.Connection, flavor: Any, byte_order: int
) -> None:
    wkb = shapely.to_wkb(GEOMETRIES, flavor=flavor, byte_order=byte_order)
    query = sql.SQL("SELECT ST_SRID(c), ST_AsBinary(c, 'NDR') FROM {}").format(TARGET)
    for geometry, value in zip(GEOMETRIES, wkb, strict=True):
        kind = f"{geometry.geom_type}{'Z' if geometry.has_z else ''}"
        load(column([value, None], pa.binary()), {"c": f"geometry({kind},4326)"})
        expected = (4326, shapely.to_wkb(geometry, flavor="iso", byte_order=1))
        assert connection.execute(query).fetchall() == [expected, (None, None)]


def test_wkb_with_srid_keeps_it(load: Load, connection: psycopg.Connection) -> None:
    ewkb = shapely.to_wkb(shapely.set_srid(shapely.Point(1, 2), 4326), include_srid=True)
    for type_ in ("geometry(Point,4326)", "geometry"):
        load(column([ewkb], pa.large_binary()), {"c": type_})
        assert connection.execute(sql.SQL("SELECT ST_AsEWKT(c) FROM {}").format(TARGET)).fetchall() == [
            ("SRID=4326;POINT(1 2)",)
        ]


@pytest.mark.parametrize(
    ("geometry", "message"),
    [
        (shapely.set_srid(shapely.Point(1, 2), 3857), "SRID (3857) does not match column SRID (4326)"),
        (shapely.LineString([(0, 0), (1, 1)]), "LineString"),
    ],
)
def test_another_srid_or_kind_is_refused(load: Load, geometry: shapely.Geometry, message: str) -> None:
    wkb = shapely.to_wkb([shapely.Point(0, 0), geometry], include_srid=True)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        load(column(wkb.tolist(), pa.binary()), {"c": "geometry(Point,4326)"})
    assert "line 2, column c" in str(error.value)


# --- what cannot go in


@pytest.mark.parametrize(
    ("sql_type", "arrow", "bad"),
    [
        ("text", pa.string(), "a\0b"),
        ("text", DICTIONARY, "\0"),
        ("text[]", pa.list_(pa.string()), ["ok", "a\0b"]),
    ],
)
def test_nul_is_refused_with_column_and_row(
    connection: psycopg.Connection, load: Load, sql_type: str, arrow: pa.DataType, bad: Any
) -> None:
    good = ["ok"] if sql_type == "text[]" else "ok"
    table = column([good] * 20_000 + [bad, good], arrow)
    with pytest.raises(ValueError, match=r"0x00[\s\S]*line 20001, column c"):
        load(table, {"c": sql_type})
    # Nothing of the table is stored, and the connection goes on.
    assert connection.execute(sql.SQL("SELECT count(*) FROM {}").format(TARGET)).fetchone() == (0,)


@pytest.mark.parametrize(
    ("sql_type", "arrow", "bad"),
    [
        ("smallint", pa.int64(), 2**15),
        ("integer", pa.int64(), -(2**31) - 1),
        ("bigint", pa.uint64(), 2**63),
        ("double precision", pa.int64(), 2**53 + 1),
        ("numeric(12,2)", pa.decimal128(12, 3), Decimal("1.005")),
        ("numeric(4,2)", pa.decimal128(12, 2), Decimal("100.00")),
        ("timestamp with time zone", pa.timestamp("ns"), 1),
        ("time without time zone", pa.time64("ns"), 1),
        ("integer[]", pa.list_(pa.int64()), [2**31]),
    ],
)
def test_a_value_that_would_change_is_refused_with_its_column(
    connection: psycopg.Connection, load: Load, sql_type: str, arrow: pa.DataType, bad: Any
) -> None:
    with pytest.raises(ValueError, match="column 'c': "):
        load(column([None, bad], arrow), {"c": sql_type})
    assert connection.execute(sql.SQL("SELECT count(*) FROM {}").format(TARGET)).fetchone() == (0,)


@pytest.mark.parametrize(
    ("sql_type", "arrow"),
    [
        ("numeric(12,2)", pa.float64()),
        ("date", pa.timestamp("us")),
        ("real", pa.float64()),
        ("bigint", pa.string()),
        ("text", pa.int64()),
        ("text", pa.binary()),
        ("text", pa.list_(pa.string())),
        ("text[]", pa.string()),
        ("text[]", pa.list_(pa.list_(pa.string()))),
        ("geometry(Point,4326)", pa.string()),
        ("circle", pa.string()),
    ],
)
def test_a_type_that_does_not_fit_is_refused(load: Load, sql_type: str, arrow: pa.DataType) -> None:
    with pytest.raises(ValueError, match="column 'c': ") as error:
        load(column([], arrow), {"c": sql_type})
    assert sql_type in str(error.value) or sql_type.removesuffix("[]") in str(error.value)


def test_types_that_are_not_the_tables_are_refused(connection: psycopg.Connection) -> None:
    create(connection, {"c": "integer", "d": "timestamp with time zone[]"})
    with connection.cursor() as cursor:
        with pytest.raises(ValueError, match="line 1, column c"):
            copy_table(cursor, TARGET, column([1], pa.int64()), {"c": "bigint"})
        times = pa.table({"d": pa.array([[0]], pa.list_(pa.timestamp("us", "UTC")))})
        with pytest.raises(ValueError, match="line 1, column d"):
            copy_table(cursor, TARGET, times, {"d": "timestamp with time zone[]"})


@pytest.mark.parametrize("types", [{"a": "text"}, {"a": "text", "b": "text", "c": "text"}, {"a": "text", "c": "text"}])
def test_columns_and_types_must_be_the_same(connection: psycopg.Connection, types: Mapping[str, str]) -> None:
    table = pa.table({"a": ["x"], "b": ["y"]})
    with connection.cursor() as cursor, pytest.raises(ValueError, match=r"\['a', 'b'\]") as error:
        copy_table(cursor, TARGET, table, types)
    assert str(list(types)) in str(error.value)


def test_a_column_that_is_there_twice_is_refused(connection: psycopg.Connection) -> None:
    table = pa.table([pa.array(["x"]), pa.array(["y"])], names=["a", "a"])
    with connection.cursor() as cursor, pytest.raises(ValueError, match=r"\['a', 'a'\]"):
        copy_table(cursor, TARGET, table, {"a": "text"})


def test_a_connection_that_is_not_utf8_is_refused(connection: psycopg.Connection) -> None:
    connection.execute("SET client_encoding = 'LATIN1'")
    try:
        with connection.cursor() as cursor, pytest.raises(ValueError, match="UTF-8"):
            copy_table(cursor, TARGET, column(["ü"], pa.string()), {"c": "text"})
    finally:
        connection.execute("SET client_encoding = 'UTF8'")


def test_a_failed_row_undoes_the_callers_transaction(connection: psycopg.Connection) -> None:
    create(connection, {"c": "text"})

    def both() -> None:
        with connection.transaction(), connection.cursor() as cursor:
            for text in ("kept?", "\0"):
                copy_table(cursor, TARGET, column([text], pa.string()), {"c": "text"})

    with pytest.raises(ValueError, match="0x00"):
        both()
    assert connection.execute(sql.SQL("SELECT count(*) FROM {}").format(TARGET)).fetchone() == (0,)


# --- how rows are cut


@pytest.mark.parametrize("table", [column([], pa.string()), pa.schema([("c", pa.string())]).empty_table()])
def test_no_rows(load: Load, table: pa.Table) -> None:
    assert load(table, {"c": "text"}) == []


def test_many_batches_chunks_and_slices_keep_every_row(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copy, "BATCH_ROWS", 7)
    numbers = list(range(1000))
    texts = [None if n % 11 == 0 else f"№ {n}" * (n % 5) for n in numbers]
    lists = [None if n % 13 == 0 else [f"{n}", None] * (n % 4) for n in numbers]
    whole = pa.table({"n": numbers, "t": texts, "d": pa.array(texts).dictionary_encode(), "l": lists})
    table = pa.concat_tables([whole.slice(0, 3), whole.slice(3, 0), whole.slice(3, 600), whole.slice(603)])
    types = {"n": "bigint", "t": "text", "d": "text", "l": "text[]"}
    rows = sorted(load(table, types))  # short rows may fill an earlier page's gap
    assert rows == list(zip(numbers, texts, texts, lists, strict=True))


@pytest.mark.parametrize(
    ("values", "arrow", "rows"),
    [
        (["x" * (copy.BATCH_BYTES // 4)] * 10, pa.string(), [3, 3, 3, 1]),
        (["x" * (copy.BATCH_BYTES * 2)] * 2, pa.string(), [1, 1]),
        ([None] * (copy.BATCH_ROWS + 1), pa.null(), [copy.BATCH_ROWS, 1]),
    ],
    ids=["large", "larger than a batch", "nothing"],
)
def test_rows_are_cut_by_bytes_and_by_number(values: Sequence[Any], arrow: pa.DataType, rows: list[int]) -> None:
    assert [batch.num_rows for batch in copy._batches(column(values, arrow))] == rows


# --- properties

many = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@many
@given(
    scale=st.integers(0, 38),
    unscaled=st.lists(st.none() | st.integers(-(10**38) + 1, 10**38 - 1), min_size=1),
)
def test_any_decimal(load: Load, scale: int, unscaled: list[int | None]) -> None:
    values = [None if n is None else Decimal((n < 0, tuple(map(int, str(abs(n)))), -scale)) for n in unscaled]
    for sql_type in (f"numeric(38,{scale})", "numeric"):
        got = [value for (value,) in load(column(values, pa.decimal128(38, scale)), {"c": sql_type})]
        assert list(map(repr, got)) == list(map(repr, values))


@many
@given(st.lists(st.tuples(st.none() | texts, st.none() | st.lists(st.none() | texts)), min_size=1))
def test_any_text(load: Load, rows: list[tuple[str | None, list[str | None] | None]]) -> None:
    table = pa.table({"t": pa.array([t for t, _ in rows], pa.string()),
                      "l": pa.array([items for _, items in rows], pa.list_(pa.string()))})  # fmt: skip
    assert load(table, {"t": "text", "l": "text[]"}) == rows
