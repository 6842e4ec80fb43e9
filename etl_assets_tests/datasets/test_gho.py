"""WHO GHO end to end: what is published, what a restatement changes, and what becomes of rows that are not right."""

from __future__ import annotations

import gzip
import json
import re
import types
from collections import Counter, defaultdict
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from etl_assets.datasets import gho, gho_countries
from etl_assets.datasets.gho import SEXES
from etl_assets.datasets.life_expectancy import FIRST_COUNTRIES
from etl_assets.definitions import definitions
from etl_assets.stages.dataset import SPECS
from etl_assets.storage.configured import landing_store
from etl_assets_tests.faults import Fault
from etl_assets_tests.house import House

PATH = "/who_gho/api/WHOSIS_000001"
FIRST, SECOND = "2024-10-01", "2025-11-09"
LANDING = dg.AssetKey(["landing", "gho"])
Row = dict[str, Any]
Key = tuple[str, str, int, str]
TABLES = (
    "refined.health_indicators",
    "presentation.life_expectancy_by_country",
    "presentation.life_expectancy_at_birth",
)


def recorded(data: Path, day: str) -> list[Row]:
    """The rows of a recording, numbers as they are written."""
    text = gzip.decompress((data / "who_gho" / day / "WHOSIS_000001.json.gz").read_bytes())
    rows: list[Row] = json.loads(text, parse_float=str)["value"]
    return rows


def key(row: Row) -> Key:
    return row["SpatialDimType"], row["SpatialDim"], int(row["TimeDim"]), row["Dim1"]


def number(text: str | None) -> float | None:
    return None if text is None else float(text)


def publish(house: House, day: str, rows: list[Row]) -> None:
    """Let the source show these rows from now on, published on that day."""
    dated = [row | {"Date": f"{day}T08:00:00Z", "NumericValue": _float(row["NumericValue"])} for row in rows]
    house.write("who_gho", day, "WHOSIS_000001.json", json.dumps({"value": dated}).encode())
    house.publish(day)


def _float(value: Any) -> Any:
    try:
        return value if value is None else float(value)
    except ValueError:  # as wrong as the test wants it
        return value


@pytest.fixture
def who(house: House) -> House:
    """A house on the first publication, that has run."""
    house.has_run("life_expectancy")
    return house


def test_every_row_is_there_with_its_values(who: House) -> None:
    """Cell by cell, against the recording read by other means."""
    rows = recorded(who.data, FIRST)
    found = who.sql(
        "SELECT spatial_type, spatial_code, year, dim1, indicator, title, dim2, dim3, sex, value, low, high,"
        " value_given, numeric_given, parent_code, parent_region, published_at FROM refined.health_indicators"
    )
    assert {row[:4]: row[4:] for row in found} == {
        key(row): (
            *("WHOSIS_000001", "Life expectancy at birth", "", "", SEXES[row["Dim1"]]),
            *(number(row["NumericValue"]), number(row["Low"]), number(row["High"])),
            *(row["Value"], row["NumericValue"], row["ParentLocationCode"], row["ParentLocation"]),
            datetime(2024, 7, 15, 8, 30, 5, tzinfo=UTC),
        )
        for row in rows
    }
    assert len(found) == len(rows)
    named = dict(who.sql("SELECT DISTINCT spatial_code, country FROM refined.health_indicators"))
    assert (named["ZAF"], named["LSO"], named["AFR"]) == ("South Africa", "Lesotho", None)


