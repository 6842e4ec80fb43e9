"""The sample of the event file: two publications, the second with corrections, and all that is wrong with real ones.

Here: ordinary events, the days that the second publication has changed (`CHANGED_DAYS`), the three columns that it
adds, and the dirt. Not here: where the localities' counties lie (counties.py), and the large clean files that
benchmarks need (benchmarks/synthetic.py), which take their words from here.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta

from etl_assets.local.sample.counties import County, Point
from etl_assets.local.sample.files import Row, csv_bytes, gzipped

_SOURCES = tuple(f"source{number}" for number in range(1, 31))
_BEFORE_ISSUES = (
    *("date", "locality", "state", "resolved_locality", "resolved_state", "resolved_county", "fips_code"),
    *("lat", "lon", "location", "title", "event_type", "organizations", "participants", "notables", "targets"),
    *("claims_summary", "claims_verbatim"),
)
_AFTER_ISSUES = (
    *("valence", "conf", "macroevent", "online", "size_text", "size_low", "size_high", "size_mean", "size_cat"),
    *("participant_measures", "police_measures", "participant_injuries", "police_injuries", "arrests"),
    *("property_damage", "arrests_any", "participant_casualties_any", "police_casualties_any"),
    *("property_damage_any", "participant_deaths", "police_deaths", "notes", "coder", *_SOURCES),
)
#: The 71 columns of a phase 3 event file.
COLUMNS = (*_BEFORE_ISSUES, *_AFTER_ISSUES)
#: The 74 columns since April 2025: three more, in the middle of the row.
COLUMNS_SINCE_APRIL_2025 = (
    *_BEFORE_ISSUES,
    *("issue_tags_summary", "issue_tags_verbatim", "issues"),
    *_AFTER_ISSUES,
)

#: The days of the first publication whose rows differ in the second. All its other days are the same.
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


@dataclass(frozen=True)
class _Locality:
    name: str
    county: County
    point: Point

    def columns(self) -> Row:
        """The columns that follow from where an event is, the FIPS code as a spreadsheet leaves it: 6001.0."""
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
    *("Ash", "Bell", "Cedar", "Clear", "Elm", "Fair", "Glen", "Green", "Maple", "Mill", "North", "Oak", "Pine"),
    *("Red", "Rock", "Salt", "Stone", "West"),
)
_NAME_ENDS = ("brook", "dale", "field", "ford", "haven", "land", "port", "ridge", "ton", "view", "ville")
CAUSES = (
    *("clean rivers", "longer library hours", "the night bus", "public gardens", "school lunches"),
    *("fair rents", "the old theatre", "safe crossings", "peace", "nurses", "open archives", "the wetlands"),
)
GRIEVANCES = (*("the bypass", "the data centre", "the water tariff", "the stadium tax", "night flights", "the quarry"),)
ORGANIZATIONS = (
    *("Riverside Tenants Circle", "Bell Street Choir", "Teachers of the Valley", "Walkers United"),
    *("Friends of the Marsh", "Local 9 of the Lamplighters", "Students for Shade", "The Orchard League"),
    *("Parents for Parks", "Mill Town Assembly", "Harvest Workers' Fund", "Grandparents at Noon"),
)
VENUES = (
    *("City Hall", "Courthouse Steps", "Union Square", "North Bridge", "Central Library", "Depot Plaza"),
    *("Fairgrounds Gate", "Post Office", "Founders Park", "Ferry Landing", "Mill & Main", "Statehouse"),
)
DOMAINS = (
    *("www.photofeed.example", "short.example", "www.valleyledger.example", "lakeherald.example"),
    *("www.channel5.example", "thecampuspost.example", "www.countycourier.example", "radio88.example"),
    *("www.morningbell.example", "dispatch.example", "civicnotes.example", "www.harbortimes.example"),
)
EVENT_TYPES = (
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


def event_files(rng: random.Random, counties: Iterable[County]) -> dict[str, bytes]:
    """Both publications of events that lie in these counties."""
    first, second = _publications(rng, _localities(rng, counties))
    return {
        "protest_events/2025-03-05/ccc.csv.gz": gzipped(csv_bytes(COLUMNS, first)),
        "protest_events/2025-04-04/ccc.csv.gz": gzipped(csv_bytes(COLUMNS_SINCE_APRIL_2025, second)),
    }


def _localities(rng: random.Random, counties: Iterable[County]) -> list[_Locality]:
    names = [start + end for start in _NAME_STARTS for end in _NAME_ENDS]
    rng.shuffle(names)
    return [
        _Locality("Washington" if county.state == "DC" else names.pop(), county, place)
        for county in counties
        for place in county.places[: 1 if county.state == "DC" else 2]
    ]


def _event(rng: random.Random, day: str, locality: _Locality) -> Row:
    cause, grievance = rng.choice(CAUSES), rng.choice(GRIEVANCES)
    size_text, low, high = rng.choice(_SIZES)
    organizations = rng.sample(ORGANIZATIONS, rng.choice((0, 1, 1, 1, 2, 3)))
    sources = rng.sample(DOMAINS, rng.choice((1, 1, 1, 2, 2, 3, 4)))
    mean = (low + high) / 2
    return {
        "date": day,
        **locality.columns(),
        "location": f"{rng.choice(VENUES)} {rng.randint(1, 900)}" if rng.random() > 0.05 else "",
        "title": rng.choice((f"March for {cause.title()}", f"Noon for {cause.title()}", "", "")),
        "event_type": rng.choice(EVENT_TYPES),
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
    """The file as published on 2025-03-05, and as published on 2025-04-04."""
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
    """The rows of the first publication as the second has them; see CHANGED_DAYS."""
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
    """Events with everything that is known to be wrong with a real file, each at least once.

    They lie on days that are the same in both publications.
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
        *(twin | {"organizations": name} for name in ORGANIZATIONS[:3]),  # the same except for who called it
    ]

    sources = [
        with_sources("short.example", "radio88.example", "short.example"),
        with_sources("radio88.example", "", "", "dispatch.example"),
        with_sources("", "civicnotes.example"),
        with_sources("neighbours rally over library hours, council to vote - lake herald", "short.example"),
        with_sources(),
        with_sources(*DOMAINS, *(f"www.town{number}.example" for number in range(18))),
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
