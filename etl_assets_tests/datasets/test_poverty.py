"""US Census' poverty end to end: national by race, and of small areas; against the recordings cell by cell."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from etl_assets.datasets.poverty_national import GROUPS
from etl_assets.datasets.poverty_small_area import VARIABLES
from etl_assets.settings import settings
from etl_assets_tests.datasets.files import county, county_file, publish_counties
from etl_assets_tests.faults import Fault
from etl_assets_tests.house import House
from etl_assets_tests.sources.api import changed

SAIPE_PATH = "/census/data/timeseries/poverty/saipe"
HISTPOV_PATH = "/census/data/timeseries/poverty/histpov2"
HEADER = json.dumps([[*VARIABLES, "time", "state", "county"]]).encode()
SMALL, NATIONAL = "refined.small_area_poverty", "refined.national_poverty"
Row = dict[str, str | None]
Cells = list[list[Any]]


def cells(data: Path, name: str) -> Cells:
    """An answer as it was recorded: the header, and the rows."""
    found: Cells = json.loads((data / "census" / name).read_text())
    return found


def rows_of(answer: Cells) -> list[Row]:
    header = ["time" if name == "YEAR" and "time" not in answer[0] else name for name in answer[0]]
    return [dict(zip(header, row, strict=True)) for row in answer[1:]]


@pytest.fixture
def small(house: House) -> House:
    """A house with small areas, that has run."""
    house.has_run("poverty_small_area")
    return house


@pytest.fixture
def national(house: House) -> House:
    """A house with national poverty, that has run."""
    house.has_run("poverty_national")
    return house


# Small areas ---------------------------------------------------------------------------------------------


def check_small_areas(house: House) -> None:
    """Every cell of every recording, by its name: the first pipeline took them by position."""
    files = sorted((house.data / "census" / "saipe").glob("*.json"))
    rows = [row for file in files for row in rows_of(cells(house.data, f"saipe/{file.name}"))]
    found = house.sql(f"SELECT year, fips, level, name, {', '.join(VARIABLES)} FROM {SMALL}")
    assert len(found) == len(rows)
    assert {row[:2]: row[2:] for row in found} == {
        (int(row["time"] or 0), f"{row['state']}{row.get('county') or ''}"): (
            *("county" if row.get("county") else "state", row["NAME"]),
            *(None if row.get(given) is None else float(row[given] or 0) for given in VARIABLES.values()),
        )
        for row in rows
    }


def check_county_poverty(house: House) -> None:
    """Counties with their boundary: the row's own code, or the one of before or after it changed, or none."""
    boundaries = dict(house.sql("SELECT fips, ST_AsBinary(geometry) FROM refined.us_counties"))
    other = {"46102": "46113", "02158": "02270", "46113": "46102", "02270": "02158"}
    wanted = {}
    for year, fips, name, rate in house.sql(
        f"SELECT year, fips, name, poverty_rate FROM {SMALL} WHERE level = 'county'"
    ):
        at = fips if fips in boundaries else other.get(fips)
        at = at if at in boundaries else None
        wanted[year, fips] = (at, name, rate, boundaries.get(at) if at else None)
    found = house.sql(
        "SELECT year, fips, boundary_fips, county, poverty_rate, ST_AsBinary(geometry) FROM presentation.county_poverty"
    )
    assert {row[:2]: row[2:] for row in found} == wanted
    assert len(found) == len(wanted)


def test_small_areas_cell_by_cell(small: House) -> None:
    check_small_areas(small)
    check_county_poverty(small)
    changed = small.sql("SELECT fips, boundary_fips FROM presentation.county_poverty WHERE boundary_fips <> fips")
    assert set(changed) <= {("46102", "46113"), ("02158", "02270")}
    suppressed = small.sql(f"SELECT poor, poverty_rate FROM {SMALL} WHERE name = 'Kalawao County'")
    assert suppressed == [(None, None)] * 2