def check_by_country(house: House, rows: list[Row]) -> None:
    """Changes and ranks, computed again with plain Python."""
    values = {(r["SpatialDim"], r["Dim1"], int(r["TimeDim"])): r for r in rows if r["SpatialDimType"] == "COUNTRY"}
    peers = defaultdict(list)
    for (_, sex, year), row in values.items():
        peers[row["ParentLocation"], sex, year].append(float(row["NumericValue"]))
    wanted = {}
    for (place, sex, year), row in values.items():
        value = float(row["NumericValue"])
        earlier = [values.get((place, sex, year - years)) for years in (1, 10)]
        region = row["ParentLocation"]
        wanted[place, SEXES[sex], year] = (
            *(region, value),
            *(None if e is None else pytest.approx(value - float(e["NumericValue"]), abs=1e-9) for e in earlier),
            1 + sum(peer > value for peer in peers[region, sex, year]),
        )
    found = house.sql(
        "SELECT country_code, sex, year, region, value, change_1_year, change_10_years, rank_in_region"
        " FROM presentation.life_expectancy_by_country"
    )
    assert {row[:3]: row[3:] for row in found} == wanted


def test_life_expectancy_by_country(who: House) -> None:
    check_by_country(who, recorded(who.data, FIRST))


def test_life_expectancy_as_the_first_pipeline_had_it(who: House) -> None:
    """Ids are given once: in order at first, and none of them changes when the values do."""
    query = (
        "SELECT spatialdim, timedim, dim1, id, numericvalue, country, sex, timedimensionbegin, timedimensionend,"
        " transformed_epoch FROM presentation.life_expectancy_at_birth ORDER BY id"
    )
    found = who.sql(query)
    rows = {
        (r["SpatialDim"], int(r["TimeDim"]), r["Dim1"]): r
        for r in recorded(who.data, FIRST)
        if r["SpatialDim"] in FIRST_COUNTRIES
    }
    stamp = int(datetime(2024, 7, 15, 8, 30, 5, tzinfo=UTC).timestamp())
    assert found == [
        (
            *k,
            n,
            float(rows[k]["NumericValue"]),
            FIRST_COUNTRIES[k[0]],
            SEXES[k[2]],
            date(k[1], 1, 1),
            date(k[1], 12, 31),
            stamp,
        )
        for n, k in enumerate(sorted(rows), 1)
    ]
    who.publish(SECOND)
    assert who.run(), who.failures()
    again = who.sql(query)
    assert [row[:4] for row in again] == [row[:4] for row in found]
    assert [row[4] for row in again] != [row[4] for row in found]
    assert again[0][-1] == int(datetime(2025, 9, 1, 8, 12, 5, tzinfo=UTC).timestamp())  # given as 10:12:05+02:00


def check_restatement(house: House, first: list[Row], second: list[Row]) -> None:
    """The same keys with the new values, and a report of the change that an independent comparison gives."""
    old, new = ({key(row): row for row in rows} for rows in (first, second))
    found = house.sql("SELECT spatial_type, spatial_code, year, dim1, value FROM refined.health_indicators")
    assert len(found) == len(new)
    assert {row[:4]: row[4] for row in found} == {k: number(row["NumericValue"]) for k, row in new.items()}
    wanted: dict[str, tuple[int, float]] = {}
    for year in sorted({int(row["TimeDim"]) for row in second}):
        steps = [
            abs(float(new[k]["NumericValue"]) - float(old[k]["NumericValue"]))
            for k in new
            if k[2] == year and float(new[k]["NumericValue"]) != float(old[k]["NumericValue"])
        ]
        wanted[f"{year}-01-01"] = (len(steps), max(steps, default=0.0))
    told = {
        partition: (columns.get("value", 0), largest.get("value", 0.0), added, gone)
        for partition, columns, largest, added, gone in house.sql(
            "SELECT partition, values_changed, largest_change, rows_added, rows_gone FROM etl.changes"
            " WHERE asset = 'refined.health_indicators'"
        )
    }
    assert told.keys() == wanted.keys()
    for partition, (count, largest) in wanted.items():
        assert told[partition] == (count, pytest.approx(largest, abs=1e-12), 0, 0), partition


def test_a_restated_publication_replaces_values_and_says_how_many(who: House) -> None:
    """No Id agrees; nothing is doubled."""
    first, second = recorded(who.data, FIRST), recorded(who.data, SECOND)
    assert {key(row) for row in first} == {key(row) for row in second}
    assert [row["Id"] for row in first] != [row["Id"] for row in second]
    who.publish(SECOND)
    assert who.run(), who.failures()
    check_restatement(who, first, second)
    check_by_country(who, second)


