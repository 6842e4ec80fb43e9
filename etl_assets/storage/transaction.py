"""Work on the warehouse's tables within one transaction: partitions replaced together with their bookkeeping.

Here: making, widening and filling tables from their declaration, `etl.publications`, which says what they hold, and
`etl.changes`, which says what publishing them changed.
Not here: connections, locks and what a database needs before it can hold tables; that is the warehouse's.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import LiteralString

import polars as pl
import psycopg
import pyarrow as pa
from psycopg import sql
from psycopg.types.json import Jsonb

from etl_assets.storage.changes import Changes
from etl_assets.storage.copy import copy_table
from etl_assets.storage.table import Column, Facts, Reference, Table

log = logging.getLogger(__name__)

#: From this many rows on, an empty table is loaded first and indexed afterwards (about twice as fast).
BULK_ROWS = 50_000


class WarehouseError(RuntimeError):
    """The warehouse could not do what was asked; the message says what, where and what to do."""


class TypeChangedError(WarehouseError):
    """A column's declared type, or the declared primary key, is not the one that the table has."""


@dataclass(frozen=True)
class Replacement:
    """Rows that replace a partition, in their stored shape, with the bookkeeping that goes with them.

    Without a `frame`, the rows stay as they are and only the bookkeeping is renewed.
    """

    facts: Facts
    frame: pl.DataFrame | None


