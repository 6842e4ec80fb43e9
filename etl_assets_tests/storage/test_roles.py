"""Who may do what in the warehouse: databases and roles that are made, and what an administrator is told to run."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from etl_assets.local.postgres import Cluster
from etl_assets.storage import roles
from etl_assets.storage.transaction import WarehouseError
from etl_assets.storage.warehouse import Warehouse
from etl_assets_tests.storage.test_warehouse import EVENTS, Database, events


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
