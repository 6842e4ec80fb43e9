"""The PostGIS warehouse: a projection of the lake, made for people who ask with SQL.

A partition is replaced in one transaction together with its bookkeeping row in `etl.publications`, so that what the
bookkeeping says is what the table holds. Tables are made, commented and widened from their declaration.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import polars as pl
import psycopg
import pyarrow as pa
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from etl_assets.storage.copy import copy_table
from etl_assets.storage.lake import Facts
from etl_assets.storage.table import Column, Part, Table

log = logging.getLogger(__name__)

SCHEMAS = ("raw", "refined", "presentation", "quarantine", "etl")
#: From this many rows on, an empty table is loaded first and indexed afterwards (about twice as fast).
BULK_ROWS = 50_000


class WarehouseError(RuntimeError):
    """The warehouse could not do what was asked; the message says what, where and what to do."""


class TypeChangedError(WarehouseError):
    """A column's declared type is not the one that the table has."""


@dataclass(frozen=True)
class Replacement:
    """Rows to put in the place of a partition, in their stored shape, with the bookkeeping that goes with them.

    Without a `part`, the rows are as they are and only the bookkeeping is renewed.
    """

    facts: Facts
    part: Part | None


@dataclass(frozen=True)
class Warehouse:
    """The warehouse behind a `postgresql://` URL."""

    url: str

    # -- connecting ----------------------------------------------------------------------------------------------

    @contextmanager
    def connect(self) -> Iterator[psycopg.Connection]:
        """A connection whose block is one transaction: committed at its end, rolled back by an error."""
        with psycopg.connect(
            self.url, application_name="etl_assets", connect_timeout=10, options="-c timezone=UTC"
        ) as connection:
            yield connection

    def prepare(self) -> None:
        """Make the database, the PostGIS extension, the schemas and the bookkeeping table, where missing.

        Raises WarehouseError with the statement to run where the role may not.
        """
        try:
            with self.connect() as connection:
                self._prepare(connection)
        except psycopg.OperationalError as error:
            if "does not exist" not in str(error):
                raise self._unreachable(error) from error
            self._create_database()
            with self.connect() as connection:
                self._prepare(connection)

    def _prepare(self, connection: psycopg.Connection) -> None:
        # Two runs may get here at once, and CREATE … IF NOT EXISTS is not safe against itself.
        connection.execute("SELECT pg_advisory_xact_lock(hashtext('etl_assets.prepare'))")
        if not connection.execute("SELECT 1 FROM pg_extension WHERE extname = 'postgis'").fetchone():
            try:
                connection.execute("CREATE EXTENSION postgis")
            except psycopg.Error as error:
                raise WarehouseError(
                    f"The database {connection.info.dbname!r} has no PostGIS and the role {connection.info.user!r} "
                    f"cannot add it ({error}). Have an administrator run in it: CREATE EXTENSION postgis;"
                ) from error
        for schema in SCHEMAS:
            connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))
        connection.execute(
            "CREATE TABLE IF NOT EXISTS etl.publications ("
            " asset text, partition text, rows bigint NOT NULL, content_hash text NOT NULL, made_from text NOT NULL,"
            " run_id text NOT NULL, loaded_at timestamptz NOT NULL, PRIMARY KEY (asset, partition))"
        )

    def _create_database(self) -> None:
        parts = conninfo_to_dict(self.url)
        name = str(parts["dbname"])
        statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        try:
            with psycopg.connect(make_conninfo(self.url, dbname="postgres"), autocommit=True) as connection:
                connection.execute(statement)
        except psycopg.errors.DuplicateDatabase:
            pass  # another run was faster
        except psycopg.Error as error:
            raise WarehouseError(
                f"The database {name!r} does not exist and the role {parts.get('user')!r} cannot create it ({error}). "
                f'Have an administrator run: CREATE DATABASE "{name}"; then in it: CREATE EXTENSION postgis;'
            ) from error

    def _unreachable(self, error: psycopg.Error) -> WarehouseError:
        parts = conninfo_to_dict(self.url)
        where = f"{parts.get('host', 'localhost')}:{parts.get('port', 5432)}/{parts.get('dbname')}"
        return WarehouseError(
            f"The warehouse at {where} cannot be reached: {str(error).strip()}. "
            "For the embedded one run `./dev up`; for your own check ETL_WAREHOUSE_URL."
        )

    # -- bookkeeping ---------------------------------------------------------------------------------------------

    def facts(self, asset: str, partitions: Sequence[str] | None = None) -> dict[str, Facts]:
        """The bookkeeping of an asset's published partitions (default: all)."""
        query = (
            "SELECT partition, rows, content_hash, made_from, run_id, loaded_at FROM etl.publications"
            " WHERE asset = %s AND (%s::text[] IS NULL OR partition = ANY(%s))"
        )
        try:
            with self.connect() as connection:
                keys = None if partitions is None else list(partitions)
                rows = connection.execute(query, (asset, keys, keys)).fetchall()
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
            return {}
        except psycopg.OperationalError as error:
            if "does not exist" in str(error):
                return {}
            raise self._unreachable(error) from error
        return {
            key: Facts(key, count, digest, made_from, run_id, loaded_at.isoformat())
            for key, count, digest, made_from, run_id, loaded_at in rows
        }

    # -- tables --------------------------------------------------------------------------------------------------

    def replace(self, replacements: Mapping[Table, Sequence[Replacement]]) -> None:
        """Replace partitions of tables, and their bookkeeping, in one transaction: all of it or nothing."""
        self.prepare()
        loaded: list[Table] = []
        with self.connect() as connection:
            for table, items in sorted(replacements.items(), key=lambda item: item[0].full_name):
                # One writer a table: two runs of one partition would both delete and both insert.
                connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (table.full_name,))
                parts = [item.part for item in items if item.part is not None]
                if parts:
                    self._ensure(connection, table)
                    if self._replace(connection, table, parts) >= BULK_ROWS:
                        loaded.append(table)
                self._record(connection, table, [item.facts for item in items])
        if loaded:
            with psycopg.connect(self.url, autocommit=True) as connection:
                for table in loaded:
                    connection.execute(sql.SQL("ANALYZE {}").format(_identifier(table)))

    def drop(self, table: Table) -> None:
        """Drop a table and its bookkeeping."""
        self.prepare()
        with self.connect() as connection:
            connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(_identifier(table)))
            connection.execute("DELETE FROM etl.publications WHERE asset = %s", (table.full_name,))

    def _replace(self, connection: psycopg.Connection, table: Table, parts: Sequence[Part]) -> int:
        target = _identifier(table)
        rows = sum(part.frame.height for part in parts)
        if not connection.execute(sql.SQL("SELECT 1 FROM {} LIMIT 1").format(target)).fetchone():
            with _indexed_afterwards(connection, target, rows):
                self._copy(connection, table, parts)
            return rows
        partitioning = table.partitioning
        if partitioning is None:
            connection.execute(sql.SQL("DELETE FROM {}").format(target))
        elif partitioning.every == "value":
            connection.execute(
                sql.SQL("DELETE FROM {} WHERE {} = ANY(%s)").format(target, sql.Identifier(partitioning.column)),
                ([part.key for part in parts],),
            )
        else:
            windows = [partitioning.window(part.key) for part in parts]
            connection.execute(
                sql.SQL(
                    "DELETE FROM {0} USING unnest(%s::date[], %s::date[]) AS w(first, after)"
                    " WHERE {0}.{1} >= w.first AND {0}.{1} < w.after"
                ).format(target, sql.Identifier(partitioning.column)),
                ([first for first, _ in windows], [after for _, after in windows]),
            )
        self._copy(connection, table, parts)
        return rows

    def _copy(self, connection: psycopg.Connection, table: Table, parts: Sequence[Part]) -> None:
        types = {column.name: column.sql for column in table.stored_columns()}
        with connection.cursor() as cursor:
            for arrow in _batches(parts):
                copy_table(cursor, _identifier(table), arrow, types)

    def _record(self, connection: psycopg.Connection, table: Table, facts: Sequence[Facts]) -> None:
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO etl.publications VALUES (%s, %s, %s, %s, %s, %s, %s)"
                " ON CONFLICT (asset, partition) DO UPDATE SET rows = excluded.rows,"
                " content_hash = excluded.content_hash, made_from = excluded.made_from,"
                " run_id = excluded.run_id, loaded_at = excluded.loaded_at",
                [
                    (table.full_name, f.partition, f.rows, f.content_hash, f.made_from, f.run_id, f.loaded_at)
                    for f in facts
                ],
            )

    def _ensure(self, connection: psycopg.Connection, table: Table) -> None:
        """Make the table, or widen it to the declared columns; a changed type is an error."""
        found: dict[str, str] = dict(
            connection.execute(
                "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
                " WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
                (_identifier(table).as_string(connection),),
            ).fetchall()
        )
        columns = table.stored_columns()
        if not found:
            self._create(connection, table)
            return
        changed = [(c, found[c.name]) for c in columns if c.name in found and found[c.name] != c.sql]
        if changed:
            details = "; ".join(f"{c.name} is {old} in the table, {c.sql} in the contract" for c, old in changed)
            raise TypeChangedError(
                f"{table.full_name}: {details}. Nothing was written. If the contract is right, drop the table and run "
                f"`./dev rebuild-warehouse`, or alter the column by hand."
            )
        for column in columns:
            if column.name not in found:  # nullable, since the rows that are there have no value yet
                connection.execute(
                    sql.SQL("ALTER TABLE {} ADD COLUMN {} {}").format(
                        _identifier(table), sql.Identifier(column.name), sql.SQL(column.sql)
                    )
                )
                _comment(connection, table, column)
                log.info("%s: added the column %s (%s)", table.full_name, column.name, column.sql)

    def _create(self, connection: psycopg.Connection, table: Table) -> None:
        target = _identifier(table)
        definitions = [
            sql.SQL("{} {}{}").format(
                sql.Identifier(c.name), sql.SQL(c.sql), sql.SQL("" if c.nullable else " NOT NULL")
            )
            for c in table.stored_columns()
        ]
        if table.primary_key:
            keys = sql.SQL(", ").join(map(sql.Identifier, table.primary_key))
            definitions.append(sql.SQL("PRIMARY KEY ({})").format(keys))
        connection.execute(sql.SQL("CREATE TABLE {} ({})").format(target, sql.SQL(", ").join(definitions)))
        indexed = [(c.name, "gist") for c in table.columns if c.geometry]
        if table.partitioning and table.primary_key[:1] != (table.partitioning.column,):
            indexed.append((table.partitioning.column, "btree"))
        for name, method in indexed:
            connection.execute(
                sql.SQL("CREATE INDEX ON {} USING {} ({})").format(target, sql.SQL(method), sql.Identifier(name))
            )
        connection.execute(
            sql.SQL("COMMENT ON TABLE {} IS {}").format(target, sql.Literal(table.description or table.full_name))
        )
        for column in table.stored_columns():
            _comment(connection, table, column)


