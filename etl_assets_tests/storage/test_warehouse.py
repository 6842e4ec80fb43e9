"""The PostGIS warehouse: tables from their declaration, partitions replaced whole, and errors that say what to do."""

from __future__ import annotations

import datetime as dt
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl
import psycopg
import pytest
import shapely

from etl_assets.storage import transaction as module
from etl_assets.storage.frames import stored
from etl_assets.storage.table import Column, Facts, Geometry, Partitioning, Reference, Table
from etl_assets.storage.transaction import Replacement, TypeChangedError, WarehouseError, _batches
from etl_assets.storage.warehouse import Warehouse
from etl_assets_tests.held import held_at_insert

NOW = dt.datetime(2025, 3, 5, tzinfo=dt.UTC)
EVENTS = Table(
    "refined",
    "events",
    (
        Column("id", "bigint", "Number of the event", nullable=False),
        Column("day", "date", "It's the event's day", nullable=False),
        Column("title", "text"),
        Column("point", "geometry(Point,4326)", geometry=Geometry("Point", 4326)),
    ),
    description='Events; "quoted" as they\'re told',
    primary_key=("id",),
    partitioning=Partitioning("day", "day"),
)
RECORDS = Table(
    "raw",
    "Records; DROP TABLE x",
    (Column("_partition", "text", nullable=False), Column('a "b"', "text")),
    partitioning=Partitioning("_partition"),
)
TOTALS = Table(
    "presentation",
    "totals",
    (Column("state", "text", nullable=False), Column("events", "bigint")),
    primary_key=("state",),
)


@dataclass(frozen=True)
class Database:
    """A warehouse, and questions to it."""

    warehouse: Warehouse

    def rows(self, query: str, *parameters: Any) -> list[Any]:
        with psycopg.connect(self.warehouse.url) as connection:
            return connection.execute(query.encode(), parameters or None).fetchall()

    def values(self, query: str, *parameters: Any) -> list[Any]:
        return [row[0] for row in self.rows(query, *parameters)]

    def replace(self, table: Table, **frames: pl.DataFrame) -> None:
        """Replace partitions, named by key, with frames."""
        self.replace_all({table: [item(table, key, frame) for key, frame in frames.items()]})

    def replace_all(self, replacements: Mapping[Table, Sequence[Replacement]]) -> None:
        """Replace partitions of tables in one transaction."""
        with self.warehouse.writing(replacements) as transaction:
            for table, items in replacements.items():
                transaction.replace(table, items)


@pytest.fixture
def database(warehouse_url: str) -> Database:
    return Database(Warehouse(warehouse_url))


def item(table: Table, key: str, frame: pl.DataFrame, digest: str = "content") -> Replacement:
    facts = Facts(key, frame.height, digest, "made from", "run", NOW.isoformat())
    return Replacement(facts, stored(frame, table, source=pl.lit("source"), run_id="run", loaded_at=NOW))


def events(*rows: tuple[int, str]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "id": [number for number, _ in rows],
            "day": [dt.date.fromisoformat(day) for _, day in rows],
            "title": [f"event {number}" for number, _ in rows],
            "point": [shapely.to_wkb(shapely.Point(-90, 40)) for _ in rows],
        },
        schema={"id": pl.Int64, "day": pl.Date, "title": pl.String, "point": pl.Binary},
    )


def indexes(database: Database, table: str) -> set[str]:
    return set(database.values("SELECT indexdef FROM pg_indexes WHERE schemaname || '.' || tablename = %s", table))


def test_a_table_is_made_from_its_declaration(database: Database) -> None:
    database.replace(EVENTS, **{"2025-01-15": events((1, "2025-01-15"))})
    columns = database.rows(
        "SELECT attname, format_type(atttypid, atttypmod), attnotnull, col_description(attrelid, attnum)"
        " FROM pg_attribute WHERE attrelid = 'refined.events'::regclass AND attnum BETWEEN 1 AND 4 ORDER BY attnum"
    )
    assert columns == [
        ("id", "bigint", True, "Number of the event"),
        ("day", "date", True, "It's the event's day"),
        ("title", "text", False, None),
        ("point", "geometry(Point,4326)", False, None),
    ]
    assert database.values("SELECT obj_description('refined.events'::regclass)") == [EVENTS.description]
    assert indexes(database, "refined.events") == {
        "CREATE UNIQUE INDEX events_pkey ON refined.events USING btree (id)",
        "CREATE INDEX events_point_idx ON refined.events USING gist (point)",
        "CREATE INDEX events_day_idx ON refined.events USING btree (day)",
    }
    assert database.rows("SELECT ST_AsText(point), _source_sha256, _run_id, _loaded_at FROM refined.events") == [
        ("POINT(-90 40)", "source", "run", NOW)
    ]


