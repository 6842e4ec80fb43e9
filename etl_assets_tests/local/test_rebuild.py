"""The warehouse is a projection of the lake: dropped, it comes back from the lake alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dagster as dg
import psycopg
import pytest

from etl_assets.local.postgres import Cluster
from etl_assets.local.rebuild import rebuild_warehouse
from etl_assets.stages.dataset import SPECS
from etl_assets_tests.contents import tables
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
    assert rebuild_warehouse() == 1
    assert f"{day}.parquet is damaged" in capsys.readouterr().out
    assert house.sql(days) == before, "the table stays as it was"

    house.lake.delete(path)
    assert rebuild_warehouse() == 0
    assert house.sql(days) == before[1:]
    assert house.run(), house.failures()
    assert house.sql(days) == before
    assert house.value("SELECT count(*) FROM refined.protest_events WHERE event_date = %s", day) > 0