def test_a_code_that_has_changed_meets_the_boundary_of_the_other(house: House) -> None:
    """Whether the boundaries are of before or after."""
    house.datasets = ("poverty_small_area",)
    path = house.data / "census" / "saipe" / "county_2018.json"
    answer = cells(house.data, "saipe/county_2018.json")
    former = [[*row[:-1], "113"] if row[-2:] == ["46", "102"] else row for row in answer]
    path.write_text(json.dumps(former))
    for boundary, met in (("46113", (2019, "46102")), ("46102", (2018, "46113"))):
        publish_counties(house, county_file(county(id=boundary, STATE="46")))
        assert house.run(), house.failures()
        shown = "SELECT year, fips, boundary_fips FROM presentation.county_poverty WHERE boundary_fips <> fips"
        assert house.sql(shown) == [(*met, boundary)]


def test_a_year_that_comes_out_later(house: House) -> None:
    """Until then its partition is missing and nothing fails; then it is made, and no other."""
    house.datasets = ("poverty_small_area",)
    assert house.run(), house.failures()
    assert house.value(f"SELECT count(*) FROM {SMALL} WHERE year = 2020") == 0
    assert house.faults.count(SAIPE_PATH, query={"time": "2020"}, status=204) == 2
    assert house.run()
    assert not house.made()
    header, *rows = cells(house.data, "saipe/county_2019.json")
    at = header.index("time")
    later = [[*row[:at], "2020", *row[at + 1 :]] for row in rows]
    (house.data / "census" / "saipe" / "county_2020.json").write_text(json.dumps([header, *later]))
    house.age("poverty_small_area", 31)
    asked = house.faults.count(SAIPE_PATH, query={"time": "2019"})
    assert house.run(), house.failures()
    assert house.made()["refined/small_area_poverty"] == 1
    assert house.faults.count(SAIPE_PATH, query={"time": "2019"}) == asked  # settled
    check_small_areas(house)
    check_county_poverty(house)


@pytest.mark.parametrize("answer", [Fault.status(204), Fault.body(HEADER)])
def test_a_year_that_the_source_has_no_more_stays(house: House, answer: Fault) -> None:
    """An answer without rows is that of a year which is not out yet; for one that was landed it is refused."""
    house.datasets = ("poverty_small_area",)
    assert house.run(), house.failures()
    years = f"SELECT level, year, count(*) FROM {SMALL} GROUP BY 1, 2 ORDER BY 1, 2"
    before = house.sql(years)
    house.faults.always(SAIPE_PATH, answer, query={"time": "2019", "for": "county:*"})
    assert not house.run(anew=True)
    assert re.search("county_2019.*(no longer has any of it|a header but no rows)", house.failures())
    assert house.sql(years) == before


