"""The project's own sample of its sources, generated: same columns and same kinds of dirt as the real ones.

Here: the small sample that the local source server shows by default (`write_sample`), and the large clean
files that benchmarks need (`synthetic_events`, `synthetic_counties`). Every name, text and border is made up
here; nothing is taken from a publisher's file. The same code always writes the same data: no clock, no
network, one seed.
Not here: serving (sources.py), and what the project makes of the data.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import math
import random
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from etl_assets.local.sample_retail import retail_files
from etl_assets.local.sample_totesys import totesys_files

__all__ = [
    "CHANGED_DAYS",
    "COLUMNS",
    "COLUMNS_SINCE_APRIL_2025",
    "CORRECTED_ADVANCES",
    "RESTATED_VALUES",
    "synthetic_counties",
    "synthetic_events",
    "write_sample",
]

Point = tuple[float, float]
Ring = list[Point]
Row = dict[str, str]

_SOURCES = tuple(f"source{number}" for number in range(1, 31))
_BEFORE_ISSUES = (
    *("date", "locality", "state", "resolved_locality", "resolved_state", "resolved_county", "fips_code"),
    *(
        "lat",
        "lon",
        "location",
        "title",
        "event_type",
        "organizations",
        "participants",
        "notables",
        "targets",
    ),
    *("claims_summary", "claims_verbatim"),
)
_AFTER_ISSUES = (
    *(
        "valence",
        "conf",
        "macroevent",
        "online",
        "size_text",
        "size_low",
        "size_high",
        "size_mean",
        "size_cat",
    ),
    *("participant_measures", "police_measures", "participant_injuries", "police_injuries", "arrests"),
    *("property_damage", "arrests_any", "participant_casualties_any", "police_casualties_any"),
    *("property_damage_any", "participant_deaths", "police_deaths", "notes", "coder", *_SOURCES),
)
COLUMNS = (*_BEFORE_ISSUES, *_AFTER_ISSUES)
"""The 71 columns of a phase 3 event file."""
COLUMNS_SINCE_APRIL_2025 = (
    *_BEFORE_ISSUES,
    *("issue_tags_summary", "issue_tags_verbatim", "issues"),
    *_AFTER_ISSUES,
)
"""The 74 columns since April 2025: three more, in the middle of the row."""

CHANGED_DAYS = frozenset(
    {
        "2025-02-10",  # every row vanishes
        "2025-02-11",  # late rows
        "2025-02-14",  # late rows and a vanished one
        "2025-02-19",  # corrected rows: size, point, sources
        "2025-02-23",  # vanished rows
        "2025-02-27",  # a corrected title, which makes it another event
        "2025-03-15",  # an announced event is postponed by a day
    }
)
"""The days of the first publication whose rows are others in the second. All its other days are the same."""


def write_sample(folder: Path) -> None:
    """Write the sample into `folder`, unless it is there already.

    It is written beside the folder and moved into place, so that a reader sees a whole sample or none. A
    sample written by another version of this module is replaced; any other folder is left alone.
    """
    stamp = _version()
    if _stamp(folder) == stamp:
        return
    if folder.exists() and any(folder.iterdir()) and _stamp(folder) is None:
        raise FileExistsError(f"{folder} holds something else; the sample needs a folder of its own")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        fresh, stale = Path(temporary, "fresh"), Path(temporary, "stale")
        for name, content in _sample_files().items():
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            (fresh / name).write_bytes(content)
        try:
            if folder.exists():
                folder.rename(stale)
            fresh.rename(folder)
        except OSError:
            if _stamp(folder) != stamp:  # else another process has just written the same
                raise


def _version() -> str:
    """Changes with what generates the sample."""
    modules = sorted(Path(__file__).parent.glob("sample*.py"))
    return hashlib.sha256(b"".join(module.read_bytes() for module in modules)).hexdigest()


def _stamp(folder: Path) -> str | None:
    with contextlib.suppress(FileNotFoundError):
        return (folder / ".stamp").read_text()
    return None


def _sample_files() -> dict[str, bytes]:
    rng = random.Random(20250305)  # noqa: S311 - repeatable is what is wanted
    counties = _counties(rng)
    first, second = _publications(rng, _localities(rng, counties))
    return {
        "us_counties/2010/counties.geojson.gz": _gzip(_geojson(counties)),
        "protest_events/2025-03-05/ccc.csv.gz": _gzip(_csv(COLUMNS, first)),
        "protest_events/2025-04-04/ccc.csv.gz": _gzip(_csv(COLUMNS_SINCE_APRIL_2025, second)),
        **_health_files(),
        **_advance_files(),
        **_poverty_files(counties),
        **totesys_files(),
        **retail_files(),
        ".stamp": _version().encode(),
    }


def _gzip(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def _csv(columns: Sequence[str], rows: Iterable[Row]) -> bytes:
    # Not csv.writer: it puts quotes around a lone carriage return, and the publisher's file does not.
    lines = [",".join(columns), *(",".join(_field(row.get(name, "")) for name in columns) for row in rows)]
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape")


def _field(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if set(text) & set(',"\n') else text


# Counties ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _County:
    state: str
    fips: str
    name: str
    lsad: str
    polygons: list[list[Ring]]
    """Each polygon is its outer ring, then its holes."""
    places: list[Point]
    """Where localities can be."""

    @property
    def full_name(self) -> str:
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


def _counties(rng: random.Random) -> list[_County]:
    counties = []
    for state, state_fips, lsad, box, (columns, rows), names in _STATES:
        cells = _grid(rng, box, columns, rows, points_per_edge=4)
        width, height = (box[2] - box[0]) / columns, (box[3] - box[1]) / rows
        for number, (ring, name) in enumerate(zip(cells, names.split(), strict=True)):
            west, south = box[0] + number % columns * width, box[1] + number // columns * height
            places = [
                (round(west + x * width, 7), round(south + y * height, 7))
                for x, y in ((0.31, 0.36), (0.68, 0.7), (0.5, 0.5))
            ]
            fips = f"{state_fips}{1 + 2 * number:03d}"
            counties.append(_County(state, fips, name.replace("_", " "), lsad, [[ring]], places[:2]))
            if fips in ("15001", "25003", "53005"):  # off the coast
                counties[-1].polygons.append([_square(places[2][0], box[1] - height / 4, width / 12)])
            if fips == "51003":  # an independent city inside a county
                city = _square(*places[2], width / 12)
                counties[-1].polygons[0].append(city[::-1])
                counties.append(_County(state, "51510", "Newbridge", "city", [[city]], places[2:]))
            if fips == "15003":  # an invalid polygon: its border crosses itself, like an hourglass's
                (x, y), half = places[2], width / 3
                hourglass = ((-1, -1), (1, -1), (-0.5, 1), (0.5, 1), (-1, -1))
                outline = [(round(x + dx * half, 6), round(y + dy * half, 6)) for dx, dy in hourglass]
                counties[-1].polygons[:] = [[outline]]
                counties[-1].places[:] = [(x, round(y - half / 2, 7))]
    return counties


def _geojson(counties: Iterable[_County]) -> bytes:
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


def _grid(
    rng: random.Random,
    box: tuple[float, float, float, float],
    columns: int,
    rows: int,
    points_per_edge: int,
) -> list[Ring]:
    """Return the rings of uneven cells, row by row from the south-west; neighbours share their border."""
    west, south, east, north = box
    width, height = (east - west) / columns, (north - south) / rows

    def wobble(share: float) -> float:
        return share * (2 * rng.random() - 1)

    corners = [
        [(west + (column + wobble(0.1)) * width, south + (row + wobble(0.1)) * height) for column in range(columns + 1)]
        for row in range(rows + 1)
    ]

    def edge(start: Point, end: Point) -> Ring:
        # It strays across its direction only, and least at its ends: so it meets neither itself nor the next.
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
    """Signed, so that a hole (which runs clockwise) counts against its polygon."""
    twice = sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in pairwise(ring))
    return twice / 2 * 69.17**2 * math.cos(math.radians(ring[0][1]))


# Events --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Locality:
    name: str
    county: _County
    point: Point

    def columns(self) -> Row:
        """Return what an event has from where it is, the FIPS code as a spreadsheet leaves it: 6001.0."""
        return {
            "locality": self.name,
            "state": self.county.state,
            "resolved_locality": self.name,
            "resolved_state": self.county.state,
            "resolved_county": self.county.full_name,
            "fips_code": f"{int(self.county.fips)}.0",
            "lat": str(self.point[1]),
            "lon": str(self.point[0]),
        }


_NAME_STARTS = (
    *(
        "Ash",
        "Bell",
        "Cedar",
        "Clear",
        "Elm",
        "Fair",
        "Glen",
        "Green",
        "Maple",
        "Mill",
        "North",
        "Oak",
        "Pine",
    ),
    *("Red", "Rock", "Salt", "Stone", "West"),
)
_NAME_ENDS = ("brook", "dale", "field", "ford", "haven", "land", "port", "ridge", "ton", "view", "ville")
_CAUSES = (
    *("clean rivers", "longer library hours", "the night bus", "public gardens", "school lunches"),
    *("fair rents", "the old theatre", "safe crossings", "peace", "nurses", "open archives", "the wetlands"),
)
_GRIEVANCES = (
    *("the bypass", "the data centre", "the water tariff", "the stadium tax", "night flights", "the quarry"),
)
_ORGANIZATIONS = (
    *("Riverside Tenants Circle", "Bell Street Choir", "Teachers of the Valley", "Walkers United"),
    *("Friends of the Marsh", "Local 9 of the Lamplighters", "Students for Shade", "The Orchard League"),
    *("Parents for Parks", "Mill Town Assembly", "Harvest Workers' Fund", "Grandparents at Noon"),
)
_VENUES = (
    *("City Hall", "Courthouse Steps", "Union Square", "North Bridge", "Central Library", "Depot Plaza"),
    *("Fairgrounds Gate", "Post Office", "Founders Park", "Ferry Landing", "Mill & Main", "Statehouse"),
)
_DOMAINS = (
    *("www.photofeed.example", "short.example", "www.valleyledger.example", "lakeherald.example"),
    *("www.channel5.example", "thecampuspost.example", "www.countycourier.example", "radio88.example"),
    *("www.morningbell.example", "dispatch.example", "civicnotes.example", "www.harbortimes.example"),
)
_EVENT_TYPES = (
    *("demonstration",) * 9,
    *("rally", "rally", "rally; march", "march", "protest", "Protest", "vigil", "strike", "counter-protest"),
    *("demonstarion", "Rally; demonstration", "demonstration;", "march; Rally"),
)
_SIZES = (
    *(("", 0, 0),) * 6,
    *(("dozens", 24, 24), ("count pic", 38, 45), ("about 100", 100, 100), ("hundreds", 200, 200)),
    *(("200 to 300", 200, 300), ("more than 1,000", 1000, 1000), ("count video", 61, 61)),
)
_ISSUES = ("economy", "environment", "education", "healthcare", "labor and workers rights", "transport")
_EVERY_DAY = tuple(str(date(2025, 2, 10) + timedelta(days=number)) for number in range(50))
_FIRST_DAYS, _LATER_DAYS = _EVERY_DAY[:20], _EVERY_DAY[20:]


def _localities(rng: random.Random, counties: Iterable[_County]) -> list[_Locality]:
    names = [start + end for start in _NAME_STARTS for end in _NAME_ENDS]
    rng.shuffle(names)
    return [
        _Locality("Washington" if county.state == "DC" else names.pop(), county, place)
        for county in counties
        for place in county.places[: 1 if county.state == "DC" else 2]
    ]


def _event(rng: random.Random, day: str, locality: _Locality) -> Row:
    cause, grievance = rng.choice(_CAUSES), rng.choice(_GRIEVANCES)
    size_text, low, high = rng.choice(_SIZES)
    organizations = rng.sample(_ORGANIZATIONS, rng.choice((0, 1, 1, 1, 2, 3)))
    sources = rng.sample(_DOMAINS, rng.choice((1, 1, 1, 2, 2, 3, 4)))
    mean = (low + high) / 2
    return {
        "date": day,
        **locality.columns(),
        "location": f"{rng.choice(_VENUES)} {rng.randint(1, 900)}" if rng.random() > 0.05 else "",
        "title": rng.choice((f"March for {cause.title()}", f"Noon for {cause.title()}", "", "")),
        "event_type": rng.choice(_EVENT_TYPES),
        "organizations": "; ".join(organizations),
        "participants": rng.choice(("", "", "", "students", "families; Families; children", "nurses")),
        "targets": rng.choice(("", "City Council", "the governor", "the governor; City council")),
        "claims_summary": rng.choice((f"for {cause}", f"for {cause}; against {grievance}")),
        "claims_verbatim": rng.choice(("", "", f"hands off {cause}; {cause} now")),
        "valence": rng.choice(("1.0", "1.0", "0.0", "2.0")),
        "conf": rng.choice(("", "1.0")),
        "macroevent": f"{day.replace('-', '')}-{locality.name.lower()}" if rng.random() < 0.03 else "",
        "online": "1" if rng.random() < 0.01 else "0",
        "size_text": size_text,
        "size_low": f"{low}.0" if low else "",
        "size_high": f"{high}.0" if high else "",
        "size_mean": str(mean) if low else "",
        "size_cat": str(sum(mean >= bound for bound in (1, 100, 1000, 10000))),
        "participant_measures": rng.choice(("", "", "amplified sound", "drums; banners")),
        "police_measures": rng.choice(("", "", "", "on scene")),
        "arrests_any": "0",
        "participant_casualties_any": "0",
        "police_casualties_any": "0",
        "property_damage_any": "0",
        "notes": rng.choice(("", "", "every Friday", "weekly")),
        "coder": rng.choice(("AA", "BB", "CC")),
        **dict(zip(_SOURCES, sources, strict=False)),
    }


def _publications(rng: random.Random, localities: list[_Locality]) -> tuple[list[Row], list[Row]]:
    """Return the file as published on 2025-03-05, and as published on 2025-04-04."""
    # Most events are in few places, as they are in life; every place has some.
    crowded = [*localities, *localities[::9] * 12]

    def events(day: str, count: int) -> list[Row]:
        return [_event(rng, day, rng.choice(crowded)) for _ in range(count)]

    first = [row for day in _FIRST_DAYS for row in events(day, 17 + rng.randrange(4))]
    first += [_event(rng, _FIRST_DAYS[7], locality) for locality in localities[::7]]
    _lose_points(rng, first)
    first += _dirt(rng, localities)
    first += events("2025-03-08", 3) + events("2025-03-15", 2)  # announced

    second = _corrected(first, [*events("2025-02-11", 3), *events("2025-02-14", 2)])
    later = [row for day in _LATER_DAYS for row in events(day, 8 + rng.randrange(4))]
    later += events("2025-04-12", 3) + events("2025-05-01", 2)  # announced
    # March 8 stays as it was announced: the rows of a day that has come need not have changed.
    later = [row for row in later if row["date"] != "2025-03-08"]
    _lose_points(rng, later)
    for row in later:
        tags = rng.sample(_ISSUES, rng.choice((1, 2, 2, 3)))
        row.update(issue_tags_summary="; ".join(tags), issues=";".join(sorted(tags)))
        row["issue_tags_verbatim"] = rng.choice(("", tags[0]))
    return _sorted(first), _sorted(second + later)


def _sorted(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: row["date"] or "9")


def _lose_points(rng: random.Random, rows: list[Row]) -> None:
    """Take the point from about 2.6 % of the rows, from half of these the FIPS code too."""
    for row in rows:
        chance = rng.random()
        if chance < 0.026:
            row.update(lat="", lon="")
        if chance < 0.013:
            row.update(fips_code="", resolved_county="")


def _corrected(first: list[Row], late: list[Row]) -> list[Row]:
    """Return the rows of the first publication as the second has them; see CHANGED_DAYS."""
    by_day: dict[str, list[Row]] = {}
    for row in first:
        by_day.setdefault(row["date"], []).append(dict(row))
    del by_day["2025-02-10"]
    del by_day["2025-02-14"][3], by_day["2025-02-23"][5], by_day["2025-02-23"][1]
    corrected = by_day["2025-02-19"]
    corrected[0].update(size_text="about 500", size_low="500.0", size_high="500.0", size_mean="500.0")
    corrected[1].update({"lat": corrected[2]["lat"], "lon": corrected[2]["lon"]})
    corrected[3]["source5"] = "www.lateedition.example"
    by_day["2025-02-27"][0]["title"] = "March for Longer Library Hours, at Last"
    by_day["2025-03-15"][0]["date"] = "2025-03-16"
    return [row for rows in by_day.values() for row in rows] + late


def _dirt(rng: random.Random, localities: list[_Locality]) -> list[Row]:
    """Return events with everything that is known to be wrong with a real file, each at least once.

    They lie on days that both publications have alike.
    """
    days = [day for day in _FIRST_DAYS if day not in CHANGED_DAYS]
    in_state = {locality.county.state: locality for locality in localities}
    ordinary = [locality for locality in localities if locality.county.state not in ("DC", "HI", "AK")]

    def event(**changes: str) -> Row:
        return _event(rng, rng.choice(days), rng.choice(ordinary)) | changes

    def with_sources(*sources: str) -> Row:
        return event() | dict.fromkeys(_SOURCES, "") | dict(zip(_SOURCES, sources, strict=False))

    # A byte of another encoding inside UTF-8, text that was decoded wrongly long ago, and proper UTF-8.
    text = [
        event(location="Ca\udcf1on Plaza", title="Ni\udcf1os Primero"),
        event(title="Neighbourâ\x80\x99s Day"),
        event(title="Marcha por la paz 🌎", locality="Peñuelas", resolved_locality="Peñuelas"),
        event(location="East & Alexander\r", title=""),  # a lone carriage return without quotes
        event(location="Station\rSquare, Hall 2"),  # and within
        event(claims_verbatim='no more "temporary" fees,\nsaid one; "never again", another', title="Fees, Again"),
        event(notes="first line\nsecond line\n\nlast line"),
    ]

    # Nulls as the publisher writes them, and codes with the leading zero still there.
    nulls = [
        {column: row.get(column, "") or "NA" for column in COLUMNS}
        for row in (
            event(**in_state["CA"].columns() | {"fips_code": in_state["CA"].county.fips}),
            event(),
            event(lat="", lon=""),
            event(lat="", lon="", fips_code=""),
        )
    ]

    new_york = [locality for locality in localities if locality.county.state == "NY"]
    borough = new_york[0].columns() | {"lat": str(new_york[-1].point[1]), "lon": str(new_york[-1].point[0])}
    coast = in_state["CA"].columns() | {"locality": "Saltport", "lat": "36.5001234", "lon": "-123.9001234"}
    places = [
        *(event(**borough) for _ in range(4)),  # the point lies in another county than the code says
        *(event(**coast) for _ in range(3)),  # the point lies in no county
        event(**coast | {"fips_code": "", "resolved_county": ""}),
        event(lat="", lon=""),
        event(lat="", lon="", fips_code="", resolved_county=""),
    ]

    twice, twin = event(title="Picket of the Bakers"), event(title="Two Marches, One Name", location="Gate 4")
    same = [
        *(twice, dict(twice)),  # a full duplicate
        *(text[1] | {"title": "Echo"}, text[1] | {"title": "Echo"}),
        *(twin | {"organizations": name} for name in _ORGANIZATIONS[:3]),  # the same but for who called it
    ]

    sources = [
        with_sources("short.example", "radio88.example", "short.example"),
        with_sources("radio88.example", "", "", "dispatch.example"),
        with_sources("", "civicnotes.example"),
        with_sources("neighbours rally over library hours, council to vote - lake herald", "short.example"),
        with_sources(),
        with_sources(*_DOMAINS, *(f"www.town{number}.example" for number in range(18))),
        event(organizations="Walkers United; walkers united; WALKERS UNITED"),
    ]

    numbers = [
        event(arrests="1.0", arrests_any="1"),
        event(arrests="unspecified", arrests_any="1"),
        event(arrests="at least 20", arrests_any="1"),
        event(participant_injuries="unspecified", participant_casualties_any="1"),
        event(police_injuries="2.0", police_casualties_any="1"),
        event(property_damage="graffiti", property_damage_any="1"),
        event(size_text="at least 70", size_low="70.0", size_high="", size_mean=""),
        event(valence="", conf=""),
    ]

    # These break any contract, and are to be set aside.
    broken = [
        event(size_text="300 or 200", size_low="300.0", size_high="200.0", size_mean="250.0"),
        event(date=""),
        event(lat="140.0"),
        event(state="ZZ", resolved_state="ZZ"),
    ]
    return [*text, *nulls, *places, *same, *sources, *numbers, *broken]


# WHO GHO -------------------------------------------------------------------------------------------------

RESTATED_VALUES = frozenset(("ZWE", year) for year in (2019, 2020, 2021))
"""Place and year of the values of WHOSIS_000001 that are others in the second publication, for each sex."""

_REGIONS = {
    "AFR": "Africa",
    "AMR": "Americas",
    "EMR": "Eastern Mediterranean",
    "EUR": "Europe",
    "SEAR": "South-East Asia",
    "WPR": "Western Pacific",
}
_PLACES = {
    "AFR": "ZAF BWA NAM ZWE MOZ LSO",
    "AMR": "BRA USA ATG",
    "EMR": "EGY",
    "EUR": "DEU TUR ISL",
    "SEAR": "IND PRK",
    "WPR": "JPN",
}
_SPATIAL: list[tuple[str, str, str | None]] = [
    # Type, code, region
    *(("COUNTRY", code, region) for region, codes in _PLACES.items() for code in codes.split()),
    *(("REGION", region, None) for region in _REGIONS),
    *(("WORLDBANKINCOMEGROUP", code, None) for code in ("WB_HI", "WB_UMI", "WB_LMI", "WB_LI")),
    ("GLOBAL", "GLOBAL", None),
]
_HEALTH_FIELDS = (
    *("Id", "IndicatorCode", "SpatialDimType", "SpatialDim", "ParentLocationCode", "TimeDimType"),
    *("ParentLocation", "Dim1Type", "TimeDim", "Dim1", "Dim2Type", "Dim2", "Dim3Type", "Dim3"),
    *("DataSourceDimType", "DataSourceDim", "Value", "NumericValue", "Low", "High", "Comments", "Date"),
    *("TimeDimensionValue", "TimeDimensionBegin", "TimeDimensionEnd"),
)
_SEXES = {"SEX_BTSX": 0.0, "SEX_MLE": -2.4, "SEX_FMLE": 2.3}


def _health_files() -> dict[str, bytes]:
    """Two publications of two indicators, the older one of the second as answers were years ago."""
    rng = random.Random(20240802)  # noqa: S311 - repeatable is what is wanted
    at_birth = _indicator(rng, "WHOSIS_000001", range(2000, 2022), 62.0)
    healthy = _indicator(rng, "WHOSIS_000002", (2000, 2010, 2015, 2019), 54.0)
    restated = [
        _with_value(row, row["NumericValue"] - 0.8 - rng.random() / 10)
        if (row["SpatialDim"], row["TimeDim"]) in RESTATED_VALUES
        else row
        for row in at_birth
    ]
    all_restated = [
        _with_value(row, row["NumericValue"] + rng.random() - 0.5) if rng.random() < 0.86 else row for row in healthy
    ]
    older = [_as_years_ago(row) for row in healthy]
    for row in older[-2:]:
        row.update(Value="Data not available", NumericValue=None, Low=None, High=None)
    return {
        "who_gho/2024-10-01/WHOSIS_000001.json.gz": _answer(rng, at_birth, "2024-07-15T08:30:05Z", is_first=True),
        "who_gho/2025-11-09/WHOSIS_000001.json.gz": _answer(rng, restated, "2025-09-01T10:12:05.193+02:00"),
        "who_gho/2024-10-01/WHOSIS_000002.json.gz": _answer(rng, older, "2019-03-05T14:07:22.1+01:00", is_first=True),
        "who_gho/2025-11-09/WHOSIS_000002.json.gz": _answer(rng, all_restated, "2025-09-01T10:14:40.07+02:00"),
    }


def _indicator(rng: random.Random, code: str, years: Iterable[int], lowest: float) -> list[dict[str, Any]]:
    rows = []
    for kind, place, region in _SPATIAL:
        level, rise = lowest + 18 * rng.random(), 0.1 + 0.2 * rng.random()
        for year in years:
            for sex, difference in _SEXES.items():
                row = dict.fromkeys(_HEALTH_FIELDS) | {
                    "IndicatorCode": code,
                    "SpatialDimType": kind,
                    "SpatialDim": place,
                    "ParentLocationCode": region,
                    "TimeDimType": "YEAR",
                    "ParentLocation": _REGIONS.get(region or ""),
                    "Dim1Type": "SEX",
                    "TimeDim": year,
                    "Dim1": sex,
                    "TimeDimensionValue": str(year),
                    "TimeDimensionBegin": f"{year}-01-01T00:00:00+01:00",
                    "TimeDimensionEnd": f"{year}-12-31T00:00:00+01:00",
                }
                value = level + rise * (year - 2000) + difference + rng.random() / 2
                # The newest values of small islands have no range.
                spread = 0.0 if place in ("ISL", "ATG") and year >= 2019 else 0.3 + rng.random()
                rows.append(_with_value(row | {"Low": value - spread, "High": value + spread}, value))
    return rows


def _with_value(row: dict[str, Any], value: float) -> dict[str, Any]:
    by = 0.0 if row["NumericValue"] is None else value - row["NumericValue"]
    low, high = row["Low"], row["High"]
    if low is None or low == high:
        return row | {"Value": f"{value:.1f}", "NumericValue": value, "Low": None, "High": None}
    low, high = low + by, high + by
    return row | {"Value": f"{value:.1f} [{low:.1f}-{high:.1f}]", "NumericValue": value, "Low": low, "High": high}


def _as_years_ago(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "ParentLocation"} | {
        "Dim1": row["Dim1"].removeprefix("SEX_")
    }


def _answer(rng: random.Random, rows: list[dict[str, Any]], published: str, *, is_first: bool = False) -> bytes:
    # An Id is a row's place in a table that is filled anew each time: some come again, for another row.
    first_ids = [1 + 7 * number for number in range(len(rows))]
    later_ids = [4_000_000 + 5 * number for number in range(len(rows))]
    later_ids[1:22] = first_ids[:21]
    decimals = 5 if is_first else 8
    dated = [
        {name: round(value, decimals) if isinstance(value, float) else value for name, value in row.items()}
        | {"Id": number, "Date": published}
        for row, number in zip(rows, first_ids if is_first else later_ids, strict=True)
    ]
    rng.shuffle(dated)
    context = f"https://ghoapi.azureedge.net/api/$metadata#{rows[0]['IndicatorCode']}"
    return _gzip(_json({"@odata.context": context, "value": dated}))


def _json(content: object) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


# US Treasury ---------------------------------------------------------------------------------------------

CORRECTED_ADVANCES = frozenset({"2020-04-15", "2020-10-05"})
"""The days of the first publication of title_xii of which a row is another in the second."""

_ADVANCE_FIELDS = {
    # Label, type and format of each.
    "record_date": ("Record Date", "DATE", "YYYY-MM-DD"),
    "state_nm": ("State Name", "STRING", "String"),
    "interest_rate_pct": ("Interest Rate Percent", "PERCENTAGE", "10.2%"),
    "outstanding_advance_bal": ("Outstanding Advance Balance", "CURRENCY", "$10.20"),
    "advance_auth_month_amt": ("Advance Authorization Current Month", "CURRENCY", "$10.20"),
    "gross_advance_draws_month_amt": ("Gross Advance Draws Current Month", "CURRENCY", "$10.20"),
    "interest_accrued_fytd_amt": ("Interest Accrued Fiscal Year to Date", "CURRENCY", "$10.20"),
    "interest_paid_amt": ("Interest Paid Amount", "CURRENCY", "$10.20"),
    "src_line_nbr": ("Source Line Number", "INTEGER", "10"),
    "record_fiscal_year": ("Fiscal Year", "YEAR", "YYYY"),
    "record_fiscal_quarter": ("Fiscal Quarter Number", "QUARTER", "Q"),
    "record_calendar_year": ("Calendar Year", "YEAR", "YYYY"),
    "record_calendar_quarter": ("Calendar Quarter Number", "QUARTER", "Q"),
    "record_calendar_month": ("Calendar Month Number", "MONTH", "MM"),
    "record_calendar_day": ("Calendar Day Number", "DAY", "DD"),
}
_BORROWERS = {
    # State: the first day it is listed.
    **dict.fromkeys(("California", "Connecticut", "Indiana", "New York", "Ohio", "Virgin Islands"), "2020-03-02"),
    **dict.fromkeys(("Illinois", "Massachusetts", "Texas"), "2020-03-24"),
    **dict.fromkeys(("Hawaii", "Louisiana", "Virginia"), "2020-05-04"),
}
_GAPS = (("2020-06-05", "2020-06-22"), ("2020-12-12", "2021-01-18"))


def _advance_files() -> dict[str, bytes]:
    """The file of 2021-08-31, and that of a month later: a month more, and two old rows corrected."""
    rng = random.Random(20210831)  # noqa: S311 - repeatable is what is wanted
    first_day, last_day = date(2020, 3, 2), date(2021, 9, 30)
    days = [first_day + timedelta(days=number) for number in range((last_day - first_day).days + 1)]
    # Every working day at first, then Mondays and the ends of months; and days on which nothing came.
    days = [
        day
        for day in days
        if day.weekday() < 5
        and (str(day) < "2020-05" or day.weekday() == 0 or (day + timedelta(days=1)).day == 1)
        and not any(start <= str(day) <= end for start, end in _GAPS)
    ]
    rows = _advances(rng, days)
    earlier = [dict(row) for row in rows if row["record_date"] < "2021-09"]
    for row in rows:
        if row["record_date"] in CORRECTED_ADVANCES and row["state_nm"] == "Ohio":
            row["outstanding_advance_bal"] = "123456789.01"
    return {
        "treasury/2021-08-31/title_xii.json.gz": _advance_file(earlier),
        "treasury/2021-09-30/title_xii.json.gz": _advance_file(rows),
    }


def _advance_file(rows: list[Row]) -> bytes:
    meta = {
        name: {field: of[number] for field, of in _ADVANCE_FIELDS.items()}
        for number, name in enumerate(("labels", "dataTypes", "dataFormats"))
    }
    return _gzip(_json({"data": rows, **meta}))


def _advances(rng: random.Random, days: list[date]) -> list[Row]:
    rows: list[Row] = []
    cents = dict.fromkeys(_BORROWERS, 0)
    interest = dict.fromkeys(_BORROWERS, 0)
    for day in days:
        listed = [state for state, since in _BORROWERS.items() if since <= str(day)]
        if str(day) in ("2020-04-03", "2020-04-06"):
            listed.append("Indiana")  # a second line, of other amounts
        for line, state in enumerate(sorted(listed), start=1):
            is_second = bool(rows) and line > 1 and rows[-1]["state_nm"] == state
            draw = rng.choice((0, 0, rng.randrange(10**6, 10**10), rng.randrange(10**4, 10**7) * 100))
            cents[state] += 0 if is_second else draw
            interest[state] += rng.randrange(10**5) if day.year == 2021 and day.month >= 7 else 0
            rows.append(
                {
                    "record_date": str(day),
                    "state_nm": _name_as_given(state, day),
                    # The same rate, with the noise of a binary fraction or without.
                    "interest_rate_pct": rng.choice(("1.59090000", "1.59089995")) if day.year == 2020 else "2.27770000",
                    "outstanding_advance_bal": _dollars(0 if is_second else cents[state]),
                    "advance_auth_month_amt": "0" if is_second else f"{len(state)}00000000",
                    "gross_advance_draws_month_amt": _dollars(0 if is_second else draw),
                    "interest_accrued_fytd_amt": _dollars(interest[state]),
                    "interest_paid_amt": "null" if rng.random() < 0.02 else "0",
                    "src_line_nbr": str(line),
                    "record_fiscal_year": str(day.year + (day.month > 9)),
                    "record_fiscal_quarter": str((day.month + 2) // 3 % 4 + 1),
                    "record_calendar_year": str(day.year),
                    "record_calendar_quarter": str((day.month + 2) // 3),
                    "record_calendar_month": f"{day.month:02d}",
                    "record_calendar_day": f"{day.day:02d}",
                }
            )
    return rows


def _name_as_given(state: str, day: date) -> str:
    if state == "Louisiana" and "2020-07" <= str(day) < "2020-09":
        return "Louisana"
    if state == "New York" and "2020-10" <= str(day) < "2021-02":
        return "New York**" if day.year == 2020 else "New York*"
    return state


def _dollars(cents: int) -> str:
    return f"{cents / 100:.2f}".rstrip("0").rstrip(".")


# US Census -----------------------------------------------------------------------------------------------

_STATE_NAMES = {
    "01": "Alabama",
    "02": "Alaska",
    "06": "California",
    "08": "Colorado",
    "11": "District of Columbia",
    "13": "Georgia",
    "15": "Hawaii",
    "22": "Louisiana",
    "25": "Massachusetts",
    "36": "New York",
    "39": "Ohio",
    "46": "South Dakota",
    "48": "Texas",
    "51": "Virginia",
    "53": "Washington",
}
_RACES = {
    # Race: the first and last year it is there. A group of before 2002 is none of those that come after.
    1: (1959, 2021),
    2: (2002, 2021),
    3: (1974, 2001),
    4: (2002, 2021),
    5: (1974, 2001),
    6: (2002, 2021),
    7: (2002, 2021),
    8: (1974, 2001),
    9: (2002, 2021),
    10: (2002, 2021),
    11: (1987, 2001),
    12: (1976, 2021),
}


def _poverty_files(counties: Sequence[_County]) -> dict[str, bytes]:
    """SAIPE of states and of the sample's own counties, and the national rates by race."""
    rng = random.Random(20191219)  # noqa: S311 - repeatable is what is wanted
    states = [(name, (fips,)) for fips, name in _STATE_NAMES.items()]
    areas = [
        *((county.full_name, (county.fips[:2], county.fips[2:])) for county in counties if county.state != "PR"),
        # Codes that counties of an earlier vintage do not have, and a county too small to be told.
        *(("Kusilvak Census Area", ("02", "158")), ("Oglala Lakota County", ("46", "102"))),
        ("Kalawao County", ("15", "005")),
    ]
    areas.sort(key=lambda area: area[1])
    names: list[str | None] = ["NAME", "SAEPOVALL_PT", "SAEPOVALL_MOE", "SAEPOVRTALL_MOE", "SAEPOVRTALL_PT"]
    files: dict[str, list[list[str | None]]] = {
        f"saipe/state_{year}": [
            [*names, "YEAR" if year == 2017 else "time", "state"],  # it has been called both
            *_estimates(rng, year, states, 10**5),
        ]
        for year in (2017, 2018, 2019)
    }
    for year in (2018, 2019):
        header = [*names, "SAEMHI_PT", "time", "state", "county"]
        files[f"saipe/county_{year}"] = [header, *_estimates(rng, year, areas, 10**3, with_income=True)]
    rates: list[list[str | None]] = [
        ["United States", f"{rng.uniform(8, 31):.1f}", str(year), str(race), str(year), "1"]
        for year in (1959, *range(1966, 2022))
        for race, (start, end) in _RACES.items()
        if start <= year <= end
        for _ in range(2 if year in (2013, 2017) else 1)  # two methods; the answer does not say which is which
    ]
    files["histpov2/all_years.derived"] = [["NAME", "PCTPOV", "YEAR", "RACE", "time", "us"], *rates]
    return {
        f"census/{name}.json": b"[" + b",\n".join(_json(row) for row in rows) + b"]" for name, rows in files.items()
    }


