"""The counties file: boundaries mended, codes checked, and what cannot be a county kept out."""

from __future__ import annotations

import json
import re
from typing import Any

import polars as pl
import pytest
import shapely

from etl_assets.datasets.us_counties import UsCounties, boundaries, locate
from etl_assets.quality.contract import storage_table
from etl_assets.storage.frames import to_geopandas
from etl_assets_tests.datasets.files import county, county_file, publish_counties
from etl_assets_tests.house import House

SQUARE = "POLYGON ((0 0, 4 0, 4 4, 0 4, 0 0))"
STAGES = ("landing/us_counties", "raw/us_counties", "refined/us_counties")


def make(house: House) -> None:
    """Land, read and refine the counties file."""
    for stage in STAGES:
        house.materialize(stage)


@pytest.mark.parametrize(
    ("wkt", "becomes"),
    [
        pytest.param(SQUARE, f"MULTIPOLYGON ({SQUARE[8:]})", id="polygon"),
        pytest.param(f"MULTIPOLYGON ({SQUARE[8:]})", f"MULTIPOLYGON ({SQUARE[8:]})", id="multipolygon"),
        pytest.param(
            "POLYGON ((0 0, 4 4, 4 0, 0 4, 0 0))",
            "MULTIPOLYGON (((0 0, 0 4, 2 2, 0 0)), ((4 0, 2 2, 4 4, 4 0)))",
            id="hourglass",
        ),
        pytest.param(
            "POLYGON ((0 0, 4 0, 4 4, 0 4, 0 0), (1 1, 2 1, 2 2, 1 2, 1 1))",
            "MULTIPOLYGON (((0 0, 4 0, 4 4, 0 4, 0 0), (1 1, 2 1, 2 2, 1 2, 1 1)))",
            id="with a hole",
        ),
        pytest.param(
            f"GEOMETRYCOLLECTION ({SQUARE}, LINESTRING (9 9, 8 8))", f"MULTIPOLYGON ({SQUARE[8:]})", id="collection"
        ),
        pytest.param("POLYGON ((0 0, 4 0, 4 0, 0 0))", None, id="without an area"),
        pytest.param("LINESTRING (0 0, 1 1)", None, id="line"),
    ],
)
def test_boundaries_become_valid_multipolygons(wkt: str, becomes: str | None) -> None:
    [shape] = boundaries(pl.Series([shapely.to_geojson(shapely.from_wkt(wkt))]))
    if becomes is None:
        assert shape is None
    else:
        assert shape.geom_type == "MultiPolygon"
        assert shape.is_valid
        assert shape.normalize().equals_exact(shapely.from_wkt(becomes).normalize(), 1e-9)


def test_what_is_no_geometry_has_no_boundary() -> None:
    """And the others keep their places."""
    square = shapely.to_geojson(shapely.from_wkt(SQUARE))
    texts = [None, square, "{}", '{"type":"Polygon"}', '{"type":"Polygon","coordinates":[[[NaN,0]]]}', square]
    assert [shape is not None for shape in boundaries(pl.Series(texts))] == [False, True, False, False, False, True]


@pytest.mark.parametrize(
    ("codes", "vintage"),
    [(["06037"], 2010), (["06037", "46102"], 2015), (["02063", "02158"], 2019), (["09110", "46102"], 2022)],
)
def test_vintage_is_that_of_the_newest_code(house: House, codes: list[str], vintage: int) -> None:
    publish_counties(house, county_file(*[county(id=code, STATE=code[:2]) for code in codes]))
    make(house)
    assert house.sql("SELECT fips, vintage FROM refined.us_counties ORDER BY fips") == [
        (c, vintage) for c in sorted(codes)
    ]


def test_features_are_typed_merged_or_quarantined(house: House) -> None:
    """And every boundary is a valid MultiPolygon with an index on it."""
    hourglass = {"type": "Polygon", "coordinates": [[[0, 0], [4, 4], [4, 0], [0, 4], [0, 0]]]}
    publish_counties(
        house,
        county_file(
            county(),
            county(),
            county(id=1001, STATE="1", NAME="Ñuble", LSAD=None, CENSUSAREA="unknown"),
            county(id="06001", geometry=hourglass),
            county(id="06003", geometry=None),
            county(id="06005", STATE="07"),
            county(id="06007", NAME=None),
            county(id="6-9"),
            county(id="06009", geometry={"type": "Polygon", "coordinates": []}),
            county(id="06013", geometry={"type": "LineString", "coordinates": [[0, 0], [1, 1]]}),
            county(id=None, STATE="6", COUNTY="11", NAME="Colusa"),  # as the Census Bureau's own have it
        ),
    )
    make(house)
    assert house.sql("SELECT fips, state_fips, name, legal_type, census_area FROM refined.us_counties ORDER BY 1") == [
        ("01001", "01", "Ñuble", None, None),
        ("06001", "06", "Los Angeles", "County", 4057.9),
        ("06011", "06", "Colusa", "County", 4057.9),
        ("06037", "06", "Los Angeles", "County", 4057.9),
    ]
    shapes = "SELECT DISTINCT GeometryType(geometry), ST_IsValid(geometry), ST_SRID(geometry) FROM refined.us_counties"
    assert house.sql(shapes) == [("MULTIPOLYGON", True, 4326)]
    columns = "columns[1], checks[1], left(values[1], 15), _source_row, record::json->>'id'"
    assert house.sql(f"SELECT {columns} FROM quarantine.us_counties ORDER BY _source_row") == [
        ("geometry", "not_nullable", "", 5, "06003"),
        ("", "fips_begins_with_state_fips", "fips=06005, sta", 6, "06005"),
        ("name", "not_nullable", "", 7, "06007"),
        ("fips", r"str_matches('^\d{5}$')", "006-9", 8, "6-9"),
        ("geometry", "is_not_empty", "010600000001000", 9, "06009"),
        ("geometry", "readable", '{"type":"LineSt', 10, "06013"),
    ]
    facts = {k: v.value for k, v in house.check("refined/us_counties", "balance").metadata.items()}
    assert facts == {"rows_in": 11, "rows_out": 4, "quarantined": 6, "merged": 1}