def test_what_another_address_gave_is_of_another_source(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even its settled years are taken for those of this one, however short the time since they were asked for."""
    house.datasets = ("poverty_small_area",)
    assert house.run(), house.failures()
    before = house.value(f"SELECT sum(poor) FROM {SMALL} WHERE year = 2019")
    for file in (house.data / "census" / "saipe").glob("*_2019.json"):
        header, *rows = json.loads(file.read_text())
        at = header.index("SAEPOVALL_PT")
        file.write_text(json.dumps([header, *([*r[:at], r[at] and f"1{r[at]}", *r[at + 1 :]] for r in rows)]))
    assert house.run()
    assert not house.made()
    monkeypatch.setenv("ETL_CENSUS_URL", f"{settings().local_sources_url}/census".replace("127.0.0.1", "localhost"))
    assert house.run(), house.failures()
    assert house.made()["refined/small_area_poverty"] == 1
    assert house.value(f"SELECT sum(poor) FROM {SMALL} WHERE year = 2019") > 2 * before


def test_identical_bytes_change_nothing_downstream(small: House) -> None:
    small.age("poverty_small_area", 31)
    objects = {name: small.lake.get(name) for name in small.objects() if not name.startswith("landing/")}
    assert small.run(), small.failures()
    assert small.made() == {"landing/poverty_small_area": 1}
    assert {name: small.lake.get(name) for name in small.objects() if not name.startswith("landing/")} == objects


def test_rows_of_small_areas_that_are_not_right(house: House) -> None:
    """Each goes to quarantine with its reason; a row that comes twice is merged."""

    def spoil(document: Cells) -> None:
        names, *rows = document
        poor, rate, state, year = (names.index(n) for n in ("SAEPOVALL_PT", "SAEPOVRTALL_PT", "state", "time"))
        rows[0][poor], rows[1][poor], rows[2][rate] = "1,234", "Data not available", "5/10"
        rows[3][rate], rows[4][state], rows[5][year] = "140", "6", None
        document.append(list(rows[6]))

    house.datasets = ("poverty_small_area",)
    house.faults.add(SAIPE_PATH, changed(spoil), query={"for": "county:*", "time": "2019"})
    assert house.run(), house.failures()
    reasons = house.sql(
        "SELECT reason FROM quarantine.small_area_poverty UNION ALL SELECT reason FROM quarantine.poverty_small_area"
    )
    assert sorted(reason for (reason,) in reasons) == sorted(
        [
            "readable: poor is 1,234",
            "readable: poor is Data not available",
            "readable: poverty_rate is 5/10",
            "less_than_or_equal_to(100): poverty_rate is 140.0",
            next(reason for (reason,) in reasons if reason.startswith("str_matches") and "fips is 6" in reason),
            "placeable: time is missing, which is in no partition",
        ]
    )
    assert house.value(f"SELECT count(*) FROM {SMALL} WHERE year = 2019 AND level = 'county'") == 58 - 6


def test_two_values_for_a_county_and_year(small: House) -> None:
    """Which is right cannot be told: both are kept out. The year is settled, so it is asked for on demand only."""
    before = small.frame(SMALL)
    twice = changed(lambda document: document.append([document[1][0], "7", *document[1][2:]]))
    small.faults.add(SAIPE_PATH, twice, query={"for": "county:*", "time": "2019"})
    assert small.run()
    assert small.run(anew=True), small.failures()
    reasons = [reason for (reason,) in small.sql("SELECT reason FROM quarantine.small_area_poverty")]
    assert len(reasons) == 2
    assert all(reason.startswith("unique_key: the row is one of 2 with year=2019, fips=") for reason in reasons)
    assert small.frame(SMALL).height == before.height - 1
    assert small.run(anew=True), small.failures()
    assert small.frame(SMALL).equals(before)


def test_a_missing_key_fails_before_any_request(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the publishers' APIs; the message says what to set and where to get it."""
    monkeypatch.setenv("ETL_CENSUS_URL", f"{house.home}-not-asked")
    monkeypatch.setenv("ETL_SOURCES", "live")
    house.datasets = ("poverty_national",)
    assert not house.run()
    assert "ETL_CENSUS_KEY" in house.failures()
    assert "https://api.census.gov/data/key_signup.html" in house.failures()
    assert not house.faults.log


def test_no_key_is_written_down(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """In no object of the lake, no event of Dagster, and no message; not when it works and not when it does not."""
    monkeypatch.setenv("ETL_CENSUS_KEY", "s3cr3t")
    house.datasets = ("poverty_national",)
    house.faults.add(HISTPOV_PATH, Fault.status(403), query={"time": "1980"})
    assert not house.run()
    assert "1980" in house.failures()
    told = house.printed + house.failures()
    assert house.run(), house.failures()
    told += house.printed
    events = [str(house.instance.all_logs(run.run_id)) + str(run) for run in house.instance.get_runs()]
    stored = b"".join(house.lake.get(name) or b"" for name in house.objects())
    assert "s3cr3t" not in told + "".join(events)
    assert b"s3cr3t" not in stored
    assert house.faults.count(HISTPOV_PATH, query={"time": "1980"}) == 2
    assert house.faults.count(HISTPOV_PATH, query={"time": "1979"}) == 1


# National ------------------------------------------------------------------------------------------------


def check_national(house: House) -> None:
    """All groups apart, both methods of two years, and changes between years of one method only."""
    rows = rows_of(cells(house.data, "histpov2/all_years.derived.json"))
    names = {2013: ["redesigned questions", "traditional questions"], 2017: ["legacy processing", "updated processing"]}
    wanted: dict[tuple[int, int, str], float] = {}
    seen: Counter[tuple[int, int]] = Counter()
    for row in rows:
        year, group = int(row["time"] or 0), int(row["RACE"] or 0)
        method = names[year][seen[year, group]] if year in names else "published"
        seen[year, group] += 1
        wanted[year, group, method] = float(row["PCTPOV"] or 0)
    assert len(wanted) == len(rows) == 338
    found = house.sql(f'SELECT year, group_code, method, poverty_rate, "group" FROM {NATIONAL}')
    assert {row[:3]: row[3] for row in found} == wanted
    assert {(row[1], row[4]) for row in found} == {(int(code), name) for code, name in GROUPS.items()}
    changes = {}
    for (year, group, method), rate in wanted.items():
        earlier = [wanted.get((year - years, group, "published")) for years in (1, 10)]
        known = method == "published"
        changes[year, group, method] = tuple(
            None if e is None or not known else pytest.approx(rate - e, abs=0.051) for e in earlier
        )
    trends = house.sql(
        "SELECT year, group_code, method, change_1_year, change_10_years FROM presentation.poverty_trends"
    )
    assert {row[:3]: row[3:] for row in trends} == changes


def test_national_poverty(national: House) -> None:
    check_national(national)
    years = defaultdict(set)
    for year, group in national.sql(f"SELECT year, group_code FROM {NATIONAL}"):
        years[group].add(year)
    assert all(max(years[group]) == 2001 for group in (3, 5, 8, 11))
    assert all(min(years[group]) == 2002 for group in (2, 4, 6, 7, 9, 10))
    assert national.run()
    assert not national.made()


def test_rows_of_national_poverty_that_are_not_right(house: House) -> None:
    def spoil(document: Cells) -> None:
        rate, race = document[0].index("PCTPOV"), document[0].index("RACE")
        document[1][rate], document[2][rate], document[3][rate] = "1,5", "5/10", "120"
        document[4][race], document[5][race] = None, "13"
        document.append(list(document[6]))  # twice the same

    def third(document: Cells) -> None:
        document.append(list(document[1]))

    house.datasets = ("poverty_national",)
    house.faults.add(HISTPOV_PATH, changed(spoil), query={"time": "2020"})
    house.faults.add(HISTPOV_PATH, changed(third), query={"time": "2013"})
    house.faults.add(HISTPOV_PATH, changed(lambda document: document.pop(1)), query={"time": "2017"})
    assert house.run(), house.failures()
    reasons = sorted(reason for (reason,) in house.sql("SELECT reason FROM quarantine.national_poverty"))
    assert [why for why in reasons if why.startswith("readable")] == [
        "readable: poverty_rate is 1,5; not_nullable: poverty_rate is missing",
        "readable: poverty_rate is 5/10; not_nullable: poverty_rate is missing",
    ]
    assert "less_than_or_equal_to(100): poverty_rate is 120.0" in reasons
    undecided = [why.partition(",")[0] for why in reasons if "two_methods" in why]
    assert undecided == [
        "two_methods: method is 1 values of the year",
        *["two_methods: method is 3 values of the year"] * 3,
    ]
    assert sum("group_code" in why for why in reasons) == 2
    assert len(reasons) == 9
    assert house.check("refined/national_poverty", "balance").passed
    assert house.value(f"SELECT count(*) FROM {NATIONAL} WHERE year = 2013") == 14
    assert house.value(f"SELECT count(*) FROM {NATIONAL} WHERE year = 2017") == 14


def test_two_rates_for_a_group_and_year(house: House) -> None:
    house.datasets = ("poverty_national",)
    twice = changed(lambda document: document.append([document[1][0], "99.9", *document[1][2:]]))
    house.faults.add(HISTPOV_PATH, twice, query={"time": "2020"})
    assert house.run(), house.failures()
    reasons = [reason for (reason,) in house.sql("SELECT reason FROM quarantine.national_poverty")]
    assert [reason.startswith("unique_key: the row is one of 2 with year=2020") for reason in reasons] == [True, True]


# The recordings ------------------------------------------------------------------------------------------


@pytest.mark.shared
def test_the_recordings(shared_house: House) -> None:
    shared_house.datasets = ("poverty_national", "poverty_small_area")
    assert shared_house.run(), shared_house.failures()
    check_small_areas(shared_house)
    check_county_poverty(shared_house)
    check_national(shared_house)
    assert shared_house.value(f"SELECT count(*) FROM {SMALL}") > 3_000
    assert shared_house.value("SELECT count(*) FROM quarantine.small_area_poverty") == 0
