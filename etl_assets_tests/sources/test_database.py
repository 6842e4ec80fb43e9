"""Tables of a PostgreSQL database: what of them is read, by the database's own account, and its bad days."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from etl_assets.local.postgres import Cluster
from etl_assets.sources import Fetched, SourceRefusedError, SourceUnavailableError, Validators, Workspace, database
from etl_assets.sources.database import BATCH_FORMAT, DELETED, DatabaseSource, SourceTable
from etl_assets.sources.postgres import connected

KINDS = SourceTable("kind", "kind_id", ["name"])
ITEMS = SourceTable("item", "item_id", ["price"], changed="last_updated")
SOURCE = DatabaseSource("totesys", [KINDS, ITEMS])
DDL = """
CREATE DOMAIN word AS text;
CREATE TABLE kind (kind_id int PRIMARY KEY, name word, last_updated timestamp);
CREATE TABLE item (item_id bigint PRIMARY KEY, price numeric, is_new boolean, last_updated timestamp NOT NULL);
CREATE INDEX ON item (last_updated);
INSERT INTO kind VALUES (1, 'a', '2024-01-01'), (2, 'b, "c"', NULL), (3, '', '2024-01-01');
INSERT INTO item SELECT n, n + 0.10, n % 2 = 0, timestamp '2024-01-01' + n * interval '1 hour'
    FROM generate_series(1, 2000) n;