def box(west: float, south: float, size: float) -> dict[str, Any]:
    """A square."""
    east, north = west + size, south + size
    return {
        "type": "Polygon",
        "coordinates": [[[west, south], [east, south], [east, north], [west, north], [west, south]]],
    }


BROKEN: dict[str, tuple[bytes, str, str]] = {
    "in metres": (
        county_file(*[county(id=f"06{n:03}", geometry=box(-13e6, 4e6, 1e5)) for n in range(30)]),
        "refined/us_counties",
        "30 of 30 rows break the contract",
    ),
    "latitude before longitude": (
        county_file(*[county(id=f"06{n:03}", geometry=box(34, -119, 1)) for n in range(30)]),
        "refined/us_counties",
        "30 of 30 rows break the contract",
    ),
    "truncated": (
        county_file(county(), county(id="06039"))[:-150] + b" " * 8000,
        "raw/us_counties",
        "not complete JSON",
    ),
    "other json": (b'{"error": "try again"}' + b" " * 8000, "raw/us_counties", "not a GeoJSON FeatureCollection"),
    "without names": (
        county_file(*[county(NAME=None, ID=str(n)) for n in range(30)]),
        "raw/us_counties",
        r"missing: \['NAME'\]. It has: \['id', 'STATE', 'LSAD'",
    ),
    "codes twice": (
        county_file(*[county(id=f"06{n % 15:03}", NAME=f"Another {n}") for n in range(30)]),
        "refined/us_counties",
        "30 of 30 rows break the contract",
    ),
    "nothing but bad ones": (
        county_file(*[county(id=f"06{n:03}", STATE="07") for n in range(30)]),
        "refined/us_counties",
        "30 of 30 rows break the contract",
    ),
    "html": (b"<html>" + b" " * 8000, "landing/us_counties", "HTML page instead of data"),
    "shrunk": (b"{}", "landing/us_counties", "2 bytes, but the last good file has .* shrank"),
}


def test_a_broken_file_leaves_the_last_good_counties(house: House) -> None:
    """Each is refused with a reason that names it, and the good file that follows is taken."""
    large = county(id="06041", NOTE="x" * 8000)  # so that none of the others is much larger
    publish_counties(house, county_file(county(), county(id="06039", NAME="Madera"), large))
    make(house)
    table = house.frame("refined.us_counties")
    stored = house.lake.get("refined/us_counties/all.parquet")
    for kind, (content, stage, why) in BROKEN.items():
        publish_counties(house, content)
        found = {name: house.materialize(name, raise_on_error=False) for name in STAGES[: STAGES.index(stage) + 1]}
        assert [name for name, result in found.items() if not result.success] == [stage], kind
        [failure] = [event.step_failure_data for event in found[stage].all_node_events if event.is_step_failure]
        assert failure.error is not None
        assert re.search(why, failure.error.message), (kind, failure.error.message)
        assert house.frame("refined.us_counties").equals(table), kind
        assert house.lake.get("refined/us_counties/all.parquet") == stored, kind
    publish_counties(house, county_file(county(), county(id="06039", NAME="Madera!"), large))
    make(house)
    assert house.value("SELECT name FROM refined.us_counties WHERE fips = '06039'") == "Madera!"


def test_points_are_located_as_postgis_does(house: House) -> None:
    """Inside, on a border, in a hole, in an overlap, outside, and none."""
    boxes = {"06001": shapely.box(0, 0, 4, 4), "06003": shapely.box(4, 0, 8, 4), "06005": shapely.box(7, 1, 9, 2),
             "06007": shapely.box(20, 0, 30, 10).difference(shapely.box(24, 4, 26, 6))}  # fmt: skip
    publish_counties(
        house,
        county_file(*[county(id=f, geometry=json.loads(shapely.to_geojson(shape))) for f, shape in boxes.items()]),
    )
    make(house)
    table = storage_table(UsCounties, with_source=True)
    counties = to_geopandas(table, house.lake.read(table).frame)
    places = [(1, 1), (4, 2), (0, 0), (7.5, 1.5), (8.5, 1.5), (25, 5), (21, 1), (50, 50)]
    points = pl.Series([None, *(shapely.to_wkb(shapely.Point(p)) for p in places)], dtype=pl.Binary)
    found = locate(points, counties)
    expected = [
        house.value(
            "SELECT min(fips) FROM refined.us_counties WHERE ST_Contains(geometry, ST_SetSRID(ST_Point(%s, %s), 4326))",
            x,
            y,
        )
        for x, y in places
    ]
    assert expected == ["06001", None, None, "06003", "06005", None, "06007", None]
    assert found.to_list() == [None, *expected]
    assert locate(points.clear(), counties).to_list() == []