@contextmanager
def _indexed_afterwards(connection: psycopg.Connection, target: sql.Composable, rows: int) -> Iterator[None]:
    """Drop an empty table's indexes, and make them anew when it has been filled (if `rows` make it worth while)."""
    if rows < BULK_ROWS:
        yield
        return
    found = connection.execute(
        "SELECT i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid), c.conname, pg_get_constraintdef(c.oid)"
        " FROM pg_index i LEFT JOIN pg_constraint c ON c.conindid = i.indexrelid AND c.contype IN ('p', 'u')"
        " WHERE i.indrelid = to_regclass(%s)",
        (target.as_string(connection),),
    ).fetchall()
    for index, _, constraint, _ in found:
        if constraint:
            drop = sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(target, sql.Identifier(constraint))
        else:
            drop = sql.SQL("DROP INDEX {}").format(sql.SQL(index))  # regclass has quoted it
        connection.execute(drop)
    yield
    for _, definition, constraint, text in found:
        if constraint:
            add = sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {}")
            connection.execute(add.format(target, sql.Identifier(constraint), sql.SQL(text)))
        else:
            connection.execute(sql.SQL(definition))


def _batches(parts: Sequence[Part]) -> Iterator[pa.Table]:
    """The parts' frames as Arrow tables, small ones together: COPY has a fixed cost a call."""
    batch: list[pl.DataFrame] = []
    rows = 0
    for part in parts:
        batch.append(part.frame)
        rows += part.frame.height
        if rows >= 200_000:
            yield pl.concat(batch, how="diagonal_relaxed").to_arrow()
            batch, rows = [], 0
    if rows:
        yield pl.concat(batch, how="diagonal_relaxed").to_arrow()


def _identifier(table: Table) -> sql.Identifier:
    return sql.Identifier(table.stage, table.name)


def _comment(connection: psycopg.Connection, table: Table, column: Column) -> None:
    connection.execute(
        sql.SQL("COMMENT ON COLUMN {}.{} IS {}").format(
            _identifier(table), sql.Identifier(column.name), sql.Literal(column.description or None)
        )
    )