def test_rows_that_are_not_right(who: House) -> None:
    """Each goes to quarantine with its reason, or is taken for what it is; all others are published."""
    rows = recorded(who.data, FIRST)
    bad: dict[int, tuple[Row, str]] = {
        5: ({"NumericValue": "1,234.5"}, "readable: value is 1,234.5"),
        6: ({"NumericValue": "5/10"}, "readable: value is 5/10"),
        7: ({"Low": "low"}, "readable: low is low"),
        8: ({"SpatialDim": None}, "not_nullable: spatial_code is missing"),
        9: ({"TimeDim": None}, "placeable: TimeDim is missing, which is in no partition"),
        10: ({"TimeDim": 1066}, "placeable: TimeDim is 1066, which is in no partition"),
        11: ({"IndicatorCode": None}, "not_nullable: indicator is missing"),
        12: ({"SpatialDim": ""}, "str_matches('\\S'): spatial_code is"),
        13: ({"Low": 80.5, "High": 70.5}, "low_is_not_above_high"),
        14: ({"NumericValue": -5}, "value_is_one_of_the_indicator"),
        15: ({"Dim1": "SEX_X"}, "readable: dim1 is SEX_X"),
    }
    rows.sort(key=lambda row: row["SpatialDimType"] == "COUNTRY")  # the server lists countries by their codes
    for n, (change, _) in bad.items():
        rows[n] |= change
    rows[16] |= {"SpatialDimType": f" {rows[16]['SpatialDimType']}", "Dim1": f" {rows[16]['Dim1']} "}
    rows[20] |= {"NumericValue": None, "Low": None, "High": None, "Value": "Data not available"}
    twice = rows[30] | {"Id": 123456789}
    in_another_way = rows[31] | {"Dim1": rows[31]["Dim1"].removeprefix("SEX_"), "Comments": "once more"}
    publish(who, "2025-03-06", [*rows, twice, in_another_way])
    assert who.run(), who.failures()
    reasons = who.sql("SELECT reason FROM quarantine.health_indicators UNION ALL SELECT reason FROM quarantine.gho")
    for _, why in bad.values():
        assert sum(bool(re.search(re.escape(why), reason)) for (reason,) in reasons) == 1, (why, reasons)
    assert len(reasons) == len(bad)
    assert who.value("SELECT count(*) FROM refined.health_indicators") == len(rows) - len(bad)
    told = who.sql("SELECT value, value_given FROM refined.health_indicators WHERE value IS NULL")
    assert told == [(None, "Data not available")]
    assert who.check("refined/health_indicators", "balance").passed  # with the row that came twice

    publish(who, "2025-03-07", recorded(who.data, FIRST))
    assert who.run(), who.failures()
    assert who.value("SELECT count(*) FROM quarantine.health_indicators") == 0
    assert who.value("SELECT count(*) FROM quarantine.gho") == 0
    assert who.value("SELECT count(*) FROM refined.health_indicators") == 1782


def test_a_key_with_two_values(who: House) -> None:
    """Which is right cannot be told: both are kept out, until one of them is gone."""
    rows = recorded(who.data, FIRST)
    publish(who, "2025-03-06", [*rows, rows[30] | {"NumericValue": 12.5}])
    assert who.run(), who.failures()
    place = f"spatial_code={rows[30]['SpatialDim']}, year={rows[30]['TimeDim']}, dim1={rows[30]['Dim1']}"
    reasons = [reason for (reason,) in who.sql("SELECT reason FROM quarantine.health_indicators")]
    assert len(reasons) == 2
    assert all(reason.startswith("unique_key: the row is one of 2 with indicator=") for reason in reasons)
    assert all(place in reason for reason in reasons)
    assert who.value("SELECT count(*) FROM refined.health_indicators") == len(rows) - 1
    publish(who, "2025-03-07", rows)
    assert who.run(), who.failures()
    assert who.value("SELECT count(*) FROM refined.health_indicators") == len(rows)
    assert who.value("SELECT count(*) FROM quarantine.health_indicators") == 0