"""


@dataclass
class Shop:
    """A database, and what was landed of it."""

    owner: str
    folder: Path
    batches: dict[str, Path] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)

    def do(self, *statements: str) -> None:
        with psycopg.connect(self.owner, client_encoding="utf8") as connection:
            for statement in statements:
                connection.execute(statement.encode())
            connection.execute("SELECT pg_stat_force_next_flush()")

    def value(self, query: str) -> Any:
        with psycopg.connect(self.owner) as connection:
            [[found]] = connection.execute(query.encode()).fetchall()
            return found

    def extract(self, source: DatabaseSource = SOURCE) -> Fetched:
        """Read a batch, and land it."""
        folder = self.folder / uuid.uuid4().hex
        folder.mkdir()
        fetched = source.fetch(
            Workspace(folder, batches=list(self.batches), state=self.state, landed=self.landed), None
        )
        assert fetched is not None
        assert fetched.batch is not None
        self.batches[fetched.batch], self.state = fetched.path, dict(fetched.state)
        return fetched

    def landed(self, name: str) -> Iterator[Path]:
        return (path / f"{name}.parquet" for path in self.batches.values() if (path / f"{name}.parquet").exists())


@pytest.fixture
def shop(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    name = f"shop_{uuid.uuid4().hex[:8]}"
    owner = cluster.create_database(name, template="template0")
    monkeypatch.setenv("ETL_TOTESYS_URL", owner)
    made = Shop(owner, tmp_path)
    made.do(DDL)
    yield made
    cluster.drop_database(name)


def landed(fetched: Fetched, table: str) -> pl.DataFrame:
    path = fetched.path / f"{table}.parquet"
    return pl.read_parquet(path) if path.exists() else pl.DataFrame({"item_id": [], "kind_id": []})


def test_the_first_batch_has_everything_exactly_and_the_next_what_changed(shop: Shop) -> None:
    first = shop.extract()
    kinds = landed(first, "kind").select("kind_id", "name", DELETED).rows()
    assert kinds == [(1, "a", False), (2, 'b, "c"', False), (3, "", False)]
    assert landed(first, "item").row(1) == (2, "2.10", "t", "2024-01-01 02:00:00", False)
    assert SOURCE.probe(first.validators) is None
    assert SOURCE.probe(Validators(etag="other")) == first.validators.etag
    nothing = shop.extract()
    assert list(nothing.path.iterdir()) == []

    read = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'item'"
    shop.do("UPDATE kind SET name = 'silent' WHERE kind_id = 1", "DELETE FROM kind WHERE kind_id = 3")
    shop.do("UPDATE item SET price = 7, last_updated = '2025-01-01' WHERE item_id = 5")
    shop.do("INSERT INTO item VALUES (2001, 1, NULL, '2025-01-02')")
    before = shop.value(read)
    second = shop.extract()
    assert shop.value(read) - before <= 6  # the changed ones, the one at the watermark, and the newest time
    assert landed(second, "kind").select("kind_id", "name", DELETED).rows() == [(1, "silent", False), (3, None, True)]
    assert landed(second, "item")["item_id"].to_list() == [5, 2001]
    assert second.facts["item"] == {"rows": 2, "deleted": 0, "compared": False, "known": 0}
    assert SOURCE.probe(first.validators) == second.validators.etag


def test_a_value_that_is_longer_than_a_piece_is_landed_as_it_is(shop: Shop) -> None:
    length = 4 * database._HELD + 1
    shop.do(f"INSERT INTO kind VALUES (4, repeat('x', {length}), NULL), (5, 'y', NULL)")
    kinds = landed(shop.extract(), "kind")
    assert kinds["kind_id"].to_list() == [1, 2, 3, 4, 5]
    assert kinds["name"].str.len_bytes().to_list() == [1, 6, 0, length, 1]


def test_a_database_of_another_encoding_and_an_address_with_options(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"shop_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(cluster.url("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'WIN1250' LOCALE 'C'".encode())
    try:
        shop = Shop(cluster.url(name), tmp_path)
        shop.do(DDL, "INSERT INTO kind VALUES (4, 'Łódź')")
        monkeypatch.setenv("ETL_TOTESYS_URL", f"{shop.owner.partition('?')[0]}?options=-cstatement_timeout%3D54321")
        assert "Łódź" in landed(shop.extract(), "kind")["name"].to_list()
        with connected("totesys") as connection:
            shown = connection.execute("SELECT current_setting('statement_timeout'), current_setting('timezone')")
            assert shown.fetchone() == ("54321ms", "UTC")
    finally:
        cluster.drop_database(name)


def test_rows_that_share_the_watermark_are_landed_once_each(shop: Shop) -> None:
    same = "INSERT INTO item SELECT n, 1, true, '2025-01-01' FROM generate_series({}, {}) n"
    shop.do(same.format(3001, 3037))
    shop.extract()
    shop.do(same.format(3038, 3040))
    assert landed(shop.extract(), "item")["item_id"].to_list() == [3038, 3039, 3040]
    assert landed(shop.extract(), "item").is_empty()
    shop.do("UPDATE item SET price = 2 WHERE item_id = 3001")  # at the watermark still
    assert landed(shop.extract(), "item")["item_id"].to_list() == [3001]


def test_rows_that_are_landed_again_hide_no_late_one(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    late = "INSERT INTO item VALUES ({}, 1, true, '2024-01-01 00:30')"
    shop.extract()
    shop.do(late.format(5000), "ALTER TABLE item ADD note text")
    assert 5000 in landed(shop.extract(), "item")["item_id"]
    assert landed(shop.extract(), "item").is_empty()
    shop.do(late.format(5001))
    for table in shop.state.values():
        table["form"] = "that of another version of polars"
        table["seen"] = [n + 1 for n in table["seen"]]
    assert 5001 in landed(shop.extract(), "item")["item_id"]

    monkeypatch.setattr(database, "_REMEMBERED", 10)
    shop.do("INSERT INTO item SELECT n, 1, true, '2025-01-01' FROM generate_series(3001, 3037) n")
    assert landed(shop.extract(), "item").height == 37
    shop.do("UPDATE kind SET name = 'other'")
    assert landed(shop.extract(), "item").is_empty(), "though there are too many to be remembered"
    shop.do(late.format(5002), "UPDATE item SET price = 2 WHERE item_id = 3001")
    assert sorted(landed(shop.extract(), "item")["item_id"]) == [3001, 5002]
    assert landed(shop.extract(), "item").is_empty()


def test_what_a_watermark_cannot_see_is_found_by_comparison(shop: Shop) -> None:
    shop.extract()
    shop.do("INSERT INTO item VALUES (9001, 1, true, '2023-06-01')")  # a clock that runs backwards
    shop.do("UPDATE item SET price = 3, last_updated = '2023-06-02' WHERE item_id = 7")
    shop.do("DELETE FROM item WHERE item_id IN (8, 9)")
    batch = shop.extract()
    rows = landed(batch, "item").sort("item_id").select("item_id", "price", DELETED).rows()
    assert rows == [(7, "3", False), (8, None, True), (9, None, True), (9001, "1", False)]
    assert batch.facts["item"]["compared"]
    shop.do("INSERT INTO item VALUES (8, 1, true, '2023-06-01')")  # and comes back
    assert landed(shop.extract(), "item")["item_id"].to_list() == [8]
    # Where the database's counters are of no use, time does it.
    shop.state["item"]["counters"] = []
    shop.do("DELETE FROM item WHERE item_id = 10")
    assert landed(shop.extract(), "item").is_empty()
    shop.state["item"]["counters"] = []
    soon = DatabaseSource("totesys", [SourceTable("item", "item_id", [], "last_updated", timedelta(0))])
    assert landed(shop.extract(soon), "item")["item_id"].to_list() == [10]
    # What is known is lost: all is read again, and what is gone is found all the same.
    shop.state = {}
    shop.do("DELETE FROM item WHERE item_id = 11")
    assert shop.extract().facts["item"] == {"rows": 1998, "deleted": 1, "compared": True, "known": 1999}


def test_counts_that_begin_anew_hide_no_late_row(shop: Shop) -> None:
    """As after a crash of the database, which forgets them."""
    shop.extract()
    shop.do("SELECT pg_stat_reset()")
    shop.do("INSERT INTO item VALUES (9001, 1, true, '2023-06-01')")
    assert landed(shop.extract(), "item")["item_id"].to_list() == [9001]


def test_what_is_written_when_a_batch_has_just_begun_is_in_the_next(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the counts tell of it: they are those from before the batch's snapshot."""
    shop.extract()
    ask = database._one

    def then_write(connection: psycopg.Connection, query: Any) -> Any:
        found = ask(connection, query)
        if "now()" in str(query):
            shop.do("INSERT INTO item VALUES (9001, 1, true, '2023-06-01')")
        return found

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(database, "_one", then_write)
        assert landed(shop.extract(), "item").is_empty()
    assert landed(shop.extract(), "item")["item_id"].to_list() == [9001]


