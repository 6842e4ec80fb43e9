"""Connections are kept while somebody wants them, and only those that are in order."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from etl_assets.storage import connections
from etl_assets.storage.warehouse import Warehouse


def process_of(connection: psycopg.Connection) -> int:
    """The number of the server's process, which tells connections apart."""
    return connection.info.backend_pid


def processes(url: str) -> int:
    """How many connections stay with the database, beside the one that asks; the server takes a moment to end one."""
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND backend_type = 'client backend'"
    )
    with psycopg.connect(url, autocommit=True) as connection:
        deadline = time.monotonic() + 10
        while (found := connection.execute(query).fetchall()) != [(0,)] and time.monotonic() < deadline:
            time.sleep(0.02)
        return int(found[0][0])


def used(warehouse: Warehouse) -> int:
    with warehouse.connect() as connection:
        return process_of(connection)


def test_a_connection_is_kept_while_somebody_wants_it(warehouse_url: str) -> None:
    warehouse = Warehouse(warehouse_url)
    assert used(warehouse) != used(warehouse)
    with connections.kept():
        with connections.kept():
            first = used(warehouse)
        assert used(warehouse) == first, "the outer one still wants it"
        with warehouse.connect() as one, warehouse.connect() as other:
            assert process_of(one) == first != process_of(other)
    assert processes(warehouse_url) == 0, "who has a connection keeps others from dropping the database"


class Slow(list[Any]):
    """A list that lets others come in between before it changes."""

    def append(self, entry: Any) -> None:
        time.sleep(0.002)
        super().append(entry)

    def remove(self, entry: Any) -> None:
        time.sleep(0.002)
        super().remove(entry)


def test_threads_that_come_and_go_leave_no_connection(warehouse_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ticks of sensors do, of which the last to end closes what is kept."""
    warehouse = Warehouse(warehouse_url)
    monkeypatch.setattr(connections, "_idle", Slow())

    def ticks(_: int) -> None:
        for _ in range(40):
            with connections.kept():
                used(warehouse)
            used(warehouse)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(ticks, range(6)))
    assert processes(warehouse_url) == 0


def test_a_connection_that_is_not_in_order_is_not_kept(warehouse_url: str) -> None:
    warehouse = Warehouse(warehouse_url)
    with connections.kept():
        first = used(warehouse)
        with psycopg.connect(warehouse_url, autocommit=True) as administrator:
            administrator.execute("SELECT pg_terminate_backend(%s, 10000)", (first,))
        second = used(warehouse)
        assert second != first, "the server had ended it"
        connection = connections.borrow(warehouse_url)
        assert process_of(connection) == second
        connection.execute("BEGIN")
        connections.give_back(warehouse_url, connection)
        assert connection.closed, "somebody's transaction is under way in it"
        with pytest.raises(psycopg.errors.UndefinedTable), warehouse.connect() as found:
            found.execute("SELECT * FROM nothing")
        assert used(warehouse) == process_of(found), "rolled back, it is as good as new"


def test_what_an_address_says_of_its_connections_counts(warehouse_url: str) -> None:
    """And nothing is asked for at the start of a connection, which proxies would refuse, but what it says."""
    url = f"{warehouse_url.partition('?')[0]}?options=-c%20search_path%3Detl%2Cpublic&connect_timeout=77"
    with Warehouse(url).connect(role=None) as connection:
        assert connection.execute("SHOW search_path").fetchone() == ("etl,public",)
        assert connection.execute("SHOW timezone").fetchone() == ("UTC",)
        assert connection.info.get_parameters()["connect_timeout"] == "77"
        assert connection.info.get_parameters()["options"] == "-c search_path=etl,public"


def test_what_is_set_in_one_block_is_not_there_in_the_next(warehouse_url: str) -> None:
    warehouse = Warehouse(warehouse_url)
    warehouse.prepare()
    with connections.kept():
        with warehouse.connect() as connection:
            writer = connection.execute("SELECT current_user").fetchone()
        with warehouse.connect(role=None) as connection:
            assert connection.execute("SELECT current_user = session_user").fetchone() == (True,)
    assert writer == ("etl_writer",)