def _estimates(
    rng: random.Random, year: int, areas: Iterable[tuple[str, tuple[str, ...]]], size: int, with_income: bool = False
) -> Iterator[list[str | None]]:
    for name, codes in areas:
        poor = round(size * rng.uniform(0.5, 20))
        rate, error = rng.uniform(5, 30), rng.uniform(0.3, 5)
        numbers: list[str | None] = [str(poor), str(round(poor * error / 40)), f"{error:.1f}", f"{rate:.1f}"]
        numbers += [str(rng.randrange(28_000, 110_000))] if with_income else []
        if name == "Kalawao County":
            numbers = [None] * len(numbers)
        yield [name, *numbers, str(year), *codes]


# For benchmarks ------------------------------------------------------------------------------------------

_LOWER_48 = (-124.0, 26.0, -67.5, 48.5)
_LOWER_48_STATES = (
    *("AL 01", "AZ 04", "AR 05", "CA 06", "CO 08", "CT 09", "DE 10", "FL 12", "GA 13", "ID 16", "IL 17"),
    *("IN 18", "IA 19", "KS 20", "KY 21", "LA 22", "ME 23", "MD 24", "MA 25", "MI 26", "MN 27", "MS 28"),
    *("MO 29", "MT 30", "NE 31", "NV 32", "NH 33", "NJ 34", "NM 35", "NY 36", "NC 37", "ND 38", "OH 39"),
    *("OK 40", "OR 41", "PA 42", "RI 44", "SC 45", "SD 46", "TN 47", "TX 48", "UT 49", "VT 50", "VA 51"),
    *("WA 53", "WV 54", "WI 55", "WY 56"),
)
_SYNTHETIC_COUNTIES = 3000