def test_a_comparison_is_due_by_the_last_one_and_not_by_the_last_extract(shop: Shop) -> None:
    """Nor does one that a clock ahead has dated put the next one off."""
    shop.extract()
    compared = shop.state["item"]["compared_at"]
    assert not shop.extract().facts["item"]["compared"]
    assert shop.state["item"]["compared_at"] == compared
    for days in (-2, 2):
        shop.state["item"]["compared_at"] = other = str(datetime.fromisoformat(compared) + timedelta(days=days))
        assert shop.extract().facts["item"]["compared"]
        assert shop.state["item"]["compared_at"] != other


def test_what_a_comparison_finds_is_landed_once(shop: Shop) -> None:
    """Neither what the watermark finds too, nor, time after time, what has no time of change."""
    shop.do("ALTER TABLE item ALTER last_updated DROP NOT NULL")
    shop.extract()
    shop.do(
        "INSERT INTO item VALUES (9001, 1, true, NULL)",
        "UPDATE item SET price = 3, last_updated = '2025-01-01' WHERE item_id = 7",
    )
    batch = shop.extract()
    assert batch.facts["item"]["compared"]
    assert landed(batch, "item")["item_id"].sort().to_list() == [7, 9001]
    shop.do("DELETE FROM item WHERE item_id = 8")
    assert landed(shop.extract(), "item").select("item_id", DELETED).rows() == [(8, True)]


def test_a_table_that_was_emptied_is_compared_though_nothing_counted_that(shop: Shop) -> None:
    shop.extract()
    shop.do(
        "CREATE TABLE kept AS SELECT * FROM item WHERE item_id > 3",
        "TRUNCATE item",
        "INSERT INTO item SELECT item_id, price, is_new, now() FROM kept",
    )
    batch = landed(shop.extract(), "item")
    assert batch.filter(DELETED)["item_id"].sort().to_list() == [1, 2, 3]


def test_a_view_in_the_place_of_a_table_is_read_as_it_was(shop: Shop) -> None:
    shop.do("ALTER TABLE item RENAME TO item_v2", "CREATE VIEW item AS SELECT * FROM item_v2")
    first = shop.extract()
    source = DatabaseSource("totesys", [SourceTable("item", "item_id", [], "last_updated")])
    known = source.probe(None)
    assert source.probe(Validators(etag=known)) is None
    shop.do("UPDATE item_v2 SET price = 77, last_updated = now() WHERE item_id = 5")
    assert source.probe(Validators(etag=known)) is not None
    assert landed(first, "item").height == 2000
    assert landed(shop.extract(), "item").select("item_id", "price").rows() == [(5, "77")]


def test_times_ahead_and_batches_ahead_lose_nothing(shop: Shop) -> None:
    shop.do("INSERT INTO item VALUES (9001, 1, true, '2999-01-01')")
    ahead = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=2)
    shop.batches[ahead.strftime(BATCH_FORMAT)] = shop.folder / "nothing"  # the server's clock was put back
    first = shop.extract()
    assert first.batch == (ahead + timedelta(microseconds=1)).strftime(BATCH_FORMAT)
    shop.do("INSERT INTO item VALUES (9002, 1, true, '2025-01-01')")
    assert landed(shop.extract(), "item")["item_id"].to_list() == [9002]
    shop.batches[(ahead + timedelta(hours=23)).strftime(BATCH_FORMAT)] = shop.folder / "nothing"
    with pytest.raises(SourceRefusedError, match="totesys: its clock, or the name of its last batch"):
        shop.extract()
    shop.batches["2998-01-01T000000.000000Z"] = shop.folder / "nothing"  # no day of the calendar
    with pytest.raises(
        SourceRefusedError, match=r"totesys: its clock, .* says 2998-01-01 00:00, but this machine's clock says 2"
    ):
        shop.extract()


