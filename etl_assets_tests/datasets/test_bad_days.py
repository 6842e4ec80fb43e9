"""Days on which a source misbehaves or publishes nonsense: the run says so, and what was there stays as it was."""

from __future__ import annotations

import re

import polars as pl
import pytest

from etl_assets.local.routes import Response
from etl_assets_tests.datasets.files import county, county_file, event, event_file, publish_counties, publish_events
from etl_assets_tests.faults import Fault
from etl_assets_tests.house import House

FILE = "/protest_events/ccc.csv"
TABLES = (
    "raw.protest_events",
    "refined.protest_events",
    "quarantine.protest_events",
    "presentation.eventdata",
    "presentation.county_protests_monthly",
    "presentation.event_sources",
)
ROWS = [event(title=f"Event {n}", date=f"2025-01-{n:02}", notes="x" * 500) for n in range(1, 31)]


@pytest.fixture
def small(house: House, monkeypatch: pytest.MonkeyPatch) -> House:
    """A house on one county and thirty events, that has run."""
    monkeypatch.setenv("ETL_HTTP_ATTEMPTS", "2")
    monkeypatch.setenv("ETL_HTTP_TIMEOUT", "0.3")
    monkeypatch.setenv("ETL_HTTP_RETRY_WAIT", "0")
    publish_counties(house, county_file(county()))
    publish_events(house, "2025-03-05", event_file(ROWS))
    house.has_run()
    return house


def tables(house: House) -> dict[str, pl.DataFrame]:
    """All that a reader of the warehouse sees of the events."""
    return {name: house.frame(name) for name in TABLES}


def stored(house: House) -> dict[str, bytes | None]:
    """All that a reader of the lake sees of them."""
    return {name: house.lake.get(name) for name in house.objects() if name.startswith(("raw/", "refined/", "pres"))}


def check_stays(house: House, before: tuple[dict[str, pl.DataFrame], dict[str, bytes | None]], kind: str) -> None:
    """Nothing that a reader sees is other than before."""
    now = tables(house)
    assert all(now[name].equals(table) for name, table in before[0].items()), kind
    assert stored(house) == before[1], kind


#: What the source does, and what the run says of it.
ANSWERS: dict[str, tuple[Fault, str]] = {
    "404": (Fault.status(404), "answered HTTP 404 Not Found"),
    "500": (Fault.status(500), "could not be fetched in 2 attempts .HTTP 500"),
    "429": (Fault.status(429, headers={"Retry-After": "0"}), "could not be fetched in 2 attempts .HTTP 429"),
    "hangs": (Fault.hang(), "could not be fetched in 2 attempts .*timed out"),
    "reset": (Fault.reset(), "could not be fetched in 2 attempts"),
    "truncated": (Fault.truncated(), "could not be fetched in 2 attempts .*IncompleteRead"),
    "html": (Fault.html(), "answered with an HTML page instead of data"),
    "redirect to html": (Fault.redirect(), "answered with an HTML page instead of data"),
    "empty": (Fault.empty(), "answered with nothing"),
    "shrunk": (Fault.body(event_file(ROWS[:9])), "it shrank by more than 50%"),
    "header only": (Fault.body(event_file([])), "it shrank by more than 50%"),
}


def test_a_source_that_misbehaves(small: House) -> None:
    """Each way is told with the dataset and the address; when the source is well again, so is everything."""
    publish_events(small, "2025-03-06", event_file([*ROWS, event(title="New", date="2025-01-31")]))
    before = tables(small), stored(small)
    for kind, (fault, why) in ANSWERS.items():
        small.faults.always(FILE, fault)
        if kind in ("reset", "truncated"):
            small.faults.add(FILE, Fault())  # a HEAD has no body that could be cut short
        assert not small.run(), kind
        assert re.search(f"http://[^ ]+{FILE} .*{why}", small.failures()), (kind, small.failures())
        assert FILE in small.printed, kind
        check_stays(small, before, kind)
    small.faults.always(FILE, ANSWERS["shrunk"][0])
    assert small.run(anew=True, accept_shrunk=True), small.failures()
    assert small.value("SELECT count(*) FROM refined.protest_events") == 9
    small.faults.clear()
    assert small.run(), small.failures()
    older = {"Last-Modified": "Sat, 01 Mar 2025 00:00:00 GMT"}
    small.faults.always(FILE, Fault(Response(200, event_file(ROWS[:9]), headers=older)))  # which is no fragment then
    assert small.run(), small.failures()
    assert small.value("SELECT count(*) FROM refined.protest_events") == 9
    small.faults.clear()
    small.faults.add(FILE, Fault.status(500), Fault(), Fault.status(429, headers={"Retry-After": "0"}))
    assert small.run(), small.failures()
    assert small.value("SELECT count(*) FROM refined.protest_events") == 31


HEADER, *LINES = event_file(ROWS).splitlines(keepends=True)

