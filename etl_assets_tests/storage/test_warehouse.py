"""The PostGIS warehouse: tables from their declaration, partitions replaced whole, and errors that say what to do."""

from __future__ import annotations

import datetime as dt
import socket
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import polars as pl
import psycopg
import pytest
import shapely
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from etl_assets.local.postgres import Cluster
from etl_assets.storage import roles
from etl_assets.storage import transaction as module
from etl_assets.storage.frames import stored
from etl_assets.storage.lake import Facts
from etl_assets.storage.table import Column, Geometry, Part, Partitioning, Reference, Table
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
    return Replacement(
        facts, Part(key, stored(frame, table, source=pl.lit("source"), run_id="run", loaded_at=NOW), "made from")
    )


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


# -- who may do what -----------------------------------------------------------------------------------------------


@pytest.fixture
def role(cluster: Cluster) -> Iterator[Callable[[str], str]]:
    """A role that may log in and nothing else; gives the address of a database for it."""
    name, password = f"role_{uuid.uuid4().hex[:8]}", "s3cret/@%"
    with psycopg.connect(cluster.url("postgres"), autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(name), sql.Literal(password))
        )
        port = connection.info.port
        yield lambda database: f"postgresql://{name}:s3cret%2F%40%25@127.0.0.1:{port}/{database}"
        connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


@pytest.fixture
def missing(cluster: Cluster) -> Iterator[str]:
    """The name of a database that does not exist yet."""
    name = f"missing_{uuid.uuid4().hex[:8]}"
    yield name
    cluster.drop_database(name)


def test_a_missing_database_is_made_with_postgis(cluster: Cluster, missing: str) -> None:
    warehouse = Warehouse(cluster.url(missing))
    assert warehouse.facts("refined.events") == {}, "to ask for what is published makes nothing"
    warehouse.prepare()
    warehouse.prepare()
    with warehouse.connect() as connection:
        assert connection.execute("SELECT postgis_lib_version()").fetchone()
    assert warehouse.facts("refined.events") == {}


def test_a_role_that_may_not_make_the_database_is_told_what_to_have_run(
    role: Callable[[str], str], missing: str
) -> None:
    with pytest.raises(WarehouseError, match=f'CREATE DATABASE "{missing}" OWNER "role_') as caught:
        Warehouse(role(missing)).prepare()
    assert "s3cret" not in str(caught.value)


def test_a_role_that_may_not_add_postgis_is_told_what_to_have_run(
    cluster: Cluster, role: Callable[[str], str], missing: str
) -> None:
    cluster.create_database(missing, template="template0")
    with pytest.raises(WarehouseError, match=r"(?s)has no PostGIS .*: CREATE EXTENSION postgis;"):
        Warehouse(role(missing)).prepare()


def test_a_role_that_may_not_make_schemas_is_told_what_to_have_run(
    role: Callable[[str], str], warehouse_url: str
) -> None:
    name = str(conninfo_to_dict(warehouse_url)["dbname"])
    with pytest.raises(WarehouseError, match=f'GRANT CREATE ON DATABASE "{name}" TO "role_'):
        Warehouse(role(name)).prepare()


def test_what_an_administrator_has_made_is_enough(role: Callable[[str], str], cluster: Cluster, missing: str) -> None:
    url = role(missing)
    user = sql.Identifier(str(conninfo_to_dict(url)["user"]))
    with psycopg.connect(cluster.create_database(missing), autocommit=True) as connection:
        for schema in roles.SCHEMAS:
            connection.execute(sql.SQL("CREATE SCHEMA {} AUTHORIZATION {}").format(sql.Identifier(schema), user))
    try:
        database = Database(Warehouse(url))
        database.replace(EVENTS, **{"2025-01-15": events((1, "2025-01-15"))})
        assert database.values("SELECT id FROM refined.events") == [1]
    finally:
        cluster.drop_database(missing)  # before the role, which owns what is in it