def test_values_of_some_of_the_people_are_not_those_of_all(who: House) -> None:
    """Of cities, say: they are an indicator's values, and none of the tables of life expectancy."""
    before = [who.frame(f"presentation.life_expectancy_{name}") for name in ("by_country", "at_birth")]
    rows = recorded(who.data, FIRST)
    of_cities = {"Dim2Type": "RESIDENCEAREATYPE", "Dim2": "RESIDENCEAREATYPE_URB", "NumericValue": 99.0}
    publish(who, "2025-03-06", [*rows, *(row | of_cities for row in rows)])
    assert who.run(), who.failures()
    assert who.value("SELECT count(*) FROM refined.health_indicators WHERE dim2 <> ''") == len(rows)
    after = [who.frame(f"presentation.life_expectancy_{name}") for name in ("by_country", "at_birth")]
    published = ("date", "transformed_epoch", "created_at")
    for now, then in zip(after, before, strict=True):
        assert now.drop(published, strict=False).equals(then.drop(published, strict=False))


def test_an_answer_as_it_was_years_ago(who: House) -> None:
    """Sex without its type, no region, fractions of a second: the same keys, the same sexes."""
    rows = recorded(who.data, FIRST)
    older = [
        {k: v for k, v in row.items() if k != "ParentLocation"} | {"Dim1": row["Dim1"].removeprefix("SEX_")}
        for row in rows
    ]
    publish(who, "2025-03-06", older)
    assert who.run(), who.failures()
    found = who.sql("SELECT spatial_type, spatial_code, year, dim1, sex, parent_region FROM refined.health_indicators")
    assert {row[:4]: row[4:] for row in found} == {key(row): (SEXES[row["Dim1"]], None) for row in rows}
    assert "ParentLocation is gone" in who.check("raw/gho", "columns").description


def test_an_extract_that_is_refused_goes_on(who: House) -> None:
    """The message names dataset, slice and page; the lake keeps the pages until the file is landed."""
    before = {name: who.frame(name) for name in TABLES}
    who.publish(SECOND)
    who.faults.add(PATH, Fault.html(), query={"$skip": "1000"})
    assert not who.run()
    assert re.search("gho: WHOSIS_000001, page 2: http://.*answered with an HTML page.*last good", who.failures())
    assert list(landing_store("gho").pages())
    assert all(who.frame(name).equals(frame) for name, frame in before.items())
    asked = who.faults.count(PATH, query={"$skip": None, "$top": None})
    assert who.run(), who.failures()
    assert who.faults.count(PATH, query={"$skip": None, "$top": None}) == asked
    assert not list(landing_store("gho").pages())
    check_restatement(who, recorded(who.data, FIRST), recorded(who.data, SECOND))
    who.faults.add(PATH, Fault.html(), query={"$skip": "1000"})
    who.datasets = ("gho",)
    assert not who.run(anew=True)
    assert who.run(anew=True), who.failures()
    assert who.faults.count(PATH, query={"$skip": None, "$top": None}) == asked + 2, "anew is anew"


def test_an_indicator_that_matches_nothing_any_more(who: House) -> None:
    """An empty answer is no publication: the good table stays."""
    before = {name: who.frame(name) for name in TABLES}
    publish(who, "2025-03-06", [])
    assert not who.run()
    assert "WHOSIS_000001: the filter \"SpatialDimType ne 'NONE'\" matches nothing" in who.failures()
    who.faults.always(PATH, Fault.status(404))
    assert not who.run()
    assert "WHOSIS_000001 answered HTTP 404 Not Found" in who.failures()
    assert all(who.frame(name).equals(frame) for name, frame in before.items())


