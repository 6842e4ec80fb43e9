"""Connections to PostgreSQL that outlive the block that uses them, while somebody wants them kept.

A new one costs the server a process, and each process looks up in the catalogs what it has not seen before: that was a
tenth of the time of a run for one day. Processes that wait for work (the UI's) keep none: an open connection keeps
others from dropping the database.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager

import psycopg
from psycopg.pq import TransactionStatus

from etl_assets.settings import connect_timeout

#: Per process, whatever their address: a run works on one database, with at most two connections at a time.
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


def borrow(url: str) -> psycopg.Connection:
    """Borrow an autocommit connection, to be returned with `give_back`; raises psycopg.OperationalError if it fails."""
    for entry in reversed(_idle.copy()):
        process, address, connection = entry
        if (process, address) != (os.getpid(), url):  # a forked process leaves its parent's connections alone
            continue
        try:
            _idle.remove(entry)
            connection.execute("SELECT")  # the server may have closed it, or have been restarted
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
    connection.execute("SET TIME ZONE 'UTC'")  # not in `options`, which proxies such as RDS Proxy refuse
    return connection


def give_back(url: str, connection: psycopg.Connection) -> None:
    """Keep a connection for the next `borrow` of its address, or close it; the caller must not use it any more."""
    if connection.info.transaction_status != TransactionStatus.IDLE:
        connection.close()
        return
    _idle.append((os.getpid(), url, connection))
    _close_all_but(_KEPT if _keepers else 0)  # checked last: another thread may have ended the last keeper


def _close_all_but(number: int) -> None:
    """Close all kept connections except for the last `number`."""
    for entry in _idle[: max(0, len(_idle) - number)]:
        try:
            _idle.remove(entry)
        except ValueError:
            continue  # another thread was faster
        if entry[0] == os.getpid():
            entry[2].close()
