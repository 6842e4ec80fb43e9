"""The databases that stand in for source databases, in the embedded cluster beside the warehouse.

Here: a database is made from its declaration (`ddl/<source>.sql`), and brought to the state of a recording by the
INSERTs, UPDATEs and DELETEs that its application would have done, so that its own statistics and indexes are those of
a database in use. Not here: which recording is shown (recordings.py), and reading them (etl_assets.sources).

A recording is one file per table, `<source>/<publication date>/<table>.parquet`, `.jsonl` or `.csv`, the latter two
packed (`.gz`) or not. A table without a file is empty.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import re
from pathlib import Path
from urllib.parse import urlsplit

import polars as pl
import psycopg
from psycopg import sql

from etl_assets.local.postgres import Cluster
from etl_assets.local.recordings import Recording, Recordings

#: The role that the pipeline connects as: it may read the source databases, and nothing else.
READER = "etl_source_reader"
_DDL = Path(__file__).parent / "ddl"
#: The sources that are databases; each has its declaration.
DATABASES = tuple(sorted(path.stem for path in _DDL.glob("*.sql")))
_DECLARED = re.compile(r"^CREATE TABLE (\w+)", re.MULTILINE)
_SUFFIXES = (".parquet", ".jsonl", ".csv")


def show(cluster: Cluster, source: str, recordings: Recordings, *, database: str | None = None) -> str:
    """Bring a source's database (default name: the source's) to the state of a recording; return its URL.

    The URL is the reader's. A missing database is created. If its declaration or recording is not the one of the last
    call, it is changed in one transaction; else nothing is done. Raises ValueError for a recording that does not fit.
    """
    name = database or source
    owner = cluster.create_database(name, template="template0")
    ddl = (_DDL / f"{source}.sql").read_text()
    with psycopg.connect(owner) as connection:
        # When two do this at once, the second finds it done.
        connection.execute("SELECT pg_advisory_xact_lock(hashtext('etl_assets.databases'))")
        declared = hashlib.sha256(ddl.encode()).hexdigest()
        # Only the declared tables, each after those that it refers to: others are somebody's own, and stay until the
        # declaration changes.
        files = {table: _find(recordings, source, table) for table in _DECLARED.findall(ddl)}
        if _state(connection) != [declared, _stamp(files)]:
            if _state(connection)[:1] != [declared]:
                connection.execute("DROP SCHEMA public CASCADE")
                connection.execute("CREATE SCHEMA public")
                connection.execute(ddl.encode())
            _load(connection, {table: file for table, file in files.items() if _is_there(connection, table)})
            _let_read(connection, name, _password(owner))
            _set_state(connection, name, f"{declared} {_stamp(files)}")
            # The counters of written rows are flushed at once: they tell a reader that there is something new.
            connection.execute("SELECT pg_stat_force_next_flush()")
    parts = urlsplit(owner)
    return parts._replace(netloc=f"{READER}:{_password(owner)}@{parts.hostname}:{parts.port}").geturl()


def _find(recordings: Recordings, source: str, table: str) -> Recording | None:
    if source not in recordings.shown():
        return None
    found = (recordings.find(source, f"{table}{suffix}") for suffix in _SUFFIXES)
    return next((recording for recording in found if recording), None)


def _stamp(files: dict[str, Recording | None]) -> str:
    """A digest of which recording is shown: the same for the same files."""
    lines = []
    for table, file in files.items():
        stat = file.path.stat() if file else None
        lines.append(f"{table} {file.path.resolve()} {stat.st_size} {stat.st_mtime_ns}" if file and stat else table)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _state(connection: psycopg.Connection) -> list[str]:
    """The state that the database was last brought to: the digests of its declaration and of the recording."""
    query = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = current_database()"
    found = connection.execute(query).fetchone()
    return str(found[0] or "").split() if found else []


def _set_state(connection: psycopg.Connection, name: str, text: str) -> None:
    statement = sql.SQL("COMMENT ON DATABASE {} IS {}")
    connection.execute(statement.format(sql.Identifier(name), sql.Literal(text)))


def _load(connection: psycopg.Connection, files: dict[str, Recording | None]) -> None:
    """Make every table hold what its file does: rows are inserted, changed where they differ, and deleted."""
    for table, file in files.items():
        columns = _columns(connection, table)
        key = _key(connection, table)
        incoming = sql.Identifier(f"incoming_{table}")
        # It has the columns' own types, including domains and exact numbers: PostgreSQL reads the file's text as these.
        connection.execute(
            sql.SQL("CREATE TEMPORARY TABLE {} (LIKE {}) ON COMMIT DROP").format(incoming, sql.Identifier(table))
        )
        if file:
            frame = _read(file, table, columns)
            copy = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT csv)")
            listed = sql.SQL(", ").join(map(sql.Identifier, frame.columns))
            with connection.cursor().copy(copy.format(incoming, listed)) as sink:
                sink.write(frame.write_csv(include_header=False, quote_style="non_numeric", null_value="").encode())
        names = {
            "table": sql.Identifier(table),
            "incoming": incoming,
            "columns": sql.SQL(", ").join(map(sql.Identifier, columns)),
            "values": sql.SQL(", ").join(sql.SQL("i.{}").format(sql.Identifier(column)) for column in columns),
            "old": sql.SQL(", ").join(sql.SQL("t.{}").format(sql.Identifier(column)) for column in columns),
            "same": sql.SQL("t.{0} = i.{0}").format(sql.Identifier(key)),
        }
        for statement in (
            sql.SQL("UPDATE {table} t SET ({columns}) = ROW ({values}) FROM {incoming} i"
                    " WHERE {same} AND ({old}) IS DISTINCT FROM ({values})"),
            sql.SQL("INSERT INTO {table} ({columns}) SELECT {values} FROM {incoming} i"
                    " WHERE NOT EXISTS (SELECT FROM {table} t WHERE {same})"),
        ):  # fmt: skip
            connection.execute(statement.format(**names))
    for table in reversed(files):
        key = _key(connection, table)
        connection.execute(
            sql.SQL("DELETE FROM {} t WHERE NOT EXISTS (SELECT FROM {} i WHERE i.{} = t.{})").format(
                *map(sql.Identifier, (table, f"incoming_{table}", key, key))
            )
        )


def _is_there(connection: psycopg.Connection, table: str) -> bool:
    return connection.execute("SELECT to_regclass(%s)", (f"public.{table}",)).fetchone() != (None,)


def _columns(connection: psycopg.Connection, table: str) -> dict[str, str]:
    """The columns of a table with their types."""
    query = (
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    )
    return dict(connection.execute(query, (sql.Identifier(table).as_string(),)).fetchall())


def _key(connection: psycopg.Connection, table: str) -> str:
    """The one column of a table's primary key."""
    query = (
        "SELECT attname FROM pg_constraint JOIN pg_attribute ON attrelid = conrelid AND attnum = conkey[1]"
        " WHERE conrelid = %s::regclass AND contype = 'p'"
    )
    found = connection.execute(query, (sql.Identifier(table).as_string(),)).fetchone()
    assert found, f"ddl: the table {table} has no primary key"
    return str(found[0])


