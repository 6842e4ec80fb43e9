"""Source databases of the embedded cluster: real tables, brought from one recorded state to the next."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import psycopg
import pytest

from etl_assets.local.databases import DATABASES, _password, show
from etl_assets.local.postgres import Cluster
from etl_assets.local.recordings import Recordings

FIRST, SECOND = "2024-11-14", "2024-11-15"
STAMP = "2022-11-03T14:20:49.962000"


def times(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(created_at=pl.lit(STAMP), last_updated=pl.lit(STAMP))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Currencies and addresses: JSON lines without the one, then Parquet with a gap in a whole number."""
    (tmp_path / "totesys" / FIRST).mkdir(parents=True)
    (tmp_path / "totesys" / SECOND).mkdir()
    rows = [{"currency_id": n, "currency_code": code, "created_at": STAMP, "last_updated": STAMP}
            for n, code in enumerate(["GBP", "USD", "EUR"], 1)]  # fmt: skip
    packed = gzip.compress("\n".join(map(json.dumps, rows)).encode())
    (tmp_path / "totesys" / FIRST / "currency.jsonl.gz").write_bytes(packed)
    later = times(pl.DataFrame({"currency_id": [1.0, 2.0, 4.0], "currency_code": ["GBP", "US$", 'A"B']}))
    later.write_parquet(tmp_path / "totesys" / SECOND / "currency.parquet")
    (tmp_path / "retail").mkdir()
    (tmp_path / "retail" / "products.csv").write_text("Product_ID,Price\r\n1,-8.299999999999999\r\n2,\r\n")
    return tmp_path


@pytest.fixture
def database(cluster: Cluster, tmp_path: Path) -> Iterator[str]:
    name = f"source_{tmp_path.name[-40:]}"
    yield name
    cluster.drop_database(name)


def ask(url: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(query.encode()).fetchall()


def test_a_database_goes_from_one_state_to_the_next_by_changes(cluster: Cluster, data: Path, database: str) -> None:
    url = show(cluster, "totesys", Recordings(data, FIRST), database=database)
    codes = "SELECT currency_id, currency_code FROM currency ORDER BY 1"
    assert ask(url, codes) == [(1, "GBP"), (2, "USD"), (3, "EUR")]
    assert ask(url, "SELECT count(*) FROM payment") == [(0,)]
    assert show(cluster, "totesys", Recordings(data, SECOND), database=database) == url
    assert ask(url, codes) == [(1, "GBP"), (2, "US$"), (4, 'A"B')]
    show(cluster, "totesys", Recordings(data, SECOND), database=database)
    written = "SELECT n_tup_ins, n_tup_upd, n_tup_del FROM pg_stat_user_tables WHERE relname = 'currency'"
    assert ask(url, written) == [(4, 1, 1)]


def test_what_somebody_does_in_the_database_stays(cluster: Cluster, data: Path, database: str) -> None:
    """Rows, and tables with a key and without; a table that is gone brings no other back."""
    url = show(cluster, "retail", Recordings(data), database=database)
    with psycopg.connect(cluster.create_database(database)) as connection:
        connection.execute("CREATE TABLE notes AS SELECT * FROM products")
        connection.execute("CREATE TABLE more (id int PRIMARY KEY)")
        connection.execute("DROP TABLE transactions")
        connection.execute("INSERT INTO products (product_id) VALUES (3)")
    assert show(cluster, "retail", Recordings(data), database=database) == url
    assert ask(url, "SELECT count(*) FROM products") == [(3,)]
    file = data / "retail" / "products.csv"
    file.write_text(file.read_text() + "4,1\r\n")
    show(cluster, "retail", Recordings(data), database=database)
    assert ask(url, "SELECT product_id FROM products ORDER BY 1") == [(1,), (2,), (4,)]
    assert ask(url, "SELECT count(*) FROM notes") == [(2,)]


def test_the_pipelines_role_reads_and_does_not_write(cluster: Cluster, data: Path, database: str) -> None:
    url = show(cluster, "retail", Recordings(data), database=database)
    assert ask(url, "SELECT product_id, price FROM products ORDER BY 1") == [
        (1, Decimal("-8.299999999999999")),
        (2, None),
    ]
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        ask(url, "DELETE FROM products RETURNING 1")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = off")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DELETE FROM products")


def test_what_does_not_fit_is_refused_whole(cluster: Cluster, data: Path, database: str) -> None:
    url = show(cluster, "totesys", Recordings(data, FIRST), database=database)
    path = data / "totesys" / SECOND / "currency.parquet"
    times(pl.DataFrame({"currency_id": [9], "colour": ["red"]})).write_parquet(path)
    with pytest.raises(ValueError, match=r"currency.parquet: the table currency has no columns \['colour'\]"):
        show(cluster, "totesys", Recordings(data, SECOND), database=database)
    assert ask(url, "SELECT count(*) FROM currency") == [(3,)]


def test_a_value_may_come_where_there_was_none_and_go_again(cluster: Cluster, data: Path, database: str) -> None:
    file, prices = data / "retail" / "products.csv", "SELECT product_id, price FROM products ORDER BY 1"
    for values in (("1", ""), ("", "2"), ("3", "")):
        file.write_text("Product_ID,Price\r\n1,{}\r\n2,{}\r\n".format(*values))
        url = show(cluster, "retail", Recordings(data), database=database)
        assert ask(url, prices) == [(n, Decimal(value) if value else None) for n, value in enumerate(values, 1)]


def test_rows_that_refer_to_each_other_come_and_go_together(cluster: Cluster, data: Path, database: str) -> None:
    """What refers to others comes after them, and goes before them."""
    departments = times(pl.DataFrame({"department_id": [1, 2], "department_name": ["a", "b"]}))
    staff = times(
        pl.DataFrame(
            {
                "staff_id": [1, 2],
                "first_name": "x",
                "last_name": "y",
                "department_id": [1, 2],
                "email_address": "x@y",
            }
        )
    )
    for date, count in ((FIRST, 2), (SECOND, 1)):
        departments.head(count).write_parquet(data / "totesys" / date / "department.parquet")
        staff.head(count).write_parquet(data / "totesys" / date / "staff.parquet")
        url = show(cluster, "totesys", Recordings(data, date), database=database)
        assert ask(url, "SELECT count(*) FROM staff JOIN department USING (department_id)") == [(count,)]
        assert ask(url, "SELECT count(*) FROM department") == [(count,)]


def test_the_readers_password_is_known_to_nobody_who_does_not_know_the_owners() -> None:
    first, second = (_password(f"postgresql://etl:{owners}@127.0.0.1:5432/retail") for owners in ("one", "two"))
    assert first != second
    assert first == _password("postgresql://etl:one@127.0.0.1:5432/totesys"), "it is one role of all databases"


def test_there_is_a_database_for_each_declaration() -> None:
    assert DATABASES == ("retail", "totesys")