def test_the_pipeline_writes_as_the_writer_and_readers_see_what_is_for_them(
    role: Callable[[str], str], cluster: Cluster, warehouse_url: str
) -> None:
    before_there_were_roles(warehouse_url)
    database = Database(Warehouse(warehouse_url))
    database.replace(EVENTS, **{"2025-01-15": events((1, "2025-01-15"))})
    owners = "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = ANY(%s)"
    with psycopg.connect(warehouse_url) as connection:
        assert connection.execute(owners, [list(roles.SCHEMAS)]).fetchall() == [(roles.WRITER,)]
        assert roles.what_to_run(connection) is None
    url = role(urlsplit(warehouse_url).path[1:])
    name = str(conninfo_to_dict(url)["user"])

    def become(role: str | None) -> None:
        with psycopg.connect(warehouse_url) as connection:
            for other in (roles.READER, roles.INSPECTOR, roles.WRITER):
                connection.execute(sql.SQL("REVOKE {} FROM {}").format(sql.Identifier(other), sql.Identifier(name)))
            if role:
                connection.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(role), sql.Identifier(name)))

    become(roles.READER)
    with psycopg.connect(url, autocommit=True) as connection:
        assert connection.execute("SELECT id FROM refined.events").fetchall() == [(1,)]
        for refused in (
            "SELECT * FROM raw.old",
            "SELECT * FROM etl.publications",
            "DELETE FROM refined.events",
            "CREATE TABLE refined.mine (id int)",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(refused)
    become(roles.INSPECTOR)
    with psycopg.connect(url, autocommit=True) as connection:
        assert connection.execute("SELECT id FROM raw.old").fetchall() == [(7,)]
        assert connection.execute("SELECT asset FROM etl.publications").fetchall() == [("refined.events",)]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DELETE FROM raw.old")
    become(roles.WRITER)
    Database(Warehouse(url)).replace(replace(EVENTS, name="more"), **{"2025-01-15": events((2, "2025-01-15"))})
    with Warehouse(url).connect() as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("DROP SCHEMA refined CASCADE")
    become(roles.READER)
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT id FROM refined.more").fetchall() == [(2,)], "made after the grants"
    become(None)
    with psycopg.connect(url) as connection:
        assert roles.what_to_run(connection) == f'GRANT {roles.WRITER} TO "{name}";'
    for ask in (Warehouse(url).prepare, lambda: Warehouse(url).facts("refined.events")):
        with pytest.raises(WarehouseError, match=f'GRANT {roles.WRITER} TO "{name}"'):
            ask()


def test_a_login_that_may_make_roles_hands_its_own_database_over(
    role: Callable[[str], str], cluster: Cluster, missing: str, warehouse_url: str
) -> None:
    Warehouse(warehouse_url).prepare()  # roles are the whole server's
    url = role(missing)
    user = sql.Identifier(str(conninfo_to_dict(url)["user"]))
    with psycopg.connect(cluster.create_database(missing), autocommit=True) as connection:
        connection.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(sql.Identifier(missing), user))
        connection.execute(sql.SQL("ALTER ROLE {} CREATEROLE").format(user))
        connection.execute(
            sql.SQL("GRANT {}, {} TO {}").format(*map(sql.Identifier, (roles.OWNER, roles.WRITER)), user)
        )
    try:
        database = Database(Warehouse(url))
        database.replace(EVENTS, **{"2025-01-15": events((1, "2025-01-15"))})
        assert database.values("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'refined'") == [
            "etl_writer"
        ]
        with psycopg.connect(url) as connection:
            assert roles.what_to_run(connection) is None
    finally:
        cluster.drop_database(missing)