def test_a_partition_is_replaced_and_the_others_stay(database: Database) -> None:
    one, two = events((1, "2025-01-15"), (2, "2025-01-15")), events((3, "2025-01-16"))
    database.replace(EVENTS, **{"2025-01-15": one, "2025-01-16": two})
    database.replace(EVENTS, **{"2025-01-15": events((2, "2025-01-15"), (4, "2025-01-15"))})
    assert database.values("SELECT id FROM refined.events ORDER BY id") == [2, 3, 4]
    facts = database.warehouse.facts("refined.events")
    assert {key: f.rows for key, f in facts.items()} == {"2025-01-15": 2, "2025-01-16": 1}
    with database.warehouse.writing([EVENTS]) as transaction:
        assert transaction.facts(EVENTS, ["2025-01-16", "2025-01-17"]).keys() == {"2025-01-16"}


def test_an_empty_partition_takes_its_rows_away(database: Database) -> None:
    database.replace(EVENTS, **{"2025-01-15": events((1, "2025-01-15")), "2025-01-16": events((2, "2025-01-16"))})
    database.replace(EVENTS, **{"2025-01-15": events()})
    assert database.values("SELECT id FROM refined.events") == [2]
    assert database.warehouse.facts("refined.events")["2025-01-15"].rows == 0


@pytest.mark.parametrize(
    ("every", "key", "inside", "outside"),
    [
        ("day", "2024-02-29", ["2024-02-29"], ["2024-02-28", "2024-03-01"]),
        ("month", "2024-12-01", ["2024-12-01", "2024-12-31"], ["2024-11-30", "2025-01-01"]),
        ("year", "2024-01-01", ["2024-01-01", "2024-12-31"], ["2023-12-31", "2025-01-01"]),
    ],
)
def test_a_window_of_time_is_replaced_to_the_day(
    database: Database, every: Any, key: str, inside: list[str], outside: list[str]
) -> None:
    table = replace(EVENTS, partitioning=Partitioning("day", every))
    database.replace(table, **{key: events(*enumerate([*inside, *outside]))})
    database.replace(table, **{key: events()})
    left = database.values("SELECT day FROM refined.events ORDER BY id")
    assert [str(day) for day in left] == outside


def test_partitions_by_value_and_names_that_need_quoting(database: Database) -> None:
    def records(partition: str, *values: str | None) -> pl.DataFrame:
        return pl.DataFrame({"_partition": [partition] * len(values), 'a "b"': values})

    database.replace(RECORDS, a=records("a", "1", None), b=records("b", "2"))
    database.replace(RECORDS, a=records("a", "3; DROP TABLE raw.x"))
    table = '"raw"."Records; DROP TABLE x"'
    assert database.rows(f'SELECT _partition, "a ""b""" FROM {table} ORDER BY 1') == [
        ("a", "3; DROP TABLE raw.x"),
        ("b", "2"),
    ]
    assert database.warehouse.facts(RECORDS.full_name).keys() == {"a", "b"}


def test_a_table_without_partitions_is_replaced_whole(database: Database) -> None:
    database.replace(TOTALS, **{"": pl.DataFrame({"state": ["IL", "IA"], "events": [1, 2]})})
    database.replace(TOTALS, **{"": pl.DataFrame({"state": ["IL"], "events": [5]})})
    assert database.rows("SELECT state, events FROM presentation.totals") == [("IL", 5)]


