"""The PostGIS warehouse: a projection of the lake, made for people who ask with SQL.

Here: connecting, with errors for the person who reads them; preparing a database, with roles and bookkeeping; locks.
Not here: what is done to tables within a transaction (transaction.py).
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from etl_assets.settings import connect_timeout, database_parts
from etl_assets.storage import connections, roles
from etl_assets.storage.roles import SCHEMAS
from etl_assets.storage.table import Facts, Table
from etl_assets.storage.transaction import Transaction, WarehouseError, bookkeeping

#: URLs where this process has tried to make the roles: if it may not, it does not try again for every publication.
_tried: set[str] = set()


class DatabaseMissingError(WarehouseError):
    """The server answers, but has no such database."""


@dataclass(frozen=True)
class Warehouse:
    """The warehouse behind a `postgresql://` URL."""

    url: str

    # --- connecting

    @contextmanager
    def connect(self, *, role: str | None = roles.WRITER) -> Generator[psycopg.Connection]:
        """A connection whose block is one transaction: committed at its end, rolled back by an error.

        It runs as `role` if that is allowed, else (and for None) as the role that the URL names. Raises WarehouseError
        (DatabaseMissingError is one) if the server cannot be reached, goes away or refuses.
        """
        where = self._where()
        try:
            connection = connections.borrow(self.url)
        except psycopg.OperationalError as error:
            kind = DatabaseMissingError if self._is_missing(error) else WarehouseError
            raise kind(
                f"The warehouse at {where} cannot be reached: {str(error).strip()}. "
                "For the embedded one run `./dev up`; for your own check ETL_WAREHOUSE_URL."
            ) from error
        try:
            with connection.transaction():
                if role:
                    roles.act_as(connection, role)
                yield connection
        except psycopg.errors.InsufficientPrivilege as error:
            raise WarehouseError(
                f"In the warehouse at {where} the role of ETL_WAREHOUSE_URL may not do that: {str(error).strip()}. "
                f'Have an administrator run in it: GRANT {roles.WRITER} TO "{self._parts().get("user")}"; '
                "`./dev doctor` says more. What was under way is rolled back."
            ) from error
        except psycopg.errors.UniqueViolation as error:
            raise WarehouseError(
                f"A key would be there twice: {error.diag.message_primary}. {error.diag.message_detail} Nothing was "
                "written. If rows have moved from one partition to another, make both in one run."
            ) from error
        except psycopg.errors.ForeignKeyViolation as error:
            said = f"{error.diag.message_primary}. {error.diag.message_detail}"
            raise WarehouseError(
                f"A foreign key does not hold: {said} Nothing was written. Run again: by then the "
                "referring table usually no longer has such rows; if it still does, make the referenced table again."
            ) from error
        except psycopg.OperationalError as error:
            raise WarehouseError(
                f"The warehouse at {where} failed: {str(error).strip()}. What was under way is rolled back, what "
                "was there before is still there; check that the server is running and has space, then run again."
            ) from error
        finally:
            connections.give_back(self.url, connection)

    def prepare(self) -> None:
        """Make the database, the PostGIS extension, the schemas, roles and bookkeeping tables, where missing.

        Raises WarehouseError with the statement to run if the role may not make them.
        """
        try:
            with self.connect(role=None) as connection:
                _prepare(connection)
        except DatabaseMissingError:
            self._create_database()
            with self.connect(role=None) as connection:
                _prepare(connection)

    @contextmanager
    def _prepared(self) -> Generator[psycopg.Connection]:
        """A connection, as from `connect`, to a database that has everything it needs."""
        with suppress(DatabaseMissingError), self.connect() as connection:
            if _is_prepared(connection) and (self.url in _tried or roles.is_done(connection)):
                yield connection
                return
        self.prepare()
        _tried.add(self.url)
        with self.connect() as connection:
            yield connection

    def _create_database(self) -> None:
        name, role = self._database(), self._parts().get("user")
        try:
            with self._maintaining() as connection:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
            pass  # another run was faster
        except psycopg.Error as error:
            raise WarehouseError(
                f"The database {name!r} does not exist and the role {role!r} cannot create it ({error}). "
                f'Have an administrator run: CREATE DATABASE "{name}" OWNER "{role}"; '
                "then in it: CREATE EXTENSION postgis;"
            ) from error

    def _is_missing(self, error: psycopg.OperationalError) -> bool:
        # The server's message is in its own language; only the database's name is sure to be in it.
        if self._database() not in str(error):
            return False
        try:
            with self._maintaining() as connection:
                query = "SELECT 1 FROM pg_database WHERE datname = %s"
                return connection.execute(query, (self._database(),)).fetchone() is None
        except psycopg.Error:
            return False

    def _maintaining(self) -> psycopg.Connection:
        """A connection to the database that every server has."""
        url = make_conninfo(self.url, dbname="postgres")
        return psycopg.connect(url, autocommit=True, connect_timeout=connect_timeout(self.url))

    def _database(self) -> str:
        parts = self._parts()
        return str(parts.get("dbname") or parts.get("user") or "")

    def _where(self) -> str:
        """The server and database for a message: without the password."""
        parts = self._parts()
        return f"{parts.get('host') or 'localhost'}:{parts.get('port') or 5432}/{self._database()}"

    def _parts(self) -> Mapping[str, object]:
        if parts := database_parts(self.url):
            return parts
        raise WarehouseError(  # without the address: any part of it may be the password
            "ETL_WAREHOUSE_URL is not a PostgreSQL address (postgresql://user:password@host:port/database, "
            "with characters such as @, / and % in user or password percent-encoded)."
        )

    # --- bookkeeping

    def facts(self, asset: str) -> dict[str, Facts]:
        """The bookkeeping of an asset's published partitions; empty if its table is gone."""
        return self.facts_of([asset]).get(asset, {})

    def facts_of(self, assets: Collection[str]) -> dict[str, dict[str, Facts]]:
        """The same for many assets at once: a connection for each takes longer. Those without a table are left out."""
        try:
            with self.connect() as connection:
                return bookkeeping(connection, assets)
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName, DatabaseMissingError):
            return {}

    # --- tables

    @contextmanager
    def writing(self, tables: Iterable[Table]) -> Generator[Transaction]:
        """One transaction, during which nobody else publishes these tables: all that the block does, or nothing.

        A second publisher waits before it has looked at anything. Otherwise two runs of one partition would both delete
        and both insert, and the lake could keep what one of them wrote and the warehouse what the other did.
        """
        with self._prepared() as connection:
            for name in sorted({table.full_name for table in tables}):  # in one order, or two could wait for each other
                connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (name,))
            yield Transaction(connection)

    def refer(self, table: Table) -> None:
        """Add the declared foreign keys that a table lacks, see `Transaction.refer`."""
        with self.connect() as connection:
            Transaction(connection).refer(table)


