"""The sample of the census's county borders: one GeoJSON file, with the difficulties of real borders.

Here: made-up counties in boxes where some states are, neighbours that share a border, islands, a city inside a county
and a border that crosses itself; and the grid of cells they are drawn from. Not here: what happens in a county
(events.py), and what the census says of its people (census.py).
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from etl_assets.local.sample.files import gzipped

Point = tuple[float, float]
Ring = list[Point]


@dataclass(frozen=True)
class County:
    """A county, its borders, and where something can happen in it."""

    state: str
    fips: str
    name: str
    lsad: str
    #: Each polygon is its outer ring, then its holes.
    polygons: list[list[Ring]]
    #: Where localities can be.
    places: list[Point]

    @property
    def full_name(self) -> str:
        """The name with the kind of county, as other sources have it."""
        suffix = {"Muno": "Municipio"}.get(self.lsad, self.lsad)
        return f"{self.name} {suffix}".strip()


_STATES: list[tuple[str, str, str, tuple[float, float, float, float], tuple[int, int], str]] = [
    # Code, FIPS, kind of county, box (west, south, east, north), columns and rows of counties, their names.
    # The boxes lie where the states are. They leave gaps, as simplified coasts do.
    ("AK", "02", "Borough", (-152.0, 60.0, -146.0, 64.0), (2, 1), "Birch Glacier"),
    ("AL", "01", "County", (-88.2, 31.0, -85.2, 34.8), (2, 2), "Jefferson Madison Clay Monroe"),
    ("CA", "06", "County", (-122.4, 34.0, -117.2, 39.0), (2, 3), "Lake Orange Sierra Mariposa Union Kings"),
    ("CO", "08", "County", (-108.8, 37.2, -102.4, 40.8), (2, 2), "Jefferson Lake Lincoln Washington"),
    ("DC", "11", "", (-77.12, 38.8, -76.92, 38.99), (1, 1), "District_of_Columbia"),
    ("GA", "13", "County", (-85.1, 31.0, -81.6, 34.6), (2, 2), "Clay Jackson Washington Union"),
    ("HI", "15", "County", (-158.2, 20.6, -155.2, 21.7), (2, 1), "Koa Palila"),
    ("LA", "22", "Parish", (-93.6, 30.0, -90.0, 32.8), (2, 2), "Jefferson Lincoln Madison Washington"),
    ("MA", "25", "County", (-73.2, 42.1, -70.8, 42.7), (3, 1), "Franklin Essex Hampden"),
    ("NY", "36", "County", (-79.0, 42.0, -73.6, 44.6), (3, 2), "Kings Queens Monroe Franklin Orange Essex"),
    ("OH", "39", "County", (-84.6, 39.0, -81.0, 41.4), (2, 2), "Franklin Madison Union Clay"),
    ("PR", "72", "Muno", (-67.1, 18.0, -65.8, 18.4), (2, 1), "Peñuelas Río_Claro"),
    ("TX", "48", "County", (-103.0, 29.5, -95.0, 33.5), (3, 2), "Jackson Jefferson Kent Lee Franklin Orange"),
    ("VA", "51", "County", (-82.0, 37.0, -77.4, 38.8), (2, 1), "Franklin Orange"),
    ("WA", "53", "County", (-123.8, 46.2, -117.6, 48.6), (3, 2), "Lincoln Kittson Clay Union Lewis Franklin"),
]


def county_files(counties: Iterable[County]) -> dict[str, bytes]:
    """The file of borders."""
    return {"us_counties/2010/counties.geojson.gz": gzipped(geojson(counties))}


def make_counties(rng: random.Random) -> list[County]:
    """All counties of the sample, state by state."""
    counties = []
    for state, state_fips, lsad, box, (columns, rows), names in _STATES:
        cells = grid(rng, box, columns, rows, points_per_edge=4)
        width, height = (box[2] - box[0]) / columns, (box[3] - box[1]) / rows
        for number, (ring, name) in enumerate(zip(cells, names.split(), strict=True)):
            west, south = box[0] + number % columns * width, box[1] + number // columns * height
            places = [
                (round(west + x * width, 7), round(south + y * height, 7))
                for x, y in ((0.31, 0.36), (0.68, 0.7), (0.5, 0.5))
            ]
            fips = f"{state_fips}{1 + 2 * number:03d}"
            counties.append(County(state, fips, name.replace("_", " "), lsad, [[ring]], places[:2]))
            if fips in ("15001", "25003", "53005"):  # off the coast
                counties[-1].polygons.append([_square(places[2][0], box[1] - height / 4, width / 12)])
            if fips == "51003":  # an independent city inside a county
                city = _square(*places[2], width / 12)
                counties[-1].polygons[0].append(city[::-1])
                counties.append(County(state, "51510", "Newbridge", "city", [[city]], places[2:]))
            if fips == "15003":  # an invalid polygon: its border crosses itself, like an hourglass's
                (x, y), half = places[2], width / 3
                hourglass = ((-1, -1), (1, -1), (-0.5, 1), (0.5, 1), (-1, -1))
                outline = [(round(x + dx * half, 6), round(y + dy * half, 6)) for dx, dy in hourglass]
                counties[-1].polygons[:] = [[outline]]
                counties[-1].places[:] = [(x, round(y - half / 2, 7))]
    return counties


def geojson(counties: Iterable[County]) -> bytes:
    """The counties in the form of the file that the census publishes."""
    features = []
    for county in counties:
        several = len(county.polygons) > 1
        properties = {
            "GEO_ID": f"0500000US{county.fips}",
            "STATE": county.fips[:2],
            "COUNTY": county.fips[2:],
            "NAME": county.name,
            "LSAD": county.lsad,
            "CENSUSAREA": round(sum(_square_miles(ring) for rings in county.polygons for ring in rings), 3),
        }
        geometry = {
            "type": "MultiPolygon" if several else "Polygon",
            "coordinates": county.polygons if several else county.polygons[0],
        }
        features.append({"type": "Feature", "properties": properties, "geometry": geometry, "id": county.fips})
    collection = {"type": "FeatureCollection", "features": features}
    return json.dumps(collection, ensure_ascii=False).encode()


def grid(
    rng: random.Random,
    box: tuple[float, float, float, float],
    columns: int,
    rows: int,
    points_per_edge: int,
) -> list[Ring]:
    """The rings of uneven cells, row by row from the south-west; neighbours share their border."""
    west, south, east, north = box
    width, height = (east - west) / columns, (north - south) / rows

    def wobble(share: float) -> float:
        return share * (2 * rng.random() - 1)

    corners = [
        [(west + (column + wobble(0.1)) * width, south + (row + wobble(0.1)) * height) for column in range(columns + 1)]
        for row in range(rows + 1)
    ]

    def edge(start: Point, end: Point) -> Ring:
        # An edge strays only across its direction, and least at its ends, so it meets neither itself nor the next.
        along_x = abs(end[0] - start[0]) * height > abs(end[1] - start[1]) * width
        points = [start]
        for number in range(1, points_per_edge + 1):
            t = number / (points_per_edge + 1)
            x, y = start[0] + t * (end[0] - start[0]), start[1] + t * (end[1] - start[1])
            stray = 4 * t * (1 - t) * wobble(0.06)
            points.append((x, y + stray * height) if along_x else (x + stray * width, y))
        return [(round(x, 6), round(y, 6)) for x, y in [*points, end]]

    across = [[edge(*pair) for pair in pairwise(line)] for line in corners]
    up = [[edge(*pair) for pair in zip(lower, upper, strict=True)] for lower, upper in pairwise(corners)]
    return [
        [
            *across[row][column][:-1],
            *up[row][column + 1][:-1],
            *across[row + 1][column][:0:-1],
            *up[row][column][::-1],
        ]
        for row in range(rows)
        for column in range(columns)
    ]


def _square(x: float, y: float, half: float) -> Ring:
    corners = ((-half, -half), (half, -half), (half, half), (-half, half), (-half, -half))
    return [(round(x + dx, 6), round(y + dy, 6)) for dx, dy in corners]


def _square_miles(ring: Ring) -> float:
    """The area with its sign, so that a hole (which runs clockwise) counts against its polygon."""
    twice = sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in pairwise(ring))
    return twice / 2 * 69.17**2 * math.cos(math.radians(ring[0][1]))
