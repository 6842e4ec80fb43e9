"""Connections to the PostgreSQL databases that are sources, with errors that tell a person what to do.

Not here: what is read of them, batch by batch (database.py) or as a whole (whole_table.py).
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import psycopg

from etl_assets.settings import connect_timeout, database_parts, settings
from etl_assets.sources import SourceRefusedError, SourceUnavailableError


@contextmanager
def connected(source: str) -> Generator[psycopg.Connection]:
    """A connection to the database that ETL_<SOURCE>_URL names; PostgreSQL's errors in its block become SourceErrors.

    Messages hold no password.
    """
    url = settings().database_url(source)
    variable = f"ETL_{source.upper()}_URL"
    parts = database_parts(url)
    if parts is None:  # not quoted: any part of the address may be the password
        raise SourceRefusedError(
            f"{variable} is not a PostgreSQL address (postgresql://user:password@host:port/database, with "
            "characters such as @, / and % in user or password percent-encoded). Nothing was landed."
        )
    where = f"{source} ({parts.get('host')}:{parts.get('port') or 5432}/{parts.get('dbname')})"
    try:
        with psycopg.connect(
            url,
            application_name="etl_assets",
            connect_timeout=connect_timeout(url),
            client_encoding="utf8",  # whatever the database's own encoding is
            prepare_threshold=None,  # a pooler may give the next statement to another connection
        ) as connection:
            connection.execute("SET TIME ZONE 'UTC'; SET datestyle TO 'ISO'")  # proxies refuse it in `options`
            connection.commit()
            yield connection
    except psycopg.errors.InsufficientPrivilege as error:
        raise SourceRefusedError(
            f"The database {where} does not let the role {parts.get('user')} read: {_said(error)}. Have its owner "
            f"run: GRANT SELECT ON ALL TABLES IN SCHEMA public TO {parts.get('user')}; nothing was landed."
        ) from error
    except psycopg.OperationalError as error:
        raise SourceUnavailableError(
            f"The database {where} cannot be read: {_said(error)}. Nothing was landed, and the next run reads what "
            f"this one would have read; check that the server is running and that {variable} is right."
        ) from error
    except psycopg.Error as error:
        raise SourceRefusedError(f"The database {where} refused: {_said(error)}. Nothing was landed.") from error


def begin_snapshot(connection: psycopg.Connection) -> None:
    """Make everything that is read from now on come from one snapshot."""
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    connection.read_only = True


def address(connection: psycopg.Connection) -> str:
    """The address of a database, without user and password."""
    return f"postgresql://{connection.info.host}:{connection.info.port}/{connection.info.dbname}"


def _said(error: psycopg.Error) -> str:
    """What the server said, in one line."""
    return " ".join(str(error).split())