def _columns_and_rows(cells: int) -> tuple[int, int]:
    """Return a grid of at least so many cells, about twice as wide as high."""
    rows = max(1, round(math.sqrt(cells / 2)))
    return math.ceil(cells / rows), rows


def _synthetic_fips(cell: int, cells: int) -> tuple[str, str]:
    """Return the state and FIPS code of a cell: an equal share of the cells for each state."""
    position = cell * len(_LOWER_48_STATES)
    state, fips = _LOWER_48_STATES[position // cells].split()
    return state, f"{fips}{1 + 2 * (position % cells // len(_LOWER_48_STATES)):03d}"


def synthetic_counties(path: Path, counties: int = _SYNTHETIC_COUNTIES, *, seed: int = 0) -> None:
    """Write a GeoJSON file of that many counties, of about 60 vertices each, all over the lower 48 states."""
    rng = random.Random(seed)  # noqa: S311 - repeatable is what is wanted
    columns, rows = _columns_and_rows(counties)
    rings = _grid(rng, _LOWER_48, columns, rows, points_per_edge=14)[:counties]
    path.write_bytes(
        _geojson(
            _County(state, fips, f"Cell {number}", "County", [[ring]], [])
            for number, ring in enumerate(rings)
            for state, fips in [_synthetic_fips(number, counties)]
        )
    )


def synthetic_events(
    path: Path,
    rows: int,
    *,
    days: int = 365,
    first_day: date = date(2024, 1, 1),
    localities: int = 5000,
    corrected_days: int = 0,
    seed: int = 0,
) -> None:
    """Write a clean phase 3 event file of that many rows.

    Every event has a key of its own and lies in one of the `localities`, well inside the county of
    `synthetic_counties` that its FIPS code names. With `corrected_days`, the sizes on that many days, spread
    over the whole, are others; every other day is the same to the byte as without.
    """
    import numpy as np
    import polars as pl

    rng = np.random.default_rng(seed)
    columns, grid_rows = _columns_and_rows(_SYNTHETIC_COUNTIES)
    west, south, east, north = _LOWER_48
    cell = rng.integers(0, _SYNTHETIC_COUNTIES, localities)
    x, y = 0.2 + 0.6 * rng.random(localities), 0.2 + 0.6 * rng.random(localities)
    state_and_fips = [_synthetic_fips(number, _SYNTHETIC_COUNTIES) for number in cell.tolist()]
    places = pl.DataFrame(
        {
            "locality": [f"Town {number}" for number in range(localities)],
            "state": [state for state, _ in state_and_fips],
            "resolved_county": [f"Cell {number} County" for number in cell.tolist()],
            "fips_code": [f"{int(fips)}.0" for _, fips in state_and_fips],
            "lat": np.round(south + (cell // columns + y) * (north - south) / grid_rows, 7),
            "lon": np.round(west + (cell % columns + x) * (east - west) / columns, 7),
        }
    ).with_columns(resolved_locality="locality", resolved_state="state")

    day = np.sort(rng.integers(0, days, rows))
    # A few localities have most of the events.
    place = (localities * rng.random(rows) ** 2.5).astype(np.int64)
    low = rng.choice([0, 0, 0, 24, 100, 200, 1000], rows)
    high = low * rng.choice([1, 1, 1, 2], rows)
    if corrected_days:
        chosen = np.linspace(0, days - 1, corrected_days).round().astype(np.int64)
        high = np.where(np.isin(day, chosen), high + low, high)
    number = pl.Series(np.arange(rows)).cast(pl.String)

    def pick(values: Sequence[str | None]) -> pl.Series:
        return pl.Series(values, dtype=pl.String).gather(rng.integers(0, len(values), rows))

    def size(values: np.ndarray) -> pl.Series:
        return pl.Series(values, dtype=pl.Float64).set(pl.Series(low == 0), None)

    frame = places[place].with_columns(
        date=pl.Series(day) * timedelta(days=1) + pl.lit(first_day),
        location=pick(_VENUES) + " " + number,
        title=pick([*(f"March for {cause.title()}" for cause in _CAUSES), None]),
        event_type=pick(_EVENT_TYPES),
        organizations=pick(_ORGANIZATIONS) + "; " + pick(_ORGANIZATIONS),
        claims_summary=pick([f"for {cause}; against {that}" for cause in _CAUSES for that in _GRIEVANCES]),
        valence=pick(("0.0", "1.0", "1.0", "2.0")),
        online=pl.lit("0"),
        size_low=size(low),
        size_high=size(high),
        size_mean=size((low + high) / 2),
        source1=pick(_DOMAINS),
        source2=pick((*_DOMAINS, *[None] * len(_DOMAINS))),
        source3=pick((*_DOMAINS, *[None] * 4 * len(_DOMAINS))),
    )
    empty = [pl.lit(None, pl.String).alias(name) for name in COLUMNS if name not in frame.columns]
    frame.with_columns(empty).select(COLUMNS).write_csv(path)