#: What the source publishes, and what the run says of it.
FILES: dict[str, tuple[bytes, str]] = {
    "json": (
        b'{"message": "try again"}' + b" " * 20_000,
        r"required columns are missing: \['date', 'locality', 'state'\]",
    ),
    "a column missing": (
        event_file(ROWS).replace(b"locality", b"place", 1),
        r"required columns are missing: \['locality'\]. It has: \['date', 'place', 'state'",
    ),
    "a column renamed that events are known by": (
        event_file(ROWS).replace(b",organizations,", b",orgs,", 1),
        r"columns are gone that the last file had: \['organizations'\]. New ones: \['orgs'\]",
    ),
    "a column twice": (
        event_file(ROWS).replace(b",title,", b",date,", 1),
        r"the columns \['date'\] occur more than once",
    ),
    "an open quote": (
        b"".join([HEADER, *LINES[:9], LINES[9].replace(b"Event", b'"Event'), *LINES[10:]]),
        "record 10 opens a quote that is never closed",
    ),
    "dates written in another way": (
        re.sub(rb"2025-01-(\d\d)", rb"\1/01/2025", event_file(ROWS)),
        "30 of 30 records belong to no partition, such as record 1 .placeable: date is 01/01/2025",
    ),
    "terminal escapes and markup for dates": (
        re.sub(rb"2025-01-(\d\d)", b"\x1b[31m[/red]", event_file(ROWS)),
        r"such as record 1 .placeable: date is .\[31m\[/red\], which is in no partition",
    ),
    "other delimiters in the records": (
        HEADER + b"".join(LINES).replace(b",", b"|"),
        "30 of 30 records belong to no partition, such as record 1 .fields",
    ),
    "carriage returns for line ends": (event_file(ROWS).replace(b"\n", b"\r"), "bare carriage return"),
}


def test_a_file_that_is_nonsense(small: House) -> None:
    """It is landed as received, and refused when it is read; the one that follows is taken."""
    before = tables(small), stored(small)
    for day, (kind, (content, why)) in enumerate(FILES.items(), 6):
        publish_events(small, f"2025-03-{day:02}", content)
        assert not small.run(), kind
        assert re.search(f"protest_events, landed file .* from http://[^ ]+{FILE}: .*{why}", small.failures()), kind
        assert "\x1b" not in small.printed
        assert not small.check("raw/protest_events", "readable").passed
        check_stays(small, before, kind)
    assert not small.run()  # it is tried again, and not forgotten
    publish_events(small, "2025-03-20", event_file([*ROWS[:-1], event(title="Other", date="2025-01-30")]))
    assert small.run(), small.failures()
    assert small.made()["refined/protest_events"] == 1
    ids = dict(small.sql("SELECT title, event_id FROM refined.protest_events"))
    earlier = dict(before[0]["refined.protest_events"].select("title", "event_id").iter_rows())
    assert {title: ids[title] for title in earlier.keys() & ids.keys()} == {
        title: earlier[title] for title in earlier.keys() & ids.keys()
    }
    assert ids["Other"] not in earlier.values()


def test_a_day_that_is_mostly_bad(small: House) -> None:
    """It keeps its last state and fails the run; the other days are published, downstream of it too."""
    bad = [event(title=f"Bad {n}", date="2025-01-02", state="ZZ") for n in range(25)]
    some = [event(title=f"Some {n}", date="2025-01-03", lat="140") for n in range(20)]
    rows = [*ROWS[:3], *bad, *some, event(title="New", date="2025-01-04"), *ROWS[4:]]
    publish_events(small, "2025-03-06", event_file(rows))
    assert not small.run()
    assert "1 of 3 partitions were refused, the others are published. 2025-01-02: 25 of 26 rows" in small.failures()
    shown = small.sql("SELECT title FROM refined.protest_events WHERE event_date < '2025-01-05' ORDER BY event_date")
    assert shown == [("Event 1",), ("Event 2",), ("Event 3",), ("New",)]
    assert small.value("SELECT count(*) FROM presentation.eventdata WHERE event_date = '2025-01-02'") == 1
    kept = "SELECT _partition, columns[1], values[1], count(*) FROM quarantine.protest_events GROUP BY 1, 2, 3"
    assert small.sql(kept) == [("2025-01-03", "lat", "140.0", 20)]
    refused = small.check("refined/protest_events", "contract", "2025-01-02")
    assert not refused.passed
    assert {case.data["value"] for case in refused.metadata["failure_cases"].records} == {"ZZ"}
    assert [row.data["rows"] for row in refused.metadata["failures_per_check"].records] == [25]

    assert not small.run()
    # The day was asked for in one run with what is made of it, which then is made of the day's last good state.
    assert small.made() == {"presentation/eventdata": 1}
    mended = [row | {"state": "CA"} for row in bad]
    publish_events(small, "2025-03-07", event_file([*ROWS[:3], *mended, *ROWS[3:]]))
    assert small.run(), small.failures()
    assert small.value("SELECT count(*) FROM refined.protest_events WHERE event_date = '2025-01-02'") == 26
    assert small.value("SELECT count(*) FROM quarantine.protest_events") == 0
