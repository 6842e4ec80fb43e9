"""Stopping a writer at a chosen moment, from outside: PostgreSQL lets it wait for a lock that the test holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, suppress

import psycopg

Waiter = Callable[..., None]
_KEY = 20170101
_SECONDS = 60
_BOOKKEEPING = "etl.publications"


def held_at_insert(url: str, table: str, condition: str) -> AbstractContextManager[Waiter]:
    """Whoever inserts a row that meets `condition` (of `NEW`) waits there, until the block ends.

    Gives a function that returns once somebody waits.
    """
    return _held(url, table, f"BEFORE INSERT ON {table} FOR EACH ROW WHEN ({condition})")


def held_at_commit(url: str, condition: str) -> AbstractContextManager[Waiter]:
    """Whoever is about to commit a publication whose bookkeeping meets `condition` waits, until the block ends."""
    when = f"AFTER INSERT OR UPDATE ON {_BOOKKEEPING} DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN ({condition})"
    return _held(url, _BOOKKEEPING, when, kind="CONSTRAINT TRIGGER")


@contextmanager
def held_at_table(url: str, table: str) -> Generator[Waiter]:
    """Whoever wants to publish a table waits until the block ends; gives what returns once somebody does."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(hashtext(%s))", (table,))
        yield lambda *args: _until_waiting(connection, *args)


@contextmanager
def _held(url: str, table: str, when: str, kind: str = "TRIGGER") -> Generator[Waiter]:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (_KEY,))
        _run(
            connection,
            "CREATE OR REPLACE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS"
            f" $$ BEGIN PERFORM pg_advisory_xact_lock_shared({_KEY}); RETURN NEW; END $$",
        )
        _run(connection, f"CREATE {kind} hold {when} EXECUTE FUNCTION hold()")
        try:
            yield lambda *args: _until_waiting(connection, *args)
        finally:
            with suppress(psycopg.OperationalError):  # where the test has stopped the server
                connection.execute("SELECT pg_advisory_unlock(%s)", (_KEY,))
                _run(connection, f"DROP TRIGGER hold ON {table}")


def _run(connection: psycopg.Connection, statement: str) -> None:
    connection.execute(statement.encode())


def _until_waiting(
    connection: psycopg.Connection, sessions: int = 1, is_going_on: Callable[[], bool] = lambda: True
) -> None:
    """Return when so many sessions wait for the test; fail when what should wait has ended."""
    deadline = time.monotonic() + _SECONDS
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'"
    while connection.execute(query).fetchall() < [(sessions,)]:
        assert is_going_on(), "it ended without ever coming to where it was to be held"
        assert time.monotonic() < deadline, f"nobody came to wait within {_SECONDS} s"
        time.sleep(0.02)
