"""Connections to PostgreSQL that outlive the block that uses them.

A new one costs the server a process, and each process looks up in the catalogs what it has not seen before: of a run
of one day that was a tenth of the time.
"""

from __future__ import annotations

import os

import psycopg
from psycopg.pq import TransactionStatus

#: Of the process, whatever the address: a run works on one database, with two connections at a time at the most.
_KEPT = 4
_idle: list[tuple[int, str, psycopg.Connection]] = []


def take(url: str) -> psycopg.Connection:
    """A connection in autocommit, kept or new; give it back. Raises psycopg.OperationalError if there is none."""
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
    return psycopg.connect(
        url,
        autocommit=True,
        prepare_threshold=None,
        application_name="etl_assets",
        connect_timeout=10,
        options="-c timezone=UTC",
    )


def give_back(url: str, connection: psycopg.Connection) -> None:
    """Keep a connection for the next one who takes one of its address; one that is not in order is closed."""
    if connection.info.transaction_status != TransactionStatus.IDLE:
        connection.close()
        return
    _idle.append((os.getpid(), url, connection))
    for entry in _idle[:-_KEPT]:
        _idle.remove(entry)
        if entry[0] == os.getpid():
            entry[2].close()