def test_a_row_that_lies_ahead_is_landed_once_and_hides_no_other(shop: Shop) -> None:
    shop.do("INSERT INTO item VALUES (9001, 1, true, '2999-01-01'), (9002, 1, true, now() + interval '1 second')")
    shop.extract()
    for number in (9003, 9004):  # each moves the watermark
        shop.do(f"INSERT INTO item VALUES ({number}, 1, true, now())")
        assert landed(shop.extract(), "item")["item_id"].to_list() == [number]
    shop.do("INSERT INTO item VALUES (9005, 1, true, '2023-01-01')")  # which only counting finds
    batch = shop.extract()
    assert batch.facts["item"]["compared"]
    assert landed(batch, "item")["item_id"].to_list() == [9005]


def test_the_watermark_follows_a_clock_that_is_a_little_ahead(shop: Shop) -> None:
    """No row is past when it is landed; what is remembered does not grow with every extract."""
    shop.extract()
    ahead = "INSERT INTO item SELECT max(item_id) + 1, 1, true, now() + interval '0.4 second' FROM item"
    for number in range(4):
        shop.do(ahead)
        assert landed(shop.extract(), "item")["item_id"].to_list() == [2001 + number]
        assert len(shop.state["item"]["seen"]) <= 3
        time.sleep(0.5)
    assert landed(shop.extract(), "item").is_empty()
    assert shop.state["item"]["watermark"] == shop.value("SELECT max(last_updated)::text FROM item")


def test_columns_that_are_called_as_the_houses_own_get_another_name(shop: Shop) -> None:
    shop.do("""ALTER TABLE item ADD _deleted text DEFAULT 'x', ADD _source_row text DEFAULT 'y'""")
    shop.extract()
    shop.do("INSERT INTO item SELECT 9001, 1, true, now() + interval '1 hour', 'late', 'z'")
    found = landed(shop.extract(), "item")
    assert found.select("item_id", "source_deleted", "source_source_row").rows() == [(9001, "late", "z")]
    shop.do("ALTER TABLE item ADD source_deleted text")
    with pytest.raises(SourceRefusedError, match=r"table item: the columns \['source_deleted'\] occur more than once"):
        shop.extract()


def test_a_row_without_a_key_is_refused(shop: Shop) -> None:
    shop.do("ALTER TABLE item DROP CONSTRAINT item_pkey CASCADE")
    shop.do("ALTER TABLE item ALTER item_id DROP NOT NULL")
    shop.do("UPDATE item SET item_id = NULL WHERE item_id IN (7, 8)")
    with pytest.raises(
        SourceRefusedError, match="database totesys, table item: 2 rows have no value for the key item_id"
    ):
        shop.extract()


def test_two_rows_of_a_key_are_no_change_of_each_other(shop: Shop) -> None:
    shop.do("ALTER TABLE kind DROP CONSTRAINT kind_pkey", "INSERT INTO kind VALUES (2, 'twin', NULL)")
    with pytest.raises(SourceRefusedError, match=r"table kind: 1 values of the key kind_id occur .* such as 2"):
        shop.extract()
    shop.do("DELETE FROM kind WHERE name = 'twin'", "ALTER TABLE item DROP CONSTRAINT item_pkey")
    shop.extract()
    shop.do("INSERT INTO item VALUES (7, 1, true, '2023-01-01')")  # which only comparing finds
    with pytest.raises(SourceRefusedError, match=r"table item: 1 values of the key item_id occur .* such as 7"):
        shop.extract()


def test_all_tables_of_a_batch_are_of_one_moment(shop: Shop) -> None:
    """The extract waits for the second table when the first has been read; both change meanwhile."""
    with psycopg.connect(shop.owner) as other:
        other.execute("LOCK TABLE item")
        found: list[Fetched] = []
        source = DatabaseSource("totesys", [KINDS, SourceTable("item", "item_id", [])])  # without looking at it before
        thread = threading.Thread(target=lambda: found.append(shop.extract(source)))
        thread.start()
        until_waiting(shop)
        other.execute("DELETE FROM kind")
        other.execute("DELETE FROM item WHERE item_id > 1")
    thread.join()
    assert landed(found[0], "kind").height == 3
    assert landed(found[0], "item").height == 2000