@dataclass(frozen=True)
class Transaction:
    """Work on tables that are locked against other publishers; see `Warehouse.writing`."""

    connection: psycopg.Connection

    def facts(self, table: Table, partitions: Sequence[str] | None = None) -> dict[str, Facts]:
        """The bookkeeping of a table's published partitions (default: all)."""
        return bookkeeping(self.connection, [table.full_name], partitions).get(table.full_name, {})

    def record(self, table: Table, changes: Mapping[str, Changes], run_id: str, at: dt.datetime) -> None:
        """Write down what publishing partitions anew changed for readers."""
        with self.connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO etl.changes VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
                [
                    (table.full_name, key, run_id, at, c.added, c.gone, c.changed, Jsonb(c.columns), Jsonb(c.largest))
                    for key, c in changes.items()
                ],
            )

    def check(self, table: Table) -> None:
        """Raise TypeChangedError if the table cannot take the rows of its declaration."""
        found = self._columns(table)
        details = [
            f"{c.name} is {found[c.name][0]} in the table, {c.sql} in the contract"
            for c in table.stored_columns()
            if c.name in found and found[c.name][0] != c.sql
        ]
        if found and (key := self._primary_key(table)) != table.primary_key:
            details.append(f"the primary key is {key} in the table, {table.primary_key} in the contract")
        if details:
            raise TypeChangedError(
                f"{table.full_name}: {'; '.join(details)}. Nothing was written. If the contract is right, run in the "
                f"warehouse: DROP TABLE {identifier(table).as_string(self.connection)}"
                f"{' CASCADE' if self._referring(table) else ''}; the next run makes it anew."
            )

    def replace(self, table: Table, items: Sequence[Replacement]) -> None:
        """Make or widen the table where needed, and replace partitions together with their bookkeeping."""
        self.check(table)
        self._ensure(table)
        self.refer(table)  # before the rows: a table whose rows still have to be checked cannot be altered
        frames = {item.facts.partition: item.frame for item in items if item.frame is not None}
        if frames and self._replace(table, frames) >= BULK_ROWS:
            self.connection.execute(_analyze(table))  # meanwhile the lake's objects are made
        self._record(table, [item.facts for item in items])

    def refer(self, table: Table) -> None:
        """Give a table its declared foreign keys, if the tables they refer to are there; drop all others.

        They are checked at the commit: until then, rows that are referred to may be replaced by others with their key.
        """
        if not self._exists(identifier(table)):
            return
        found = self.connection.execute(
            "SELECT conname, own.attname, nspname, relname, other.attname FROM pg_constraint"
            " JOIN pg_class c ON c.oid = confrelid JOIN pg_namespace n ON n.oid = relnamespace"
            " JOIN pg_attribute own ON own.attrelid = conrelid AND own.attnum = conkey[1]"
            " JOIN pg_attribute other ON other.attrelid = confrelid AND other.attnum = confkey[1]"
            " WHERE conrelid = to_regclass(%s) AND contype = 'f'",
            (identifier(table).as_string(self.connection),),
        ).fetchall()
        there = {(name, Reference(*of)): constraint for constraint, name, *of in found}
        declared = [(column.name, column.references) for column in table.columns if column.references]
        for key in there.keys() - set(declared):
            self._alter(table, "DROP CONSTRAINT {}", sql.Identifier(there[key]))
        for name, of in declared:
            if (name, of) in there or not self._exists(sql.Identifier(of.stage, of.table)):
                continue
            statement = sql.SQL("ALTER TABLE {} ADD FOREIGN KEY ({}) REFERENCES {} ({}) DEFERRABLE INITIALLY DEFERRED")
            names = identifier(table), sql.Identifier(name), sql.Identifier(of.stage, of.table)
            self.connection.execute(statement.format(*names, sql.Identifier(of.column)))

    def _exists(self, table: sql.Identifier) -> bool:
        found = self.connection.execute("SELECT to_regclass(%s)", (table.as_string(self.connection),)).fetchone()
        return found is not None and found[0] is not None

    def drop(self, table: Table) -> None:
        """Drop a table, its bookkeeping and the foreign keys that refer to it: see `refer`.

        Raises WarehouseError, and leaves the table, if something else in the database depends on it.
        """
        for other, constraint in self._referring(table):
            self.connection.execute(sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(other, constraint))
        try:
            self.connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(identifier(table)))
        except psycopg.errors.DependentObjectsStillExist as error:
            raise WarehouseError(
                f"{table.full_name} cannot be dropped, because something of your own depends on it: "
                f"{error.diag.message_detail}. Drop that, run again, and create it again; the table stays as it was."
            ) from error
        self._forget(table)

    def _forget(self, table: Table) -> None:
        self.connection.execute("DELETE FROM etl.publications WHERE asset = %s", (table.full_name,))

    def _referring(self, table: Table) -> list[tuple[sql.Identifier, sql.Identifier]]:
        """The foreign keys that refer to a table, as (the table that has it, the constraint)."""
        found = self.connection.execute(
            "SELECT nspname, relname, conname FROM pg_constraint JOIN pg_class c ON c.oid = conrelid"
            " JOIN pg_namespace n ON n.oid = relnamespace WHERE contype = 'f' AND confrelid = to_regclass(%s)",
            (identifier(table).as_string(self.connection),),
        ).fetchall()
        return [(sql.Identifier(schema, name), sql.Identifier(constraint)) for schema, name, constraint in found]

    def judge(self, tables: Iterable[Table]) -> None:
        """Check the foreign keys that tables have, and those that refer to them, now instead of at the commit."""
        found = self.connection.execute(
            "SELECT nspname, conname FROM pg_constraint JOIN pg_namespace n ON n.oid = connamespace,"
            " unnest(%s::text[]) AS name WHERE contype = 'f' AND to_regclass(name) IN (conrelid, confrelid)",
            ([identifier(table).as_string(self.connection) for table in tables],),
        ).fetchall()
        if found:
            names = sql.SQL(", ").join(sql.Identifier(schema, name) for schema, name in found)
            self.connection.execute(sql.SQL("SET CONSTRAINTS {} IMMEDIATE").format(names))

    def _replace(self, table: Table, frames: Mapping[str, pl.DataFrame]) -> int:
        target = identifier(table)
        rows = sum(frame.height for frame in frames.values())
        if not self.connection.execute(sql.SQL("SELECT 1 FROM {} LIMIT 1").format(target)).fetchone():
            with _indexed_afterwards(self.connection, target, rows):
                self._copy(table, frames.values())
                if rows >= BULK_ROWS:  # a table whose rows still have to be checked cannot be altered
                    self.judge([table])
                    self.connection.execute("SET CONSTRAINTS ALL DEFERRED")
            return rows
        partitioning = table.partitioning
        if partitioning is None:
            self.connection.execute(sql.SQL("DELETE FROM {}").format(target))
        elif partitioning.every == "value":
            self.connection.execute(
                sql.SQL("DELETE FROM {} WHERE {} = ANY(%s)").format(target, sql.Identifier(partitioning.column)),
                (list(frames),),
            )
        else:
            windows = [partitioning.window(key) for key in frames]
            numbers: dict[str, LiteralString] = {"year_number": "integer[]", "block": "bigint[]"}
            kind = sql.SQL(numbers.get(partitioning.every, "date[]"))
            self.connection.execute(
                sql.SQL(
                    "DELETE FROM {0} USING unnest(%s::{2}, %s::{2}) AS w(first, last)"
                    " WHERE {0}.{1} >= w.first AND {0}.{1} < w.last + 1"
                ).format(target, sql.Identifier(partitioning.column), kind),
                ([first for first, _ in windows], [last for _, last in windows]),
            )
        self._copy(table, frames.values())
        return rows

    def _copy(self, table: Table, frames: Iterable[pl.DataFrame]) -> None:
        types = {column.name: column.sql for column in table.stored_columns()}
        with self.connection.cursor() as cursor:
            for arrow in _batches(frames):
                copy_table(cursor, identifier(table), arrow, {name: types[name] for name in arrow.column_names})

    def _record(self, table: Table, facts: Sequence[Facts]) -> None:
        with self.connection.cursor() as cursor:
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

    def _columns(self, table: Table) -> dict[str, tuple[str, bool]]:
        """Type of every column that the table has now, and whether it is NOT NULL; empty if there is no table."""
        rows = self.connection.execute(
            "SELECT attname, format_type(atttypid, atttypmod), attnotnull FROM pg_attribute"
            " WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
            (identifier(table).as_string(self.connection),),
        ).fetchall()
        return {name: (sql_type, not_null) for name, sql_type, not_null in rows}

    def _primary_key(self, table: Table) -> tuple[str, ...]:
        rows = self.connection.execute(
            "SELECT attname FROM pg_constraint, unnest(conkey) WITH ORDINALITY AS key (attnum, position)"
            " JOIN pg_attribute a USING (attnum)"
            " WHERE conrelid = to_regclass(%s) AND attrelid = conrelid AND contype = 'p' ORDER BY position",
            (identifier(table).as_string(self.connection),),
        ).fetchall()
        return tuple(name for (name,) in rows)

    def _ensure(self, table: Table) -> None:
        """Make the table, or let it take rows as now declared: with new columns, and without some of the old ones."""
        found = self._columns(table)
        if not found:
            self._create(table)
            return
        columns = {column.name: column for column in table.stored_columns()}
        for column in columns.values():
            if column.name not in found:  # nullable, since the rows that are there have no value yet
                self._alter(table, "ADD COLUMN {} {}", sql.Identifier(column.name), _type(column))
                log.info("%s: added the column %s (%s)", table.full_name, column.name, column.sql)
        for name, (_, not_null) in found.items():
            declared = columns.get(name)  # new rows have no value in one that is no longer declared
            if not_null and (declared is None or (declared.nullable and name not in table.primary_key)):
                self._alter(table, "ALTER COLUMN {} DROP NOT NULL", sql.Identifier(name))
        self._describe(table)

    def _alter(self, table: Table, action: LiteralString, *names: sql.Composable) -> None:
        self.connection.execute(sql.SQL("ALTER TABLE {} " + action).format(identifier(table), *names))

    def _create(self, table: Table) -> None:
        target = identifier(table)
        # Bookkeeping of a table that somebody has dropped would be taken for what is in the new one.
        self._forget(table)
        definitions = [
            sql.SQL("{} {}{}").format(sql.Identifier(c.name), _type(c), sql.SQL("" if c.nullable else " NOT NULL"))
            for c in table.stored_columns()
        ]
        if table.primary_key:
            keys = sql.SQL(", ").join(map(sql.Identifier, table.primary_key))
            definitions.append(sql.SQL("PRIMARY KEY ({})").format(keys))
        self.connection.execute(sql.SQL("CREATE TABLE {} ({})").format(target, sql.SQL(", ").join(definitions)))
        indexed: list[tuple[str, LiteralString]] = [(c.name, "gist") for c in table.columns if c.geometry]
        if table.partitioning and table.primary_key[:1] != (table.partitioning.column,):
            indexed.append((table.partitioning.column, "btree"))
        for name, method in indexed:
            self.connection.execute(
                sql.SQL("CREATE INDEX ON {} USING {} ({})").format(target, sql.SQL(method), sql.Identifier(name))
            )
        self._describe(table)

    def _describe(self, table: Table) -> None:
        """Set the comments of the table and its columns to those of the declaration, where they differ."""
        found = dict(
            self.connection.execute(
                "SELECT coalesce(attname, ''), description FROM pg_description"
                " LEFT JOIN pg_attribute ON attrelid = objoid AND attnum = objsubid AND attnum > 0"
                " WHERE objoid = to_regclass(%s) AND classoid = 'pg_class'::regclass",
                (identifier(table).as_string(self.connection),),
            ).fetchall()
        )
        description = table.description or table.full_name
        comments = [_comment(table, c) for c in table.stored_columns() if found.get(c.name) != (c.description or None)]
        if found.get("") != description:
            comments.append(sql.SQL("COMMENT ON TABLE {} IS {}").format(identifier(table), sql.Literal(description)))
        if comments:
            self.connection.execute(sql.SQL("; ").join(comments))  # a raw table has dozens


