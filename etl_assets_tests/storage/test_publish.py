"""Publishing to lake and warehouse together: nothing twice, nothing half, and one publisher a table."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import polars as pl
import psycopg
import pytest
import shapely

from etl_assets.storage.frames import polars_type
from etl_assets.storage.identities import Identities
from etl_assets.storage.lake import Lake, LakeError
from etl_assets.storage.publish import Publisher
from etl_assets.storage.table import (
    Column,
    Facts,
    Geometry,
    Part,
    Partitioning,
    Publication,
    Published,
    Reference,
    Table,
)
from etl_assets.storage.transaction import TypeChangedError, WarehouseError
from etl_assets.storage.warehouse import Warehouse
from etl_assets_tests.contents import put_partition
from etl_assets_tests.held import held_at_commit, held_at_table

EVENTS = Table(
    "refined",
    "events",
    (
        Column("id", "bigint", nullable=False),
        Column("day", "date", nullable=False),
        Column("title", "text"),
        Column("sources", "text[]"),
        Column("cost", "numeric(8,2)"),
        Column("point", "geometry(Point,4326)", geometry=Geometry("Point", 4326)),
    ),
    primary_key=("id",),
    partitioning=Partitioning("day", "day"),
)
KEPT_OUT = Table(
    "quarantine",
    "events",
    (Column("row_id", "text", nullable=False), Column("_partition", "text", nullable=False)),
    primary_key=("row_id", "_partition"),
    partitioning=Partitioning("_partition"),
    sparse=True,
)
A, B = "2025-01-15", "2025-01-16"


TYPES = {c.name: polars_type(c.sql) for c in EVENTS.columns}


@pytest.fixture
def publisher(warehouse_url: str, tmp_path: Path) -> Publisher:
    return Publisher(Lake(str(tmp_path / "lake")), Warehouse(warehouse_url))


def part(day: str, *titles: str, first: int = 1, made_from: str = "input") -> Part:
    rows = len(titles)
    frame = pl.DataFrame(
        {
            "id": range(first, first + rows),
            "day": [dt.date.fromisoformat(day)] * rows,
            "title": titles,
            "sources": [["a.org", "b.org"]] * rows,
            "cost": ["12.50"] * rows,
            "point": [shapely.to_wkb(shapely.Point(-90, 40))] * rows,
        },
        schema={**TYPES, "cost": pl.String},
    ).cast({"cost": pl.Decimal(8, 2)})
    return Part(day, frame, made_from)


def kept_out(day: str, *ids: str) -> Part:
    frame = pl.DataFrame(
        {"row_id": ids, "_partition": [day] * len(ids)}, schema={"row_id": pl.String, "_partition": pl.String}
    )
    return Part(day, frame, "input")


def publish(publisher: Publisher, *parts: Part, table: Table = EVENTS, run: str = "run") -> Sequence[Published]:
    return publisher.publish([Publication(table, parts)], run)[table.full_name]


def titles(publisher: Publisher) -> list[tuple[str, str, str]]:
    with publisher.warehouse.connect() as connection:
        return connection.execute("SELECT day::text, title, _run_id FROM refined.events ORDER BY id").fetchall()


def agree(publisher: Publisher, table: Table = EVENTS) -> bool:
    """Whether lake and warehouse say the same of every partition, but for what it was made from."""
    told = publisher.warehouse.facts(table.full_name)
    held = publisher.lake.facts(table, publisher.lake.partitions(table))

    def same(facts: dict[str, Facts]) -> dict[str, tuple[int, str]]:
        return {key: (f.rows, f.content_hash) for key, f in facts.items()}

    return same(told) == same(held)


def test_what_is_published_is_in_both_with_its_provenance(publisher: Publisher) -> None:
    done = publish(publisher, part(A, "one", "two"), part(B))
    assert [(p.key, p.rows, p.changed) for p in done] == [(A, 2, True), (B, 0, True)]
    assert titles(publisher) == [(A, "one", "run"), (A, "two", "run")]
    in_lake = publisher.lake.read(EVENTS)
    assert in_lake.frame["title"].to_list() == ["one", "two"]
    assert in_lake.frame["_source_sha256"].to_list() == ["input", "input"]
    assert in_lake.versions == {p.key: p.content_hash for p in done}
    assert agree(publisher)


@pytest.mark.parametrize(
    ("by", "key"),
    [
        (Partitioning("day", "day"), "9999-12-31"),
        (Partitioning("day", "month"), "9999-12-01"),
        (Partitioning("day", "year"), "9999-01-01"),
    ],
    ids=str,
)
def test_the_last_day_there_is_can_be_replaced(publisher: Publisher, by: Partitioning, key: str) -> None:
    table = replace(EVENTS, partitioning=by)
    for title in ("one", "two"):
        publish(publisher, replace(part("9999-12-31", title), key=key), table=table)
        assert titles(publisher) == [("9999-12-31", title, "run")]


def test_a_table_that_a_view_is_made_of_is_not_restored(publisher: Publisher) -> None:
    publish(publisher, part(A, "one"))
    with publisher.warehouse.connect() as connection:
        connection.execute("CREATE VIEW refined.own AS SELECT title FROM refined.events")
    with pytest.raises(WarehouseError, match=r"refined\.events cannot be dropped.*view (refined\.)?own depends"):
        publisher.restore(EVENTS)
    assert titles(publisher) == [(A, "one", "run")]


def test_identical_content_is_written_to_neither(publisher: Publisher, tmp_path: Path) -> None:
    publish(publisher, part(A, "one"), part(B, "two", first=2), run="first")
    objects = {path: path.stat().st_mtime_ns for path in (tmp_path / "lake").rglob("*")}
    done = publish(publisher, part(A, "one"), part(B, "2", first=2), run="second")
    assert [(p.key, p.changed) for p in done] == [(A, False), (B, True)]
    assert titles(publisher) == [(A, "one", "first"), (B, "2", "second")]
    written = [path.name for path, time in objects.items() if path.stat().st_mtime_ns != time and path.is_file()]
    assert written == [f"{B}.parquet"]


def test_identical_content_of_other_inputs_renews_the_bookkeeping(publisher: Publisher) -> None:
    publish(publisher, part(A, "one"), run="first")
    publish(publisher, part(A, "one", made_from="another input"), run="second")
    assert publisher.warehouse.facts("refined.events")[A].made_from == "another input"
    assert titles(publisher) == [(A, "one", "first")]


def test_tables_are_published_together_or_not_at_all(publisher: Publisher) -> None:
    publish(publisher, part(A, "before"))
    twice = kept_out(A, "same", "same")
    with pytest.raises(WarehouseError, match="A key would be there twice"):
        publisher.publish([Publication(EVENTS, [part(A, "after")]), Publication(KEPT_OUT, [twice])], "second")
    assert titles(publisher) == [(A, "before", "run")]
    assert agree(publisher)
    publish(publisher, part(A, "after"), run="third")
    assert titles(publisher) == [(A, "after", "third")]
    assert agree(publisher)


def test_a_lake_that_has_another_content_is_repaired(publisher: Publisher) -> None:
    publish(publisher, part(A, "good"))
    path = publisher.lake.path(EVENTS, A)
    good = publisher.lake.read(EVENTS, [A]).frame
    for damage in (b"", b"half a file", None):
        if damage is None:  # another content, as a run leaves it that was killed before the warehouse had it
            put_partition(
                publisher.lake, EVENTS, good.with_columns(title=pl.lit("other")), Facts(A, 1, "other", "x", "x", "x")
            )
        else:
            publisher.lake.put(path, damage)
        assert publish(publisher, part(A, "good"), run="repair")[0].changed
        assert publisher.lake.read(EVENTS, [A]).frame["title"].to_list() == ["good"]
        assert agree(publisher)


def test_a_changed_type_leaves_the_lake_as_it_was(publisher: Publisher) -> None:
    publish(publisher, part(A, "one"))
    before = publisher.lake.get(publisher.lake.path(EVENTS, A))
    columns = [replace(c, sql="integer") if c.name == "id" else c for c in EVENTS.columns]
    changed = replace(EVENTS, columns=tuple(columns))
    narrow = replace(part(A, "one"), frame=part(A, "one").frame.with_columns(pl.col("id").cast(pl.Int32)))
    with pytest.raises(TypeChangedError, match="id is bigint in the table, integer in the contract"):
        publish(publisher, narrow, table=changed)
    assert publisher.lake.get(publisher.lake.path(EVENTS, A)) == before
    with publisher.warehouse.connect() as connection:
        connection.execute("DROP TABLE refined.events")  # as the error says
    assert publish(publisher, narrow, table=changed)[0].changed
    assert agree(publisher)


PLACES = Table("refined", "places", (Column("place", "bigint", nullable=False),), primary_key=("place",))
VISITS = Table(
    "refined", "visits", (Column("place", "bigint", references=Reference("refined", "places", "place")),),
)  # fmt: skip


def numbers(*values: int | None) -> Part:
    return Part("", pl.DataFrame({"place": pl.Series(values, dtype=pl.Int64)}), "input")


def test_what_the_warehouse_refuses_is_not_in_the_lake_either(publisher: Publisher) -> None:
    """A foreign key is judged at the end, and a column that is not null while the rows come."""
    publish(publisher, numbers(1, 2), table=PLACES)
    publish(publisher, numbers(1, 2), table=VISITS)
    before = {path: publisher.lake.get(path) for path in publisher.lake.list("refined")}
    with pytest.raises(WarehouseError, match=r"foreign key does not hold.*Nothing was written"):
        publish(publisher, numbers(1), table=PLACES)
    with pytest.raises(psycopg.errors.NotNullViolation):
        publish(publisher, numbers(1, 2, None), table=PLACES)
    assert {path: publisher.lake.get(path) for path in publisher.lake.list("refined")} == before
    publish(publisher, numbers(1), table=VISITS)
    publish(publisher, numbers(1), table=PLACES)
    assert agree(publisher, PLACES)
    assert agree(publisher, VISITS)


def test_a_sparse_table_keeps_only_partitions_that_have_or_had_rows(publisher: Publisher) -> None:
    publish(publisher, kept_out(A), kept_out(B, "x"), table=KEPT_OUT)
    assert publisher.lake.partitions(KEPT_OUT).keys() == {B}
    assert publisher.warehouse.facts("quarantine.events").keys() == {B}
    publish(publisher, kept_out(A), kept_out(B), table=KEPT_OUT)
    assert {key: f.rows for key, f in publisher.warehouse.facts("quarantine.events").items()} == {B: 0}
    assert agree(publisher, KEPT_OUT)


def test_a_sparse_table_is_there_even_if_nothing_was_ever_in_it(publisher: Publisher) -> None:
    publish(publisher, kept_out(A), table=KEPT_OUT)
    with publisher.warehouse.connect() as connection:
        assert connection.execute("SELECT count(*) FROM quarantine.events").fetchone() == (0,)


def test_rows_that_a_killed_run_left_in_the_lake_alone_go_from_a_sparse_table(publisher: Publisher) -> None:
    publish(publisher, kept_out(B, "x"), table=KEPT_OUT)
    left = publisher.lake.read(KEPT_OUT, [B]).frame.with_columns(_partition=pl.lit(A))
    put_partition(publisher.lake, KEPT_OUT, left, Facts(A, 1, "left", "x", "x", "x"))
    publish(publisher, kept_out(A), table=KEPT_OUT)
    assert publisher.lake.read(KEPT_OUT, [A]).frame.is_empty()
    assert agree(publisher, KEPT_OUT)


def test_of_two_publishers_of_a_partition_the_second_waits_for_the_first(publisher: Publisher) -> None:
    """Without, the lake would keep what the one wrote, and the warehouse what the other did."""
    publish(publisher, part(A, "before"))
    with ThreadPoolExecutor(2) as pool:
        with held_at_commit(publisher.warehouse.url, "NEW.run_id = 'first'") as wait:
            first = pool.submit(publish, publisher, part(A, "first"), run="first")
            wait()
            second = pool.submit(publish, publisher, part(A, "second"), run="second")
            wait(2)
            assert publisher.lake.read(EVENTS, [A]).frame["title"].to_list() == ["first"]
            assert titles(publisher) == [(A, "before", "run")]
        assert first.result()[0].changed
        assert second.result()[0].changed
    assert titles(publisher) == [(A, "second", "second")]
    assert publisher.lake.read(EVENTS, [A]).frame["title"].to_list() == ["second"]
    assert agree(publisher)


def test_two_publishers_of_the_same_content_write_it_once(publisher: Publisher) -> None:
    with ThreadPoolExecutor(2) as pool:
        with held_at_table(publisher.warehouse.url, "refined.events") as wait:
            both = [pool.submit(publish, publisher, part(A, "one"), run=run) for run in ("first", "second")]
            wait(2)
        assert sorted(one.result()[0].changed for one in both) == [False, True]
    assert len(titles(publisher)) == 1
    assert agree(publisher)


def test_publishers_of_many_tables_do_not_wait_for_each_other_for_ever(publisher: Publisher) -> None:
    tables = [Publication(EVENTS, [part(A, "one")]), Publication(KEPT_OUT, [kept_out(A, "x")])]
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(publisher.publish, tables[:: 1 if n % 2 else -1], f"run {n}") for n in range(10)]
        for run in runs:
            run.result()
    assert agree(publisher)
    assert agree(publisher, KEPT_OUT)


def test_a_table_is_restored_from_the_lake_row_for_row(publisher: Publisher) -> None:
    publisher.publish([Publication(EVENTS, [part(A, "one", "two"), part(B)], whole="inputs")], "first")
    again = [part(A, "one", "two", made_from="other inputs, same content"), part(B, "three", first=3)]
    publisher.publish([Publication(EVENTS, again, whole="other inputs")], "second")
    rows, facts = "SELECT * FROM refined.events ORDER BY id", "SELECT * FROM etl.publications ORDER BY 1, 2"
    with publisher.warehouse.connect() as connection:
        before = [connection.execute(query).fetchall() for query in (rows, facts)]
        connection.execute(
            "INSERT INTO refined.events (id, day, _source_sha256, _run_id, _loaded_at)"
            " VALUES (99, '2025-01-15', '', '', now())"
        )
    assert publisher.restore(EVENTS) == (2, 3)
    with publisher.warehouse.connect() as connection:
        assert [connection.execute(query).fetchall() for query in (rows, facts)] == before
    objects = publisher.lake.list("")
    assert not any(done.changed for done in publish(publisher, *again))
    assert publisher.lake.list("") == objects
    assert publisher.restore(KEPT_OUT) == (0, 0)  # it was never published
    with publisher.warehouse.connect() as connection:
        gone = connection.execute("SELECT to_regclass('quarantine.events')").fetchone()
    assert gone == (None,)


def test_a_table_that_is_restored_in_several_goes_has_all_its_rows(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("etl_assets.storage.publish._RESTORED_AT_ONCE", 2)
    days = [f"2025-01-{day}" for day in range(11, 16)]
    publish(publisher, *(part(day, day, first=number) for number, day in enumerate(days)))
    assert publisher.restore(EVENTS) == (5, 5)
    assert [day for day, *_ in titles(publisher)] == days
    assert agree(publisher)


def test_a_table_of_which_an_object_is_gone_is_not_restored_as_whole(publisher: Publisher) -> None:
    """Else nobody would make again what is gone."""
    publisher.publish([Publication(EVENTS, [part(A, "one"), part(B, "two", first=2)], whole="inputs")], "run")
    publisher.lake.delete(publisher.lake.path(EVENTS, A))
    assert publisher.restore(EVENTS) == (1, 1)
    assert publisher.warehouse.facts("refined.events").keys() == {B}


# --- surrogate ids


def ids(lake: Lake, keys: Sequence[int], floor: int = 0) -> list[int]:
    return Identities(lake, "events").allocate(pl.Series(keys, dtype=pl.Int64), floor).to_list()


def test_an_id_is_given_once(publisher: Publisher) -> None:
    assert ids(publisher.lake, [50, 40, 50]) == [1, 2, 1]
    assert ids(publisher.lake, [40, 30, 50]) == [2, 3, 1]
    objects = publisher.lake.list("")
    assert ids(publisher.lake, [30, 40]) == [3, 2]
    assert ids(publisher.lake, []) == []
    assert publisher.lake.list("") == objects, "nothing new, nothing written"


def test_new_ids_follow_those_in_use_before(publisher: Publisher) -> None:
    assert ids(publisher.lake, [1, 2], floor=1000) == [1001, 1002]
    assert ids(publisher.lake, [1, 3], floor=1000) == [1001, 1003]
    assert ids(publisher.lake, [4], floor=5000) == [5001]


def test_a_key_may_be_any_64_bits(publisher: Publisher) -> None:
    keys = pl.Series([2**64 - 1, 2**63, 0], dtype=pl.UInt64)
    given = Identities(publisher.lake, "events")
    assert given.allocate(keys).to_list() == [1, 2, 3]
    assert given.allocate(keys.reverse()).to_list() == [3, 2, 1]


def test_ids_that_are_gone_are_not_given_again(publisher: Publisher) -> None:
    for key in range(3):
        ids(publisher.lake, [key])
    publisher.lake.delete("identities/events/00000002.parquet")
    with pytest.raises(LakeError, match=r"events/00000002\.parquet is missing.*Restore it"):
        ids(publisher.lake, [7])


def test_many_that_allocate_at_once_agree(publisher: Publisher) -> None:
    start = threading.Barrier(4)

    def allocate(number: int) -> list[int]:
        start.wait()
        return [ids(publisher.lake, [key, key + number * 100])[0] for key in range(5)]

    with ThreadPoolExecutor(4) as pool:
        given = list(pool.map(allocate, range(1, 5)))
    assert given == [given[0]] * 4, "a key has one id, whoever asked first"
    known, _ = Identities(publisher.lake, "events")._read()
    assert known["id"].is_unique().all()
    assert known["key"].is_unique().all()
    assert sorted(known["id"]) == list(range(1, 26))


def test_what_a_partition_is_restored_to_be_made_from_is_the_last(publisher: Publisher) -> None:
    """Else a source that goes back to what the book still says would find the day up to date."""
    for title, made_from in (("one", "first"), ("one", "second"), ("two", "third")):
        publish(publisher, part(A, title, made_from=made_from))
    publisher.restore(EVENTS)
    assert publisher.warehouse.facts("refined.events")[A].made_from == "third"


def test_what_a_killed_run_left_in_the_lake_is_no_publication_to_compare_with(publisher: Publisher) -> None:
    publish(publisher, part(A, "one"))
    left = publisher.lake.read(EVENTS, [A]).frame.with_columns(title=pl.lit("never published"))
    put_partition(publisher.lake, EVENTS, left, Facts(A, 1, "left", "x", "x", "x"))
    assert publish(publisher, part(A, "two"))[0].changes is None


def test_a_whole_that_is_published_again_as_it_was_keeps_its_bookkeeping(publisher: Publisher) -> None:
    held = []
    for run in ("first", "second"):
        publisher.publish([Publication(EVENTS, [part(A, "one")], whole="inputs")], run)
        held.append(
            (publisher.warehouse.facts("refined.events"), publisher.lake.get("refined/events/bookkeeping.json"))
        )
    assert held[0] == held[1]


def test_a_reference_to_nothing_is_not_in_the_lake_either(publisher: Publisher) -> None:
    """Of the tables that a foreign key joins, either may be the one that is published."""
    publish(publisher, numbers(1), table=PLACES)
    publish(publisher, numbers(1), table=VISITS)
    before = {path: publisher.lake.get(path) for path in publisher.lake.list("refined")}
    with pytest.raises(WarehouseError, match=r"foreign key does not hold.*Nothing was written"):
        publish(publisher, numbers(1, 2), table=VISITS)
    assert {path: publisher.lake.get(path) for path in publisher.lake.list("refined")} == before