def test_rows_and_bookkeeping_of_all_tables_change_together_or_not_at_all(database: Database) -> None:
    good = events((1, "2025-01-15"))
    database.replace_all({EVENTS: [item(EVENTS, "2025-01-15", good, "before")]})
    totals = pl.DataFrame({"state": ["IL", "IL"], "events": [1, 2]})  # twice the same key
    with pytest.raises(WarehouseError, match="A key would be there twice"):
        database.replace_all(
            {
                EVENTS: [item(EVENTS, "2025-01-15", events((2, "2025-01-15")), "after")],
                TOTALS: [item(TOTALS, "", totals)],
            }
        )
    assert database.values("SELECT id FROM refined.events") == [1]
    assert database.warehouse.facts("refined.events")["2025-01-15"].content_hash == "before"
    assert database.warehouse.facts("presentation.totals") == {}


def test_bookkeeping_alone_can_be_renewed(database: Database) -> None:
    database.replace(EVENTS, **{"2025-01-15": events((1, "2025-01-15"))})
    known = database.warehouse.facts("refined.events")["2025-01-15"]
    database.replace_all({EVENTS: [Replacement(replace(known, made_from="another"), None)]})
    assert database.values("SELECT id FROM refined.events") == [1]
    assert database.warehouse.facts("refined.events")["2025-01-15"] == replace(known, made_from="another")


def test_a_new_column_is_added_with_its_comment(database: Database) -> None:
    database.replace(EVENTS, **{"2025-01-15": events((1, "2025-01-15"))})
    wider = replace(EVENTS, columns=(*EVENTS.columns, Column("size", "integer", "People who came", nullable=False)))
    frame = events((2, "2025-01-16")).with_columns(size=pl.lit(7, pl.Int32))
    database.replace(wider, **{"2025-01-16": frame})
    assert database.rows("SELECT id, size FROM refined.events ORDER BY id") == [(1, None), (2, 7)]
    assert database.values(
        "SELECT col_description(attrelid, attnum) FROM pg_attribute"
        " WHERE attrelid = 'refined.events'::regclass AND attname = 'size'"
    ) == ["People who came"]


def test_comments_follow_the_declaration(database: Database) -> None:
    database.replace(EVENTS, **{"2025-01-15": events((1, "2025-01-15"))})
    first, *others = EVENTS.columns
    told = replace(EVENTS, description="Events, told", columns=(replace(first, description="Number, told"), *others))
    database.replace(told, **{"2025-01-16": events((2, "2025-01-16"))})
    found = "SELECT obj_description('refined.events'::regclass), col_description('refined.events'::regclass, %s)"
    with database.warehouse.connect() as connection:
        assert connection.execute(found, (1,)).fetchone() == ("Events, told", "Number, told")
        assert connection.execute(found, (2,)).fetchone() == ("Events, told", others[0].description or None)


def test_a_column_that_is_declared_no_more_stays_and_gets_no_values(database: Database) -> None:
    wider = replace(EVENTS, columns=(*EVENTS.columns, Column("size", "integer", nullable=False)))
    sized = events((1, "2025-01-15")).with_columns(size=pl.lit(7, pl.Int32))
    database.replace(wider, **{"2025-01-15": sized})
    database.replace(EVENTS, **{"2025-01-16": events((2, "2025-01-16"))})
    assert database.rows("SELECT id, size FROM refined.events ORDER BY id") == [(1, 7), (2, None)]


def test_a_changed_type_is_refused_with_both_types(database: Database) -> None:
    database.replace(EVENTS, **{"2025-01-15": events((1, "2025-01-15"))})
    changed = replace(EVENTS, columns=(Column("id", "text", nullable=False), *EVENTS.columns[1:]))
    frame = events((2, "2025-01-15")).with_columns(pl.col("id").cast(pl.String))
    with pytest.raises(TypeChangedError, match=r"refined\.events: id is bigint in the table, text in the contract"):
        database.replace(changed, **{"2025-01-15": frame})
    assert database.values("SELECT id FROM refined.events") == [1]


def test_a_changed_key_is_refused_with_both_keys(database: Database) -> None:
    database.replace(EVENTS, **{"2025-01-15": events((1, "2025-01-15"))})
    with pytest.raises(TypeChangedError, match=r"key is \('id',\) in the table, \('id', 'day'\) in the contract"):
        database.replace(replace(EVENTS, primary_key=("id", "day")), **{"2025-01-15": events()})
    assert database.values("SELECT id FROM refined.events") == [1]