def _read(file: Recording, table: str, columns: dict[str, str]) -> pl.DataFrame:
    """A file's records as text, in the table's columns, whatever the case of their names."""
    content = io.BytesIO(file.read())
    name = file.path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        frame = pl.read_parquet(content)
    elif name.endswith(".jsonl"):
        frame = pl.read_ndjson(content, infer_schema_length=None)
    else:
        frame = pl.read_csv(content, infer_schema=False)
    frame = frame.rename(str.lower)
    if unknown := [column for column in frame.columns if column not in columns]:
        raise ValueError(f"{file.path}: the table {table} has no columns {unknown}; it has {list(columns)}")
    whole = [
        pl.col(c).cast(pl.Int64).alias(c)  # a whole number with gaps is recorded as a float: 2.0
        for c, dtype in frame.schema.items()
        if dtype.is_float() and columns[c] in ("smallint", "integer", "bigint")
    ]
    return frame.with_columns(whole).with_columns(pl.all().cast(pl.String))


def _let_read(connection: psycopg.Connection, database: str, password: str) -> None:
    """Let the reader read everything that there is now."""
    role = sql.Identifier(READER)
    if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (READER,)).fetchone() is None:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, sql.Literal(password)))
        connection.execute(sql.SQL("ALTER ROLE {} SET default_transaction_read_only = on").format(role))
    connection.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(sql.Identifier(database), role))
    connection.execute(sql.SQL("GRANT USAGE ON SCHEMA public TO {}").format(role))
    connection.execute(sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {}").format(role))


def _password(owner: str) -> str:
    """The reader's password: it is derived from the owner's, so that it need not be kept anywhere."""
    return hmac.new((urlsplit(owner).password or "").encode(), READER.encode(), "sha256").hexdigest()
