"""Connections to PostgreSQL that outlive the block that uses them, while somebody wants them kept.

A new one costs the server a process, and each process looks up in the catalogs what it has not seen before: of a run
of one day that was a tenth of the time. Processes that wait for work (the UI's) keep none: who has a connection with a
database keeps others from dropping it.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager

import psycopg
from psycopg.pq import TransactionStatus

from etl_assets.settings import connect_timeout

#: Of the process, whatever the address: a run works on one database, with two connections at a time at the most.
_KEPT = 4
_idle: list[tuple[int, str, psycopg.Connection]] = []
_keepers: list[object] = []


@contextmanager
def kept() -> Generator[None]:
    """Keep connections while the block runs; when no such block is left, they are closed."""
    keeper = object()
    _keepers.append(keeper)
    try:
        yield
    finally:
        _keepers.remove(keeper)
        if not _keepers:
            _close_all_but(0)


def take(url: str) -> psycopg.Connection:
    """Borrow a connection in autocommit, to be returned with `give_back`; raises psycopg.OperationalError for none."""
    for entry in reversed(_idle.copy()):
        process, address, connection = entry
        if (process, address) != (os.getpid(), url):  # a process that was forked leaves its parent's alone
            continue
        try:
            _idle.remove(entry)
            connection.execute("SELECT")  # the server may have ended it, or have been started anew
        except ValueError:
            continue  # another thread was faster
        except psycopg.OperationalError:
            connection.close()
        else:
            return connection
    # Without prepared statements: tables are dropped and widened between two uses of a connection.
    connection = psycopg.connect(
        url,
        autocommit=True,
        prepare_threshold=None,
        application_name="etl_assets",
        connect_timeout=connect_timeout(url),
    )
    connection.execute("SET TIME ZONE 'UTC'")  # not in `options`, which proxies such as RDS Proxy do not take
    return connection


def give_back(url: str, connection: psycopg.Connection) -> None:
    """Keep a connection for the next one who takes one of its address, or close it; it is not to be used any more."""
    if connection.info.transaction_status != TransactionStatus.IDLE:
        connection.close()
        return
    _idle.append((os.getpid(), url, connection))
    _close_all_but(_KEPT if _keepers else 0)  # asked last: another thread's may have been the last keeper


def _close_all_but(number: int) -> None:
    """Close the kept connections but for the last so many."""
    for entry in _idle[: max(0, len(_idle) - number)]:
        try:
            _idle.remove(entry)
        except ValueError:
            continue  # another thread was faster
        if entry[0] == os.getpid():
            entry[2].close()