def test_a_large_load_leaves_the_same_indexes_and_statistics(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.replace(EVENTS, **{"2025-01-15": events((1, "2025-01-15"))})
    small = indexes(database, "refined.events")
    monkeypatch.setattr(module, "BULK_ROWS", 100)
    bulk = replace(EVENTS, name="bulk")
    database.replace(bulk, **{"2025-01-15": events(*((n, "2025-01-15") for n in range(500)))})
    assert {text.replace("bulk", "events") for text in indexes(database, "refined.bulk")} == small
    assert database.values(
        "SELECT conname FROM pg_constraint WHERE conrelid = 'refined.bulk'::regclass AND contype = 'p'"
    )
    assert database.values("SELECT reltuples FROM pg_class WHERE oid = 'refined.bulk'::regclass") == [500]
    with pytest.raises(WarehouseError, match="A key would be there twice"):
        database.replace(bulk, **{"2025-01-16": events((1, "2025-01-16"))})


PLACES = Table("refined", "places", (Column("place", "bigint", nullable=False),), primary_key=("place",))
VISITS = Table(
    "refined", "visits", (Column("place", "bigint", references=Reference("refined", "places", "place")),),
)  # fmt: skip


def places(*values: int | None) -> pl.DataFrame:
    return pl.DataFrame({"place": pl.Series(values, dtype=pl.Int64)})


def test_a_column_may_become_nullable(database: Database) -> None:
    strict = replace(VISITS, columns=(Column("place", "bigint", nullable=False),))
    database.replace(strict, **{"": places(1)})
    database.replace(replace(strict, columns=(Column("place", "bigint"),)), **{"": places(None)})
    assert database.values("SELECT place FROM refined.visits") == [None]


def test_a_foreign_key_goes_with_its_declaration(database: Database) -> None:
    database.replace(PLACES, **{"": places(1)})
    database.replace(VISITS, **{"": places(1)})
    with pytest.raises(WarehouseError, match="A foreign key does not hold"):
        database.replace(VISITS, **{"": places(7)})
    database.replace(replace(VISITS, columns=(Column("place", "bigint"),)), **{"": places(7)})
    assert database.values("SELECT place FROM refined.visits") == [7]


def test_a_foreign_key_refers_to_what_is_declared_now(database: Database) -> None:
    towns = replace(PLACES, name="towns")
    database.replace(PLACES, **{"": places(1, 3)})
    database.replace(towns, **{"": places(1, 7)})
    database.replace(VISITS, **{"": places(1)})
    moved = replace(VISITS, columns=(Column("place", "bigint", references=Reference("refined", "towns", "place")),))
    database.replace(moved, **{"": places(7)})
    with pytest.raises(WarehouseError, match="A foreign key does not hold"):
        database.replace(moved, **{"": places(3)})


def test_a_large_load_of_a_table_that_others_are_of(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both were made without rows, so that the foreign key is there before the rows."""
    database.replace(PLACES, **{"": places()})
    database.replace(VISITS, **{"": places()})
    monkeypatch.setattr(module, "BULK_ROWS", 100)
    before = indexes(database, "refined.places")
    database.replace(PLACES, **{"": places(*range(500))})
    assert indexes(database, "refined.places") == before
    database.replace(VISITS, **{"": places(499)})
    with pytest.raises(TypeChangedError, match=r'DROP TABLE "refined"."places" CASCADE;'):
        database.replace(replace(PLACES, columns=(Column("place", "text", nullable=False),)), **{"": places(1)})


def test_a_large_load_of_a_table_that_refers_to_another(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its indexes are made after the rows, when the rows have been checked: before that, PostgreSQL refuses."""
    visits = replace(
        VISITS,
        columns=(Column("place", "bigint", nullable=False, references=Reference("refined", "places", "place")),),
        primary_key=("place",),
    )
    database.replace(PLACES, **{"": places(*range(500))})
    monkeypatch.setattr(module, "BULK_ROWS", 100)
    with pytest.raises(WarehouseError, match="A foreign key does not hold"):
        database.replace(visits, **{"": places(*range(1, 501))})
    database.replace(visits, **{"": places(*range(400))})
    assert len(indexes(database, "refined.visits")) == 1
    database.replace(visits, **{"": places(7)})
    assert database.values("SELECT place FROM refined.visits") == [7]


def test_a_table_that_is_cut_by_moments_is_replaced_to_the_end_of_each_day(database: Database) -> None:
    cut = Table(
        "refined", "moments", (Column("at", "timestamp with time zone", nullable=False),), primary_key=("at",),
        partitioning=Partitioning("at", "day"),
    )  # fmt: skip
    late = pl.DataFrame({"at": [dt.datetime(2025, 1, 15, hour, tzinfo=dt.UTC) for hour in (0, 23)]})
    for _ in range(2):
        database.replace(cut, **{"2025-01-15": late, "9999-12-31": late.clear()})
        assert database.values("SELECT count(*) FROM refined.moments") == [2]


def test_a_table_that_somebody_dropped_has_nothing_published(database: Database) -> None:
    database.replace(EVENTS, **{"2025-01-15": events((1, "2025-01-15"))})
    with database.warehouse.connect() as connection:
        connection.execute("DROP TABLE refined.events")
    assert database.warehouse.facts("refined.events") == {}


def test_of_a_table_that_is_made_again_after_that_only_what_is_in_it_is_published(database: Database) -> None:
    database.replace(EVENTS, **{day: events((n, day)) for n, day in enumerate(("2025-01-15", "2025-01-16"))})
    with database.warehouse.connect() as connection:
        connection.execute("DROP TABLE refined.events")
    database.replace(EVENTS, **{"2025-01-15": events((1, "2025-01-15"))})
    assert database.warehouse.facts("refined.events").keys() == {"2025-01-15"}


def test_an_unreachable_server_is_named_without_the_password() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and nobody listens
        port = closed.getsockname()[1]
        warehouse = Warehouse(f"postgresql://somebody:s3cret@127.0.0.1:{port}/warehouse")
        for ask in (warehouse.prepare, lambda: warehouse.facts("refined.events")):
            with pytest.raises(WarehouseError, match=f"The warehouse at 127.0.0.1:{port}/warehouse cannot") as caught:
                ask()
            assert "s3cret" not in str(caught.value)
            assert "ETL_WAREHOUSE_URL" in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        *("postgresql:/somebody:s3cret@host/db", "somebody:s3cret@host", "postgresql://h:s3cret/x"),
        "postgresql://somebody:S@s3cret@host/x",  # PostgreSQL takes s3cret@host for the host
    ],
)
def test_an_address_that_is_none_is_refused_without_being_told_again(url: str) -> None:
    with pytest.raises(WarehouseError) as caught:
        Warehouse(url).prepare()
    assert "s3cret" not in str(caught.value)