def test_a_database_that_goes_away_lands_nothing_and_says_so(shop: Shop) -> None:
    errors: list[Exception] = []

    def extract() -> None:
        try:
            shop.extract(DatabaseSource("totesys", [KINDS, SourceTable("item", "item_id", [])]))
        except SourceUnavailableError as error:
            errors.append(error)

    with psycopg.connect(shop.owner) as other:
        other.execute("LOCK TABLE item")
        thread = threading.Thread(target=extract)
        thread.start()
        until_waiting(shop)
        other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'relation'")
        thread.join()
    assert shop.batches == {}
    assert "terminating connection due to administrator command" in str(errors[0])
    assert str(conninfo_to_dict(shop.owner)["password"]) not in str(errors[0])
    shop.extract()


def until_waiting(shop: Shop) -> None:
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'relation' AND datname = current_database()"
    for _ in range(1000):
        if shop.value(query):
            return
        time.sleep(0.02)
    raise AssertionError("nobody came to wait")


def test_another_shape_is_landed_or_refused_with_both_lists(shop: Shop) -> None:
    known = Validators(etag=SOURCE.probe(None))
    shop.extract()
    assert SOURCE.probe(known) is None
    shop.do("ALTER TABLE kind ADD colour text DEFAULT 'red'")
    assert SOURCE.probe(known) is not None, "though no row was written"
    gained = landed(shop.extract(), "kind")
    assert gained["colour"].to_list() == ["red"] * 3  # every row is another than it was
    shop.do("ALTER TABLE kind ADD shelf int DEFAULT 7")
    shop.extract()
    for kind, shelf in (("text", "8b"), ("int USING left(shelf, 1)::int", "9")):  # a column of numbers, and of text
        shop.do(
            "ALTER TABLE kind ALTER shelf DROP DEFAULT",
            f"ALTER TABLE kind ALTER shelf TYPE {kind}",
            f"UPDATE kind SET shelf = '{shelf}' WHERE kind_id = 2",
        )
        assert landed(shop.extract(), "kind").select("kind_id", "shelf").rows() == [(2, shelf)]
    shop.do(
        "ALTER TABLE item ALTER price TYPE text",
        "UPDATE item SET price = 'ask', last_updated = '2025-01-01' WHERE item_id = 1",
    )
    assert landed(shop.extract(), "item").select("item_id", "price").rows() == [(1, "ask")]
    shop.do("ALTER TABLE kind DROP colour")
    assert landed(shop.extract(), "kind").height == 3  # once more, since every row is another than it was
    assert landed(shop.extract(), "kind").is_empty()
    shop.do("ALTER TABLE item RENAME price TO cost")
    with pytest.raises(SourceRefusedError, match=r"item: required columns are missing: \['price'\]. It has: .*'cost'"):
        shop.extract()
    shop.do("ALTER TABLE item RENAME cost TO price", "ALTER TABLE item ALTER last_updated TYPE bigint USING 1")
    with pytest.raises(SourceRefusedError, match=r"item: last_updated is bigint, but must be the time"):
        shop.extract()
    shop.do("ALTER TABLE item ALTER last_updated TYPE text", "ALTER TABLE kind ALTER kind_id TYPE text")
    with pytest.raises(SourceRefusedError, match="kind: the key kind_id is text"):
        shop.extract()
    shop.do("DROP TABLE kind")
    with pytest.raises(SourceRefusedError, match=r"There is no table kind in the database totesys, schema public"):
        shop.extract()


def test_a_role_that_may_not_read_is_told_what_to_ask_for(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.do("DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'nobody') THEN"
            " CREATE ROLE nobody LOGIN PASSWORD 'se%cret'; END IF; END $$")  # fmt: skip
    nobody = make_conninfo(shop.owner, user="nobody", password="se%cret")
    monkeypatch.setenv("ETL_TOTESYS_URL", nobody)
    with pytest.raises(SourceRefusedError, match="GRANT SELECT ON ALL TABLES IN SCHEMA public TO nobody") as told:
        shop.extract()
    assert "se%cret" not in str(told.value)
    for address in ("postgres:/se%cret@", "postgresql://u:a@se%cret@host/db", "postgresql://u:a/se%cret@host/db"):
        monkeypatch.setenv("ETL_TOTESYS_URL", address)
        with pytest.raises(SourceRefusedError, match="ETL_TOTESYS_URL is not a PostgreSQL address") as told:
            SOURCE.probe(None)
        assert "se%cret" not in f"{told.value} {told.value.__cause__}"
