"""The warehouse is a projection of the lake: dropped, it comes back from the lake alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import dagster as dg
import polars as pl
import psycopg
import pytest

from etl_assets.local import rebuild as module
from etl_assets.local.postgres import Cluster
from etl_assets.local.rebuild import rebuild_warehouse
from etl_assets.stages.dataset import SPECS
from etl_assets.storage.configured import publisher
from etl_assets.storage.table import WHOLE, Column, Part, Publication, Reference, Table
from etl_assets_tests.contents import put_partition, tables
from etl_assets_tests.house import House


def everything(house: House) -> dict[str, list[tuple[Any, ...]]]:
    """Every table that has rows, with their provenance, and all of the bookkeeping."""
    found = {}
    for name in [*(table.full_name for table in tables()), "etl.publications"]:
        schema, table = name.split(".")
        columns = house.sql(
            "SELECT column_name FROM information_schema.columns WHERE table_schema = %s AND table_name = %s ORDER BY 1",
            schema,
            table,
        )
        names = ", ".join(f'"{column}"' for (column,) in columns)
        rows = house.sql(f"SELECT {names} FROM {name}") if columns else []
        if rows:
            found[name] = [tuple(columns), *sorted(rows, key=repr)]
    return found


@pytest.mark.long
def test_a_dropped_warehouse_comes_back_row_for_row(
    house: House, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    house.has_run()
    house.publish("2025-04-04")  # so that days have been emptied and columns added
    assert house.run(), house.failures()
    before, objects = everything(house), house.objects()
    there = "SELECT table_schema, table_name FROM information_schema.tables ORDER BY 1, 2"
    names = house.sql(there)

    cluster.drop_database(urlsplit(house.warehouse_url).path[1:])
    assert rebuild_warehouse() == 0
    after = everything(house)
    assert [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)] == []
    assert house.objects() == objects
    assert house.sql(there) == names  # those that are empty, too
    assert house.value("SELECT obj_description('refined.protest_events'::regclass)")

    assert house.run(), house.failures()
    assert house.made() == {}
    assert everything(house) == before

    events = house.frame("presentation.event_sources")
    with psycopg.connect(house.warehouse_url) as connection:
        connection.execute("DROP TABLE presentation.event_sources")  # one table only, by hand
    assert house.run(), house.failures()
    assert house.made() == {"presentation/event_sources": 1}
    assert house.frame("presentation.event_sources").equals(events)

    a_damaged_or_lost_object_is_made_anew_and_never_taken_for_no_rows(house, capsys)
    with monkeypatch.context() as other:
        other.setenv("ETL_LAKE_URL", str(tmp_path / "mistyped"))
        assert rebuild_warehouse() == 1
    assert "holds no table, so nothing was dropped" in capsys.readouterr().out
    assert house.value("SELECT count(*) FROM presentation.event_sources") == events.height


def a_damaged_or_lost_object_is_made_anew_and_never_taken_for_no_rows(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    days = "SELECT count(*) FROM raw.protest_events GROUP BY _partition ORDER BY _partition"
    before = house.sql(days)
    day = str(house.value("SELECT min(_partition) FROM raw.protest_events"))
    table = SPECS[dg.AssetKey(["raw", "protest_events"])].table
    assert table is not None
    path = house.lake.path(table, day)
    house.lake.put(path, b"no Parquet at all")
    with psycopg.connect(house.warehouse_url) as connection:
        connection.execute("DROP TABLE raw.us_counties")
    assert rebuild_warehouse() == 1
    assert f"{day}.parquet is damaged" in capsys.readouterr().out
    assert house.sql(days) == before, "the table stays as it was"
    assert house.value("SELECT count(*) FROM raw.us_counties"), "and those that come after it are made"

    house.lake.delete(path)
    assert rebuild_warehouse() == 0
    assert house.sql(days) == before[1:]
    assert house.run(), house.failures()
    assert house.sql(days) == before
    assert house.value("SELECT count(*) FROM refined.protest_events WHERE event_date = %s", day) > 0


def test_a_table_refers_to_those_that_are_made_after_it_and_that_were_made_without_it(
    warehouse_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its foreign key goes with the table that it refers to, whose turn may come later."""
    monkeypatch.setenv("ETL_WAREHOUSE_URL", warehouse_url)
    monkeypatch.setenv("ETL_LAKE_URL", str(tmp_path / "lake"))
    key = Column("id", "bigint", nullable=False)
    designs = Table("refined", "designs", (key,), primary_key=("id",))
    of = Column("design_id", "bigint", references=Reference("refined", "designs", "id"))
    made = Table("refined", "a_drawing", (key, of), primary_key=("id",))
    for table in (designs, made):
        frame = pl.DataFrame({column.name: [7] for column in table.columns})
        publisher().publish([Publication(table, [Part(WHOLE, frame, "inputs")])], "run")
    monkeypatch.setattr(
        module, "in_order", lambda: [SimpleNamespace(table=t, quarantine=None) for t in (designs, made)]
    )
    for code in (0, 1):
        assert rebuild_warehouse() == code
        with psycopg.connect(warehouse_url) as connection:
            found = connection.execute("SELECT conrelid::regclass::text FROM pg_constraint WHERE contype = 'f'")
            assert found.fetchall() == [("refined.a_drawing",)]
            assert connection.execute("SELECT design_id FROM refined.a_drawing").fetchall() == [(7,)]
        publisher().lake.put("refined/a_drawing/all.parquet", b"no Parquet at all")
    lake = publisher().lake
    other = lake.partition_frames(designs, [WHOLE])[WHOLE].with_columns(id=pl.lit(8, pl.Int64))
    put_partition(lake, designs, other, lake.facts(designs, [WHOLE])[WHOLE])
    assert rebuild_warehouse() == 1, "what is left refers to what is gone"
    assert "failed refined.a_drawing lacks a foreign key: A foreign key does not hold" in capsys.readouterr().out
    with psycopg.connect(warehouse_url) as connection:
        assert connection.execute("SELECT id FROM refined.designs").fetchall() == [(8,)]