def test_a_wrong_password_is_said_so(warehouse_url: str) -> None:
    user, _, rest = warehouse_url.partition("@")
    wrong = f"{user.rpartition(':')[0]}:wr0ng@{rest}"
    with pytest.raises(WarehouseError, match="password authentication failed") as caught:
        Warehouse(wrong).prepare()
    assert "wr0ng" not in str(caught.value)


def test_a_connection_that_is_ended_during_copy_leaves_what_was_there(database: Database) -> None:
    database.replace(EVENTS, **{"2025-01-15": events((1, "2025-01-15"))})
    failures: list[BaseException] = []

    def write() -> None:
        try:
            database.replace(EVENTS, **{"2025-01-15": events((2, "2025-01-15"), (3, "2025-01-15"))})
        except WarehouseError as error:
            failures.append(error)

    with held_at_insert(database.warehouse.url, "refined.events", "NEW.id = 3") as wait:
        writer = threading.Thread(target=write)
        writer.start()
        wait()
        database.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'etl_assets'")
        writer.join()
    assert "failed: terminating connection" in str(failures[0])
    assert "run again" in str(failures[0])
    assert database.values("SELECT id FROM refined.events") == [1]
    database.replace(EVENTS, **{"2025-01-15": events((2, "2025-01-15"))})
    assert database.values("SELECT id FROM refined.events") == [2]


def test_every_row_of_many_is_copied_once() -> None:
    """Small partitions are copied together; a raw table has no key that a row would break that came again."""
    frames = [pl.DataFrame({"n": range(start, start + 150_000)}) for start in range(0, 450_000, 150_000)]
    batches = list(_batches(frames))
    assert [batch.num_rows for batch in batches] == [300_000, 150_000]
    assert pl.concat([pl.DataFrame(batch) for batch in batches]).equals(pl.concat(frames))
