"""Small files of the two sources for tests: one event or county a line, all of it said by the test."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from etl_assets.local.sample import COLUMNS
from etl_assets_tests.house import House

Row = dict[str, str]
#: A point inside of the county that `county` gives by default, and one outside of all.
INSIDE, OUTSIDE = ("34.5", "-118.5"), ("36.5", "-130.5")


def event(**changes: str) -> Row:
    """An event in Los Angeles, as the publisher writes one, but for what is given."""
    lat, lon = INSIDE
    return {
        "date": "2025-01-15", "locality": "Los Angeles", "state": "CA", "resolved_county": "Los Angeles",
        "fips_code": "06037", "lat": lat, "lon": lon, "location": "City Hall", "title": "A March",
        "event_type": "march", "organizations": "Walkers", "size_low": "10", "size_mean": "15", "size_high": "20",
        "valence": "1", "online": "0", "source1": "a.example",
    } | changes  # fmt: skip


def event_file(rows: Iterable[Mapping[str, str]], columns: Sequence[str] = COLUMNS, delimiter: str = ",") -> bytes:
    """An event file of these rows; a field that a row does not have is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def county(**changes: Any) -> dict[str, Any]:
    """Los Angeles County as a square around its point, but for what is given."""
    square = [[[-119, 34], [-118, 34], [-118, 35], [-119, 35], [-119, 34]]]
    feature = {"id": "06037", "STATE": "06", "NAME": "Los Angeles", "LSAD": "County", "CENSUSAREA": 4057.9,
               "geometry": {"type": "Polygon", "coordinates": square}} | changes  # fmt: skip
    own = {"id": feature.pop("id"), "geometry": feature.pop("geometry")}
    return {"type": "Feature", "properties": {name: v for name, v in feature.items() if v is not None}, **own}


def county_file(*features: Mapping[str, Any]) -> bytes:
    """A counties file."""
    return json.dumps({"type": "FeatureCollection", "features": features}).encode()


def publish_events(house: House, date: str, content: bytes) -> None:
    """Let the source of events show this file from now on."""
    house.write("protest_events", date, "ccc.csv", content)
    house.publish(date)


def publish_counties(house: House, content: bytes) -> None:
    """Let the source of counties show this file."""
    house.write("us_counties", "2010", "counties.geojson", content)


def read_independently(content: bytes) -> list[Row]:
    """The records of an event file by other means than the project's: Python's csv, with a sign for a lone CR."""
    text = re.sub(rb"\r(?!\n)", "\u240d".encode(), content).decode("utf-8", "surrogateescape")
    text = re.sub("[\udc80-\udcff]", lambda byte: chr(ord(byte[0]) - 0xDC00), text)  # such a byte is Latin-1
    rows = csv.DictReader(io.StringIO(text, newline=""))
    return [{name: value.replace("\u240d", "\r") for name, value in row.items()} for row in rows]


def days(rows: Iterable[Row]) -> dict[str, Counter[frozenset[tuple[str, str]]]]:
    """What each day holds, whatever the order of rows, and columns that are empty."""
    found: dict[str, Counter[frozenset[tuple[str, str]]]] = {}
    for row in rows:
        if re.fullmatch(r"\d{4}-\d\d-\d\d", row["date"]):
            found.setdefault(row["date"], Counter())[frozenset((k, v) for k, v in row.items() if v)] += 1
    return found
