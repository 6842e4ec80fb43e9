"""presentation.eventdata over the rows that were there before: their ids stay theirs, for good."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import shapely

from etl_assets.datasets.eventdata_baseline import COLUMNS, points
from etl_assets.local.rebuild import rebuild_warehouse
from etl_assets_tests.datasets.files import (
    INSIDE,
    county,
    county_file,
    event,
    event_file,
    publish_counties,
    publish_events,
)
from etl_assets_tests.house import House

POINT = shapely.Point(float(INSIDE[1]), float(INSIDE[0]))
Row = dict[str, Any]


def before(**changes: Any) -> Row:
    """A row of the table before, equal to the event that `event` gives, but for what is given."""
    return {
        "id": 101, "event_id": 7001, "event_date": "2025-01-15", "event_state": "CA", "event_county": "Los Angeles",
        "event_city": "Los Angeles", "event_type": "march", "event_source": "a.example", "geometry": POINT,
    } | changes  # fmt: skip


#: One that the source has twice, one that it has, one of a day that it does not have, one without a place. A source
#: may have been told twice; without any, a CSV file has no text.
BEFORE = [
    before(event_source="a.example,a.example"),
    before(id=90, event_id=7002, event_city="Pasadena", event_source=""),
    before(id=500, event_id=7003, event_date="2017-01-20"),
    before(id=7, event_id=7004, event_date="2025-01-16", event_county=None, geometry=None),
]
EVENTS = [
    event(),
    event(title="Another, equal in what eventdata shows"),
    event(locality="Pasadena", source1=""),
    event(locality="Glendale"),
    event(date="2025-01-20"),
]
#: What the table is to hold: id, its event's id before if it had one, date, city.
EXPECTED = [
    (7, 7004, "2025-01-16", "Los Angeles"),
    (90, 7002, "2025-01-15", "Pasadena"),
    (101, 7001, "2025-01-15", "Los Angeles"),
    (500, 7003, "2017-01-20", "Los Angeles"),
    (501, None, "2025-01-15", "Los Angeles"),
    (502, None, "2025-01-15", "Glendale"),
    (503, None, "2025-01-20", "Los Angeles"),
]


def as_csv(rows: list[Row], geometry: str = "wkb_hex") -> bytes:
    """As PostgreSQL's COPY writes the table (hexadecimal WKB), or with the geometry as WKT."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(row | {"geometry": row["geometry"] and getattr(row["geometry"], geometry)} for row in rows)
    return text.getvalue().encode()


def as_geojson(rows: list[Row]) -> bytes:
    """As geopandas writes the table: the id is a property, and the feature's own is its position."""
    features = [
        {"type": "Feature", "id": str(n), "properties": {name: row[name] for name in COLUMNS[:-1]},
         "geometry": row["geometry"] and json.loads(shapely.to_geojson(row["geometry"]))}
        for n, row in enumerate(rows)
    ]  # fmt: skip
    return json.dumps({"type": "FeatureCollection", "features": features}).encode()


def eventdata(house: House) -> list[tuple[Any, ...]]:
    """The table's rows by id."""
    return house.sql("SELECT id, event_id, event_date::text, event_city FROM presentation.eventdata ORDER BY id")


