"""How a source database is spoilt: a value, a row, a column or a table of it, the same for the same chance.

Here: changes of a copy of the database, whose constraints are gone. Not here: what may come of it (campaign.py).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import LiteralString

import psycopg
from psycopg import sql

from etl_assets_tests.fuzz.mutations import NAMES, text

#: Spoils a table of the database that the connection is with.
Spoil = Callable[[psycopg.Connection, str, random.Random], None]
_TYPES: tuple[LiteralString, ...] = (
    "text", "bytea", "jsonb", "text[]", "boolean", "real", "double precision", "numeric", "bigint", "date",
    "timestamp", "timestamptz", "time", "interval",
)  # fmt: skip
_LONGEST_NAME = 63


def way(chance: random.Random) -> tuple[str, Spoil]:
    """Some way to spoil a table: what it is called, and what does it."""
    chosen = chance.choice(_WAYS)
    return chosen.__name__.lstrip("_"), chosen


def unbind(connection: psycopg.Connection, table: str) -> None:
    """Take away what in the database would keep a table from being spoilt."""
    found = connection.execute(
        "SELECT conrelid::regclass::text, conname FROM pg_constraint WHERE connamespace = 'public'::regnamespace"
        " AND conrelid <> 0"
    )
    for name, constraint in found.fetchall():  # regclass has quoted the name
        drop = sql.SQL("ALTER TABLE {} DROP CONSTRAINT IF EXISTS {} CASCADE")
        connection.execute(drop.format(sql.SQL(name), sql.Identifier(constraint)))
    for column in _columns(connection, table):
        _run(connection, "ALTER TABLE {} ALTER {} DROP NOT NULL", table, column)


def _values(connection: psycopg.Connection, table: str, chance: random.Random) -> None:
    """Some rows get another value in a column; the column becomes text where it does not take it."""
    column, value = chance.choice(_columns(connection, table)), _storable(chance)
    change = sql.SQL("UPDATE {} SET {} = %s::text::{} WHERE ctid = ANY(%s)")
    rows = _some_rows(connection, table, chance)
    kind = _type(connection, table, column)
    names = sql.Identifier(table), sql.Identifier(column)
    try:
        with connection.transaction():
            connection.execute(change.format(*names, sql.SQL(kind)), (value, rows))
    except psycopg.Error:
        _run(connection, "ALTER TABLE {} ALTER {} TYPE text", table, column)
        connection.execute(change.format(*names, sql.SQL("text")), (value, _some_rows(connection, table, chance)))


def _nothing(connection: psycopg.Connection, table: str, chance: random.Random) -> None:
    column, rows = chance.choice(_columns(connection, table)), _some_rows(connection, table, chance)
    statement = sql.SQL("UPDATE {} SET {} = NULL WHERE ctid = ANY(%s)")
    connection.execute(statement.format(sql.Identifier(table), sql.Identifier(column)), (rows,))


def _rows_gone(connection: psycopg.Connection, table: str, chance: random.Random) -> None:
    rows = _some_rows(connection, table, chance)
    connection.execute(sql.SQL("DELETE FROM {} WHERE ctid = ANY(%s)").format(sql.Identifier(table)), (rows,))


def _rows_twice(connection: psycopg.Connection, table: str, chance: random.Random) -> None:
    rows = _some_rows(connection, table, chance)
    statement = sql.SQL("INSERT INTO {0} SELECT * FROM {0} WHERE ctid = ANY(%s)").format(sql.Identifier(table))
    connection.execute(statement, (rows,))


def _column_gone(connection: psycopg.Connection, table: str, chance: random.Random) -> None:
    _run(connection, "ALTER TABLE {} DROP {} CASCADE", table, chance.choice(_columns(connection, table)))


def _column_renamed(connection: psycopg.Connection, table: str, chance: random.Random) -> None:
    column = chance.choice(_columns(connection, table))
    name = _new_name(connection, table, (*NAMES, column.upper(), column + " "), chance)
    _run(connection, "ALTER TABLE {} RENAME {} TO {}", table, column, name)


def _column_more(connection: psycopg.Connection, table: str, chance: random.Random) -> None:
    name = _new_name(connection, table, NAMES, chance)
    statement = sql.SQL("ALTER TABLE {} ADD {} text DEFAULT {}")
    connection.execute(statement.format(sql.Identifier(table), sql.Identifier(name), sql.Literal(_storable(chance))))


def _column_typed(connection: psycopg.Connection, table: str, chance: random.Random) -> None:
    """A column gets another type, with nothing in it where its values do not fit."""
    column, kind = chance.choice(_columns(connection, table)), sql.SQL(chance.choice(_TYPES))
    names = sql.Identifier(table), sql.Identifier(column), kind
    for using in (sql.SQL("{}::text::{}").format(sql.Identifier(column), kind), sql.SQL("NULL")):
        try:
            with connection.transaction():
                statement = sql.SQL("ALTER TABLE {} ALTER {} DROP DEFAULT, ALTER {} TYPE {} USING {}")
                connection.execute(statement.format(names[0], names[1], names[1], kind, using))
        except psycopg.Error:
            continue
        return


def _table_gone(connection: psycopg.Connection, table: str, chance: random.Random) -> None:
    statements: tuple[LiteralString, ...] = (
        "DROP TABLE {} CASCADE", "TRUNCATE {}", "REVOKE ALL ON {} FROM PUBLIC, etl_source_reader",
        "ALTER TABLE {} RENAME TO elsewhere",
    )  # fmt: skip
    connection.execute(sql.SQL(chance.choice(statements)).format(sql.Identifier(table)))


_WAYS: Sequence[Spoil] = (
    *(_values,) * 8, _nothing, _nothing, _rows_gone, _rows_twice, _column_gone, _column_renamed, _column_more,
    _column_typed, _column_typed, _table_gone,
)  # fmt: skip


def _storable(chance: random.Random) -> str:
    """Some value that PostgreSQL can hold as text: without NUL and half of a surrogate pair."""
    return text(chance).replace("\0", "\u2400").encode(errors="replace").decode()


def _new_name(connection: psycopg.Connection, table: str, names: Sequence[str], chance: random.Random) -> str:
    taken = {"", "ctid", "xmin", "tableoid", *_columns(connection, table)}
    cut = {name.encode()[:_LONGEST_NAME].decode(errors="ignore") for name in names}
    return chance.choice(sorted(cut - taken))


def _some_rows(connection: psycopg.Connection, table: str, chance: random.Random) -> list[str]:
    """Where some rows are: one, a few or all."""
    query = sql.SQL("SELECT ctid::text FROM {} ORDER BY ctid").format(sql.Identifier(table))
    rows = [place for (place,) in connection.execute(query).fetchall()]
    return chance.sample(rows, min(len(rows), chance.choice((1, 1, 1, 5, 30, len(rows)))))


def _columns(connection: psycopg.Connection, table: str) -> list[str]:
    query = "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped"
    place = sql.Identifier(table).as_string()
    return [name for (name,) in connection.execute(f"{query} ORDER BY attnum", (place,)).fetchall()]


def _type(connection: psycopg.Connection, table: str, column: str) -> LiteralString:
    query = "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = %s::regclass AND attname = %s"
    found = connection.execute(query, (sql.Identifier(table).as_string(), column)).fetchone()
    assert found
    return found[0]  # the server's own spelling of a type


def _run(connection: psycopg.Connection, statement: LiteralString, *names: str) -> None:
    connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))