def bookkeeping(
    connection: psycopg.Connection, assets: Collection[str], partitions: Sequence[str] | None = None
) -> dict[str, dict[str, Facts]]:
    """The bookkeeping of assets' published partitions (None: all), by asset; those whose table is gone are left out."""
    keys = None if partitions is None else list(partitions)
    quoted = [sql.Identifier(*asset.split(".", 1)).as_string(connection) for asset in assets]
    rows = connection.execute(
        "SELECT asset, partition, rows, content_hash, made_from, run_id, loaded_at FROM etl.publications"
        " JOIN unnest(%s::text[], %s::text[]) AS wanted (name, quoted) ON asset = name"
        " WHERE to_regclass(quoted) IS NOT NULL"  # somebody may have dropped the table
        " AND (%s::text[] IS NULL OR partition = ANY(%s))",
        (list(assets), quoted, keys, keys),
    ).fetchall()
    found: dict[str, dict[str, Facts]] = {}
    for asset, key, count, digest, made_from, run_id, loaded_at in rows:
        found.setdefault(asset, {})[key] = Facts(key, count, digest, made_from, run_id, loaded_at.isoformat())
    return found


@contextmanager
def _indexed_afterwards(connection: psycopg.Connection, target: sql.Composable, rows: int) -> Generator[None]:
    """Drop an empty table's indexes, and make them anew when it has been filled (if `rows` make it worthwhile).

    A key that foreign keys refer to stays: they cannot exist without it.
    """
    if rows < BULK_ROWS:
        yield
        return
    found = connection.execute(
        "SELECT i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid), c.conname, pg_get_constraintdef(c.oid)"
        " FROM pg_index i LEFT JOIN pg_constraint c ON c.conindid = i.indexrelid AND c.contype IN ('p', 'u')"
        " WHERE i.indrelid = to_regclass(%s)"
        " AND NOT EXISTS (SELECT FROM pg_constraint f WHERE f.contype = 'f' AND f.conindid = i.indexrelid)",
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


def _batches(frames: Iterable[pl.DataFrame]) -> Iterator[pa.Table]:
    """Frames as Arrow tables, small ones together: COPY has a fixed cost per call.

    Columns without a value, of which raw tables have dozens, are left out: what COPY is not given becomes null.
    """
    batch: list[pl.DataFrame] = []
    rows = 0
    for frame in frames:
        batch.append(frame)
        rows += frame.height
        if rows >= 200_000:
            yield _filled(batch).to_arrow()
            batch, rows = [], 0
    if rows:
        yield _filled(batch).to_arrow()


def _filled(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    # In one piece: hundreds of small ones would each be sent separately.
    try:
        whole = pl.concat(frames, rechunk=True)
    except (pl.exceptions.SchemaError, pl.exceptions.ShapeError):  # raw tables follow their source
        whole = pl.concat(frames, how="diagonal_relaxed", rechunk=True)
    return whole.select([column.name for column in whole if column.null_count() < whole.height] or whole.columns)


def identifier(table: Table) -> sql.Identifier:
    """The name of a table, quoted."""
    return sql.Identifier(table.stage, table.name)


def _analyze(table: Table) -> sql.Composed:
    """The ANALYZE statement for a table: of a raw table's dozens of columns, only for the one that it is cut by."""
    columns = [table.partitioning.column] if table.stage == "raw" and table.partitioning else []
    names = [sql.SQL(" (") + sql.Identifier(name) + sql.SQL(")") for name in columns]
    return sql.SQL("ANALYZE {}{}").format(identifier(table), sql.SQL("").join(names))


def _type(column: Column) -> sql.SQL:
    return sql.SQL(column.sql)  # pyrefly: ignore[bad-argument-type] # it comes from a contract: no source gives types


def _comment(table: Table, column: Column) -> sql.Composed:
    return sql.SQL("COMMENT ON COLUMN {}.{} IS {}").format(
        identifier(table), sql.Identifier(column.name), sql.Literal(column.description or None)
    )