def known(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Rows with the event's id only where it was there before."""
    return [(i, event_id if event_id in range(7001, 7005) else None, *rest) for i, event_id, *rest in rows]


@pytest.fixture
def small(house: House) -> House:
    """A house with five events and one county."""
    publish_counties(house, county_file(county()))
    publish_events(house, "2025-03-05", event_file(EVENTS))
    return house


def make(house: House) -> None:
    """Land, read and refine the baseline."""
    for stage in ("landing", "raw", "refined"):
        house.materialize(f"{stage}/eventdata_baseline")


def test_rows_from_before_keep_their_ids(small: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are not doubled, and new rows follow the greatest id; running again changes nothing."""
    baseline = tmp_path / "before.csv"
    baseline.write_bytes(as_csv(BEFORE))
    monkeypatch.setenv("ETL_EVENTDATA_BASELINE", str(baseline))
    assert small.run(), small.failures()
    assert known(eventdata(small)) == EXPECTED
    ids = small.sql("SELECT event_id FROM refined.protest_events ORDER BY 1")
    assert ids == [(7005 + n,) for n in range(len(EVENTS))]
    wkt = small.sql("SELECT DISTINCT ST_AsText(geometry), ST_SRID(geometry) FROM presentation.eventdata ORDER BY 1")
    assert wkt == [("POINT(-118.5 34.5)", 4326), (None, None)]
    table, objects = small.frame("presentation.eventdata"), small.objects()

    assert small.run(), small.failures()
    assert small.made() == {}
    for key in ("refined/eventdata_baseline", "refined/us_counties"):
        small.materialize(key)
    small.materialize("refined/protest_events", "2025-01-15", "2025-01-20")
    small.materialize("presentation/eventdata", "2025-01-14", "2025-01-20")
    assert small.frame("presentation.eventdata").equals(table)
    assert {name: size for name, size in small.objects().items() if name in objects} == objects

    monkeypatch.delenv("ETL_EVENTDATA_BASELINE")  # as in another terminal
    assert small.run(), small.failures()
    assert small.run(anew=True), small.failures()
    assert small.frame("presentation.eventdata").equals(table)

    publish_events(small, "2025-03-06", event_file([event(locality="Burbank"), *EVENTS[1:]]))
    assert small.run(), small.failures()
    assert small.made()["presentation/eventdata"] == 1
    # The row that was there before stays, whether or not the source still has its event.
    assert [row[:1] + row[2:] for row in eventdata(small)] == [
        *((row[0], *row[2:]) for row in EXPECTED if row[0] != 501),
        (504, "2025-01-15", "Burbank"),
    ]
    monkeypatch.setenv("ETL_EVENTDATA_BASELINE", "none")
    assert small.run(), small.failures()
    assert small.value("SELECT count(*) FROM refined.eventdata_baseline") == 0


def test_a_county_of_another_name_doubles_no_row_from_before(
    small: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other boundaries call it otherwise, and a row from before may have none; of two, each keeps its own."""
    baseline = tmp_path / "before.csv"
    rows = [before(event_county=None), before(id=90, event_id=7002, event_county="Ventura", event_city="Ojai")]
    baseline.write_bytes(as_csv(rows))
    monkeypatch.setenv("ETL_EVENTDATA_BASELINE", str(baseline))
    away = {"lat": "33.0", "lon": "-117.0"}
    twins = [event(locality="Ojai"), event(locality="Ojai", resolved_county="Ventura", fips_code="6111.0", **away)]
    publish_events(small, "2025-03-05", event_file([event(), *twins]))
    assert small.run(), small.failures()
    wanted = [(90, "Ventura", "Ojai"), (101, None, "Los Angeles"), (102, "Los Angeles", "Ojai")]
    shown = "SELECT id, event_county, event_city FROM presentation.eventdata ORDER BY id"
    assert small.sql(shown) == wanted

    publish_counties(small, county_file(county(NAME="The Angels")))
    assert small.run(), small.failures()
    assert small.sql(shown) == [*wanted[:2], (102, "The Angels", "Ojai")]


def test_a_baseline_is_the_same_however_it_is_written(
    small: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    baseline, tables = tmp_path / "before", []
    monkeypatch.setenv("ETL_EVENTDATA_BASELINE", str(baseline))
    for content in (as_csv(BEFORE), as_csv(BEFORE, "wkt"), as_geojson(BEFORE), as_csv([*BEFORE, BEFORE[0]])):
        baseline.write_bytes(content)
        make(small)
        tables.append(small.frame("refined.eventdata_baseline"))
    assert tables[0].height == 4
    assert all(table.equals(tables[0]) for table in tables)
    assert small.check("refined/eventdata_baseline", "balance").metadata["merged"].value == 1, (
        "a row that is there twice"
    )


def test_a_baseline_by_its_address(small: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for conditionally, as any source; one that cannot be had is no empty one."""
    small.write("baseline", "2025-01-01", "eventdata.csv", as_csv(BEFORE, "wkt"))
    address = "/baseline/eventdata.csv"
    monkeypatch.setenv("ETL_EVENTDATA_BASELINE", os.environ["ETL_LOCAL_SOURCES_URL"] + address)
    assert small.run(), small.failures()
    assert known(eventdata(small)) == EXPECTED
    assert small.run()
    assert small.made() == {}
    assert small.faults.count(address, method="GET", status=200) == 1
    monkeypatch.setenv("ETL_EVENTDATA_BASELINE", os.environ["ETL_LOCAL_SOURCES_URL"] + "/baseline/gone.csv")
    assert not small.run()
    assert "/baseline/gone.csv answered HTTP 404" in small.failures()
    assert known(eventdata(small)) == EXPECTED


def test_a_row_from_before_that_is_none(small: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is kept out with its reason, and its neighbours are there; a file that is not the table is refused."""
    baseline = tmp_path / "before.csv"
    bad = [
        before(id="x", event_date="2020-05-05"),
        before(id="12.0"),
        before(id=13, event_date=""),
        before(id=14, event_date="2016-12-31"),
        before(id=15, event_id=""),
    ]
    rows = as_csv([*BEFORE, *bad]) + b"16,7,2025-01-15,CA,,,,,POINT (1\n"
    baseline.write_bytes(rows)
    monkeypatch.setenv("ETL_EVENTDATA_BASELINE", str(baseline))
    make(small)
    found = small.sql("SELECT id FROM refined.eventdata_baseline ORDER BY id")
    assert found == [(7,), (12,), (90,), (101,), (500,)]
    kept = small.sql(
        "SELECT _source_row, columns[1], values[1], _partition FROM quarantine.eventdata_baseline ORDER BY 1"
    )
    assert kept == [
        (5, "id", "x", "2020-05-05"),
        (7, "event_date", "", ""),
        (8, "event_date", "2016-12-31", "2016-12-31"),
        (9, "event_id", "", "2025-01-15"),
        (10, "geometry", "POINT (1", "2025-01-15"),
    ]
    baseline.write_bytes(as_csv(BEFORE))
    make(small)
    assert small.value("SELECT count(*) FROM quarantine.eventdata_baseline") == 0

    baseline.write_bytes(b"id,event_date\n1,2025-01-15\n")
    small.materialize("landing/eventdata_baseline")
    assert not small.materialize("raw/eventdata_baseline", raise_on_error=False).success
    assert not small.check("raw/eventdata_baseline", "readable").passed
    assert small.value("SELECT count(*) FROM refined.eventdata_baseline") == 4


def test_a_baseline_that_comes_after_the_first_run(
    small: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where its ids are free it is right; where they were given to others it is refused, with the way out."""
    assert small.run(), small.failures()
    table = small.frame("presentation.eventdata")
    assert table["id"].to_list() == [1, 2, 3, 4, 5]
    baseline = tmp_path / "before.csv"
    monkeypatch.setenv("ETL_EVENTDATA_BASELINE", str(baseline))

    baseline.write_bytes(as_csv([before(id=2, event_id=7001), before(id=90, event_id=7002, event_city="Elsewhere")]))
    assert not small.run()
    assert "1 ids of the baseline, such as 2, were assigned to others before it was set" in small.failures()
    assert "set ETL_EVENTDATA_BASELINE before the first run" in small.failures()
    assert small.frame("presentation.eventdata").equals(table)
    assert not small.run()

    for name in ("identities/eventdata", "presentation/eventdata"):
        folder = small.lake.folder
        assert folder is not None
        shutil.rmtree(folder / name)
    rebuild_warehouse()
    assert small.run(), small.failures()
    assert [row[0] for row in eventdata(small)] == [2, 90, 91, 92, 93, 94]
    assert small.run()
    assert small.made() == {}

    baseline.write_bytes(as_csv([before(id=1000, event_id=7001), before(id=90, event_id=7002, event_city="Elsewhere")]))
    assert small.run(), small.failures()
    assert [row[0] for row in eventdata(small)] == [90, 91, 92, 93, 94, 1000]

    baseline.write_bytes(as_csv([before(id=1000, event_id=2, event_city="Elsewhere")]))
    assert not small.run()
    assert "1 event_ids of the baseline, such as 2, were assigned to others before it was set" in small.failures()
    assert "delete identities/protest_events/, refined/protest_events/, identities/eventdata/," in small.failures()


def test_points_however_they_are_written() -> None:
    point = shapely.Point(1, 2)
    texts = [
        '{"type":"Point","coordinates":[1,2]}', "POINT (1 2)", "POINT Z (1 2 3)", point.wkb_hex,
        shapely.to_wkb(shapely.set_srid(point, 4326), hex=True, include_srid=True), "SRID=4326;POINT (1 2)",
        None, "here", "SRID=3857;POINT (1 2)", "POINT (500 900)", "POINT (1 90.1)",
        "POINT EMPTY", '{"type":"Point","coordinates":[]}',
        shapely.to_wkb(shapely.set_srid(point, 3857), hex=True, include_srid=True),
    ]  # fmt: skip
    found = points(pl.Series("geometry", texts, dtype=pl.String))
    assert [None if wkb is None else shapely.from_wkb(wkb).wkt for wkb in found] == ["POINT (1 2)"] * 6 + [None] * 8
    assert points(pl.Series(texts[::-1], dtype=pl.String)).to_list() == found.to_list()[::-1]  # the first has none