def test_what_others_have_in_schemas_of_the_same_name_stays_theirs(
    role: Callable[[str], str], cluster: Cluster, missing: str
) -> None:
    url, admin = role(missing), cluster.create_database(missing)
    user = sql.Identifier(str(conninfo_to_dict(url)["user"]))
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE SCHEMA raw AUTHORIZATION {}").format(user))
        connection.execute(sql.SQL("SET ROLE {}").format(user))
        connection.execute("CREATE TABLE raw.payroll AS SELECT 7 AS id")
        connection.execute("RESET ROLE")
        connection.execute("CREATE SCHEMA etl; CREATE TABLE raw.ours AS SELECT 8 AS id")
        connection.execute("CREATE TABLE etl.publications AS SELECT 'raw.recorded' AS asset")
        connection.execute(sql.SQL("CREATE TABLE raw.recorded (); ALTER TABLE raw.recorded OWNER TO {}").format(user))
        connection.execute(sql.SQL("ALTER TABLE etl.publications OWNER TO {}").format(user))
    try:
        with psycopg.connect(admin) as connection:
            for schema in ("refined", "presentation", "quarantine"):
                connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
            roles.prepare(connection)
            owners = connection.execute(
                "SELECT tablename, tableowner FROM pg_tables WHERE schemaname = 'raw'"
            ).fetchall()
            assert dict(owners) == {
                "payroll": str(conninfo_to_dict(url)["user"]),
                "ours": roles.WRITER,
                "recorded": roles.WRITER,  # as published by a login of before
            }
            books = "SELECT tableowner FROM pg_tables WHERE schemaname = 'etl'"
            assert connection.execute(books).fetchall() == [(roles.WRITER,)], "whoever has kept them before"
            may_read = "SELECT has_table_privilege(%s, 'raw.' || %s, 'SELECT')"
            for table, may in (("payroll", False), ("ours", True)):
                assert connection.execute(may_read, (roles.INSPECTOR, table)).fetchone() == (may,)
    finally:
        cluster.drop_database(missing)  # before the role, which owns what is in it


def test_what_may_not_be_handed_over_stays_whole_and_can_be_worked_with(
    role: Callable[[str], str], cluster: Cluster, missing: str, warehouse_url: str
) -> None:
    """By a login that may act as the roles, in schemas that an administrator has made and kept."""
    Warehouse(warehouse_url).prepare()  # roles are the whole server's
    url = role(missing)
    user = sql.Identifier(str(conninfo_to_dict(url)["user"]))
    owner, writer = map(sql.Identifier, (roles.OWNER, roles.WRITER))
    with psycopg.connect(cluster.create_database(missing), autocommit=True) as connection:
        for schema in map(sql.Identifier, roles.SCHEMAS):
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(schema))
            connection.execute(sql.SQL("GRANT USAGE, CREATE ON SCHEMA {} TO {}").format(schema, user))
        connection.execute(sql.SQL("GRANT {}, {} TO {}").format(owner, writer, user))
    try:
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TABLE raw.mine AS SELECT 7 AS id")
            roles.prepare(connection)
            assert connection.execute("SELECT id FROM raw.mine").fetchall() == [(7,)]
            kept = connection.execute("SELECT tableowner = current_user FROM pg_tables WHERE tablename = 'mine'")
            assert kept.fetchall() == [(True,)]
            assert str(roles.what_to_run(connection)).startswith(f"GRANT {roles.OWNER} TO ")
    finally:
        cluster.drop_database(missing)  # before the role, which owns what is in it


def before_there_were_roles(warehouse_url: str) -> None:
    """A warehouse as its tables' owner alone had made it."""
    with psycopg.connect(warehouse_url) as connection:
        connection.execute("CREATE SCHEMA raw")
        connection.execute("CREATE TABLE raw.old AS SELECT 7 AS id")


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
    batches = list(_batches([Part(str(n), frame, "") for n, frame in enumerate(frames)]))
    assert [batch.num_rows for batch in batches] == [300_000, 150_000]
    assert pl.concat([pl.DataFrame(batch) for batch in batches]).equals(pl.concat(frames))