def test_the_second_run_makes_nothing(house: House) -> None:
    """Also when the extract is made once more: identical bytes change nothing downstream."""
    house.datasets = ("life_expectancy",)
    assert house.run(), house.failures()
    pages = house.faults.count(PATH, query={"$top": None})
    assert house.run()
    assert (house.made(), house.faults.count(PATH, query={"$top": None})) == ({}, pages)
    manifest = json.loads(house.lake.get("landing/gho/current.json") or b"")
    house.lake.put("landing/gho/current.json", json.dumps(manifest | {"etag": "{}"}).encode())
    objects = {name: house.lake.get(name) for name in house.objects() if not name.startswith("landing/")}
    assert house.run(), house.failures()
    assert house.made() == {"landing/gho": 1}
    assert house.faults.count(PATH, query={"$top": None}) == 2 * pages
    assert {name: house.lake.get(name) for name in house.objects() if not name.startswith("landing/")} == objects


def _declare(house: House, code: str) -> None:
    """Let the house have the dataset as this code declares it."""
    for key_, spec in list(SPECS.items()):
        if spec.dataset is not gho_countries.DATASET:
            del SPECS[key_]
    module = types.ModuleType("gho")
    exec(compile(code, "gho.py", "exec", dont_inherit=True), module.__dict__)
    house.definitions, house.datasets = definitions([gho_countries, module]), ()


def test_another_indicator_is_an_entry_and_no_code(house: House) -> None:
    """With a filter of its own; one that is switched off is not asked for, and all are shown with the landing asset."""
    own = (
        'Indicator("WHOSIS_000002", "Healthy life expectancy", "SpatialDimType eq \'COUNTRY\'", freshness_days=30),'
        ' Indicator("WHOSIS_000007", "Not yet", enabled=False), Indicator('
    )
    code = Path(gho.__file__ or "").read_text().replace("GHO_INDICATORS = [Indicator(", f"GHO_INDICATORS = [{own}")
    smaller = code.replace("SpatialDimType ne 'NONE'", "SpatialDimType eq 'GLOBAL'").replace(own, "Indicator(")
    before = dict(SPECS)
    try:
        _declare(house, code)
        assert house.run(), house.failures()
        [shown] = [node for node in house.definitions.resolve_asset_graph().asset_nodes if node.key == LANDING]
        found = dict(house.sql("SELECT indicator, count(*) FROM refined.health_indicators GROUP BY 1"))
        kinds = house.sql("SELECT DISTINCT spatial_type FROM refined.health_indicators WHERE indicator LIKE '%2'")
        days = [(row.data["code"], row.data["freshness_days"]) for row in shown.metadata["indicators"].records]
        _declare(house, smaller)
        house.materialize("landing/gho")  # which is no fragment: less was asked for
    finally:
        SPECS.clear()
        SPECS.update(before)
    text = gzip.decompress((house.data / "who_gho" / FIRST / "WHOSIS_000002.json.gz").read_bytes())
    countries = [row for row in json.loads(text)["value"] if row["SpatialDimType"] == "COUNTRY"]
    assert found == {"WHOSIS_000001": 1782, "WHOSIS_000002": len(countries)}
    assert kinds == [("COUNTRY",)]
    assert json.dumps(shown.metadata["indicators"].records[0].data, allow_nan=False)
    assert days == [("WHOSIS_000002", 30), ("WHOSIS_000007", 0), ("WHOSIS_000001", 0)]


@pytest.mark.shared
def test_the_recordings(shared_house: House) -> None:
    shared_house.publish(FIRST)
    shared_house.datasets = ("life_expectancy",)
    assert shared_house.run(), shared_house.failures()
    first, second = (recorded(shared_house.data, day) for day in (FIRST, SECOND))
    count = "SELECT count(*) FROM refined.health_indicators WHERE indicator = 'WHOSIS_000001'"
    assert shared_house.value(count) == 12_936
    assert Counter(map(key, first)).most_common(1)[0][1] == 1
    shared_house.publish(SECOND)
    assert shared_house.run(), shared_house.failures()
    assert shared_house.value(count) == 12_936
    check_restatement(shared_house, first, second)
    check_by_country(shared_house, second)
    assert shared_house.value("SELECT count(*) FROM quarantine.health_indicators") == 0