def _is_prepared(connection: psycopg.Connection) -> bool:
    """Whether the database has everything it needs except roles; cheap, since each publication asks."""
    found = connection.execute(
        "SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'postgis')"
        " AND to_regclass('etl.publications') IS NOT NULL AND to_regclass('etl.changes') IS NOT NULL"
    ).fetchone()
    return found is not None and found[0]


def _prepare(connection: psycopg.Connection) -> None:
    # Two runs may get here at once, and CREATE … IF NOT EXISTS is not safe against itself.
    connection.execute("SELECT pg_advisory_xact_lock(hashtext('etl_assets.prepare'))")
    database, role = connection.info.dbname, connection.info.user
    if not connection.execute("SELECT 1 FROM pg_extension WHERE extname = 'postgis'").fetchone():
        try:
            connection.execute("CREATE EXTENSION postgis")
        except psycopg.Error as error:
            raise WarehouseError(
                f"The database {database!r} has no PostGIS and the role {role!r} cannot add it ({error}). "
                "Have an administrator run in it: CREATE EXTENSION postgis;"
            ) from error
    try:
        for schema in SCHEMAS:
            # IF NOT EXISTS needs the right to create even if there is nothing to create.
            if not connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (schema,)).fetchone():
                connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
        roles.prepare(connection)
        roles.act_as(connection, roles.WRITER)  # who is to own the tables
        if connection.execute("SELECT to_regclass('etl.publications')").fetchone() == (None,):
            connection.execute(
                "CREATE TABLE etl.publications ("
                " asset text, partition text, rows bigint NOT NULL, content_hash text NOT NULL,"
                " made_from text NOT NULL, run_id text NOT NULL, loaded_at timestamptz NOT NULL,"
                " PRIMARY KEY (asset, partition))"
            )
        if connection.execute("SELECT to_regclass('etl.changes')").fetchone() == (None,):
            connection.execute(
                "CREATE TABLE etl.changes ("
                " asset text, partition text, run_id text, published_at timestamptz, rows_added bigint,"
                " rows_gone bigint, rows_changed bigint, values_changed jsonb, largest_change jsonb,"
                " PRIMARY KEY (asset, partition, run_id))"
            )
            connection.execute(
                "COMMENT ON TABLE etl.changes IS 'What publishing a partition anew changed: rows by key, and per"
                " column the number of changed values and the largest difference'"
            )
    except psycopg.errors.InsufficientPrivilege as error:
        raise WarehouseError(
            f"In the database {database!r} the role {role!r} may not make its schemas and tables ({error}). "
            f'Have an administrator run in it: GRANT CREATE ON DATABASE "{database}" TO "{role}"; and, for each of '
            f'the schemas {", ".join(SCHEMAS)} that is there already: ALTER SCHEMA … OWNER TO "{role}"; '
            f'or, where those belong to {roles.OWNER}: GRANT {roles.WRITER} TO "{role}";'
        ) from error
