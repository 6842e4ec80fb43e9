"""The generated sample: always the same, shaped like the real files, and dirty in every known way."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import shapely
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from benchmarks.synthetic import synthetic_counties, synthetic_events
from etl_assets.local.recordings import publications
from etl_assets.local.sample import (
    CHANGED_DAYS,
    COLUMNS,
    COLUMNS_SINCE_APRIL_2025,
    CORRECTED_ADVANCES,
    RESTATED_VALUES,
    write_sample,
)

FIRST, SECOND = "protest_events/2025-03-05/ccc.csv.gz", "protest_events/2025-04-04/ccc.csv.gz"
COUNTIES = "us_counties/2010/counties.geojson.gz"
GHO_FIRST, GHO_SECOND = "who_gho/2024-10-01", "who_gho/2025-11-09"
API_FILES = (
    *(f"{folder}/WHOSIS_00000{number}.json.gz" for folder in (GHO_FIRST, GHO_SECOND) for number in (1, 2)),
    *("treasury/2021-08-31/title_xii.json.gz", "treasury/2021-09-30/title_xii.json.gz"),
    *(f"census/saipe/state_{year}.json" for year in (2017, 2018, 2019)),
    *(f"census/saipe/county_{year}.json" for year in (2018, 2019)),
    "census/histpov2/all_years.derived.json",
)
RETAIL_FILES = tuple(
    f"retail/{name}"
    for name in ("customer_data.json", "exchange_rates.json", "products.csv", "sales_data.csv", "transactions.csv")
)
SOURCES = [f"source{number}" for number in range(1, 31)]
KEY = ("date", "locality", "state", "location", "title", "event_type", "organizations")


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / "data"
    write_sample(folder)
    return folder


def unpack(file: Path) -> bytes:
    return gzip.decompress(file.read_bytes())


def read(folder: Path, name: str) -> bytes:
    return unpack(folder / name) if name.endswith(".gz") else (folder / name).read_bytes()


def records(content: bytes) -> list[dict[str, str]]:
    # The csv module ends a record at a lone carriage return; this stands in for it meanwhile.
    text = content.decode("utf-8", "surrogateescape").replace("\r", "\0CR")
    return [
        {name: value.replace("\0CR", "\r") for name, value in row.items()}
        for row in csv.DictReader(io.StringIO(text, newline=""), strict=True)
    ]


@pytest.fixture(scope="module")
def first(sample: Path) -> list[dict[str, str]]:
    return records(unpack(sample / FIRST))


@pytest.fixture(scope="module")
def second(sample: Path) -> list[dict[str, str]]:
    return records(unpack(sample / SECOND))


@pytest.fixture(scope="module")
def counties(sample: Path) -> dict[str, BaseGeometry]:
    features = json.loads(unpack(sample / COUNTIES))["features"]
    return {feature["id"]: shapely.make_valid(shape(feature["geometry"])) for feature in features}


# --- the folder


def test_layout(sample: Path):
    assert publications(sample) == {
        "census": [],
        "protest_events": ["2025-03-05", "2025-04-04"],
        "retail": [],
        "totesys": ["2024-11-14", "2024-11-15"],
        "treasury": ["2021-08-31", "2021-09-30"],
        "us_counties": ["2010"],
        "who_gho": ["2024-10-01", "2025-11-09"],
    }


def test_same_bytes_every_time_in_every_process(sample: Path, tmp_path: Path):
    program = (
        "import sys; from pathlib import Path; from etl_assets.local.sample import write_sample\n"
        "write_sample(Path(sys.argv[1]))"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}
    subprocess.run([sys.executable, "-c", program, tmp_path / "again"], check=True, env=environment)
    names = sorted(path.relative_to(sample) for path in sample.rglob("*") if path.is_file())
    assert len(names) == 3 + len(API_FILES) + len(RETAIL_FILES) + 10 + 11 + 1  # ToteSys on two days, and the stamp
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (sample / name).read_bytes()


def test_known_bytes(sample: Path):
    """A changed sample is a change someone meant: its digest is pinned, on every version of Python."""
    digest = hashlib.sha256(b"".join(unpack(sample / name) for name in (FIRST, SECOND, COUNTIES)))
    assert digest.hexdigest()[:16] == "3b80f298f5d36861"
    digest = hashlib.sha256(b"".join(read(sample, name) for name in API_FILES))
    assert digest.hexdigest()[:16] == "0e5efd703c66ea4f"


def test_written_once_and_replaced_when_the_generator_changes(tmp_path: Path):
    folder = tmp_path / "deep" / "sample"
    write_sample(folder)
    written = (folder / FIRST).stat().st_mtime_ns
    write_sample(folder)
    assert (folder / FIRST).stat().st_mtime_ns == written
    (folder / ".stamp").write_text("an older generator")
    (folder / "protest_events/2020-01-01").mkdir()
    write_sample(folder)
    assert not (folder / "protest_events/2020-01-01").exists()
    assert [entry.name for entry in folder.parent.iterdir()] == ["sample"]


def test_leaves_a_folder_of_something_else_alone(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds other files"):
        write_sample(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.txt"]


# --- counties


def test_counties_are_shaped_like_the_real_ones(sample: Path):
    collection = json.loads(unpack(sample / COUNTIES))
    assert collection["type"] == "FeatureCollection"
    features = collection["features"]
    assert 40 <= len(features) <= 80
    for feature in features:
        properties = feature["properties"]
        assert list(feature) == ["type", "properties", "geometry", "id"]
        assert list(properties) == ["GEO_ID", "STATE", "COUNTY", "NAME", "LSAD", "CENSUSAREA"]
        assert feature["id"] == properties["STATE"] + properties["COUNTY"]
        assert properties["GEO_ID"] == f"0500000US{feature['id']}"
        assert properties["CENSUSAREA"] > 0
    assert len({feature["id"] for feature in features}) == len(features)
    assert {"Polygon", "MultiPolygon"} == {feature["geometry"]["type"] for feature in features}
    assert {"County", "Parish", "Borough", "Muno", "city", ""} == {
        feature["properties"]["LSAD"] for feature in features
    }
    assert max(Counter(feature["properties"]["NAME"] for feature in features).values()) >= 4


def test_one_county_is_invalid_and_none_overlap(sample: Path, counties: dict[str, BaseGeometry]):
    features = json.loads(unpack(sample / COUNTIES))["features"]
    assert [f["id"] for f in features if not shape(f["geometry"]).is_valid] == ["15003"]
    shapes = list(counties.values())
    pairs = shapely.STRtree(shapes).query(shapes, predicate="overlaps")
    assert pairs.size == 0
    assert counties["51510"].touches(counties["51003"])  # a city in the hole of a county


# --- events


def test_columns(sample: Path):
    assert len(COLUMNS) == 71
    assert len(COLUMNS_SINCE_APRIL_2025) == 74
    assert unpack(sample / FIRST).partition(b"\n")[0].decode() == ",".join(COLUMNS)
    assert unpack(sample / SECOND).partition(b"\n")[0].decode() == ",".join(COLUMNS_SINCE_APRIL_2025)
    added = {"issue_tags_summary", "issue_tags_verbatim", "issues"}
    assert tuple(name for name in COLUMNS_SINCE_APRIL_2025 if name not in added) == COLUMNS


@pytest.mark.shared
@pytest.mark.parametrize("name", [FIRST, SECOND])
def test_columns_are_the_real_ones(sample: Path, shared_data: Path, name: str):
    assert unpack(sample / name).partition(b"\n")[0] == unpack(shared_data / name).partition(b"\n")[0]


@pytest.mark.shared
def test_no_title_of_the_real_file_is_in_the_sample(
    first: list[dict[str, str]], second: list[dict[str, str]], shared_data: Path
):
    real = records(unpack(shared_data / FIRST)) + records(unpack(shared_data / SECOND))
    for column in ("title", "organizations", "claims_verbatim", "source1"):
        ours = {row[column] for row in first + second} - {"", "NA"}
        assert not ours & {row[column] for row in real}


def test_rows_and_days(first: list[dict[str, str]], second: list[dict[str, str]]):
    assert 380 <= len(first) <= 480
    assert 650 <= len(second) <= 800
    assert 20 <= len({row["date"] for row in first}) <= 25
    assert 45 <= len({row["date"] for row in second} - {""}) <= 60


def test_most_old_days_are_the_same_in_both(first: list[dict[str, str]], second: list[dict[str, str]]):
    def by_day(rows: list[dict[str, str]]) -> dict[str, Counter[tuple[str, ...]]]:
        days: dict[str, Counter[tuple[str, ...]]] = {}
        for row in rows:
            days.setdefault(row["date"], Counter())[tuple(row.get(name, "") for name in COLUMNS_SINCE_APRIL_2025)] += 1
        return days

    old, new = by_day(first), by_day(second)
    assert {day for day in old if old[day] != new.get(day)} == CHANGED_DAYS
    assert "2025-02-10" not in new
    assert len(old) - len(CHANGED_DAYS) >= 14
    assert new["2025-02-11"] > old["2025-02-11"]
    assert new["2025-02-23"] < old["2025-02-23"]


def test_key_is_unique_but_for_full_duplicates(first: list[dict[str, str]], second: list[dict[str, str]]):
    for rows in (first, second):
        keys = Counter(tuple(row[name] for name in KEY) for row in rows)
        whole = Counter(tuple(row.values()) for row in rows)
        assert sum(count - 1 for count in keys.values()) == sum(count - 1 for count in whole.values()) == 2
        without_organizations = Counter(tuple(row[name] for name in KEY[:-1]) for row in rows)
        assert max(without_organizations.values()) == 3


def sources(row: dict[str, str]) -> list[str]:
    return [row[name] for name in SOURCES]


DIRT = {
    "NA for null": lambda row: row["organizations"] == "NA" or row["notables"] == "NA",
    "empty for null": lambda row: row["organizations"] == "",
    "fips as a float": lambda row: row["fips_code"].endswith(".0") and len(row["fips_code"]) == 6,
    "fips as it should be": lambda row: row["fips_code"].startswith("06"),
    "no fips": lambda row: row["fips_code"] in ("", "NA"),
    "no point": lambda row: row["lat"] in ("", "NA"),
    "neither": lambda row: row["lat"] == row["fips_code"] == "",
    "stray byte": lambda row: "Ca\udcf1on" in row["location"],
    "decoded wrongly long ago": lambda row: "â\x80\x99" in row["title"],
    "emoji": lambda row: "🌎" in row["title"],
    "lone carriage return": lambda row: row["location"].endswith("\r"),
    "lone carriage return within quotes": lambda row: "\r" in row["location"] and "," in row["location"],
    "line end in a field": lambda row: "\n" in row["notes"],
    "quotes in a field": lambda row: '"' in row["claims_verbatim"],
    "source repeated": lambda row: len([s for s in sources(row) if s]) > len({s for s in sources(row) if s}),
    "gap between sources": lambda row: row["source1"] != "" and row["source2"] == "" and row["source4"] != "",
    "gap before sources": lambda row: row["source1"] == "" and row["source2"] != "",
    "comma in a source": lambda row: any("," in source for source in sources(row)),
    "no source": lambda row: not any(sources(row)),
    "thirty sources": lambda row: all(sources(row)),
    "list with case variants": lambda row: (
        row["organizations"].count("; ") == 2 and len({name.lower() for name in row["organizations"].split("; ")}) == 1
    ),
    "event type capitalised": lambda row: row["event_type"] == "Protest",
    "event type misspelt": lambda row: row["event_type"] == "demonstarion",
    "event type with an empty item": lambda row: row["event_type"].endswith(";"),
    "arrests a number": lambda row: row["arrests"] == "1.0",
    "arrests unspecified": lambda row: row["arrests"] == "unspecified",
    "arrests in words": lambda row: row["arrests"] == "at least 20",
    "injuries unspecified": lambda row: row["participant_injuries"] == "unspecified",
    "size without its upper end": lambda row: row["size_low"] not in ("", "NA") and row["size_high"] == "",
    "size_low > size_high": lambda row: row["size_low"] == "300.0" and row["size_high"] == "200.0",
    "no date": lambda row: row["date"] == "",
    "latitude": lambda row: row["lat"] == "140.0",
    "unknown state": lambda row: row["state"] == "ZZ",
    "online": lambda row: row["online"] == "1",
    "announced": lambda row: row["date"] > "2025-03-05",
}


@pytest.mark.parametrize("kind", DIRT)
def test_dirt_is_there(first: list[dict[str, str]], second: list[dict[str, str]], kind: str):
    assert any(map(DIRT[kind], first))
    assert any(map(DIRT[kind], second))


def test_broken_rows_are_few(first: list[dict[str, str]]):
    broken = ("size_low > size_high", "no date", "latitude", "unknown state")
    assert sum(any(DIRT[kind](row) for kind in broken) for row in first) == len(broken)


def test_second_publication_announces_events_too(second: list[dict[str, str]]):
    assert len([row for row in second if row["date"] > "2025-04-04"]) == 5


def test_carriage_returns_in_the_bytes(sample: Path):
    content = unpack(sample / FIRST)
    assert b"\r\n" not in content
    assert b",East & Alexander\r," in content
    assert b',"Station\rSquare, Hall 2",' in content
    assert b"Ca\xf1on" in content
    with pytest.raises(UnicodeDecodeError):
        content.decode()


def test_points(first: list[dict[str, str]], second: list[dict[str, str]], counties: dict[str, BaseGeometry]):
    for rows in (first, second):
        located = [row for row in rows if row["lat"] not in ("", "NA", "140.0")]
        assert 0.01 < (len(rows) - len(located)) / len(rows) < 0.05
        assert len({(row["lat"], row["lon"]) for row in located}) < len(located) / 3

        outside = differs = 0
        for row in located:
            point = shapely.Point(float(row["lon"]), float(row["lat"]))
            found = [fips for fips, county in counties.items() if county.covers(point)]
            assert len(found) <= 1
            outside += not found
            given = row["fips_code"]
            differs += bool(found and given and f"{int(float(given)):05d}" != found[0])
        assert outside == 4
        assert 4 <= differs <= 6


# --- the public APIs


def health(folder: Path, name: str) -> list[dict[str, Any]]:
    return json.loads(read(folder, f"{name}.json.gz"))["value"]


def by_key(rows: list[dict[str, Any]]) -> dict[tuple, dict[str, Any]]:
    names = ("SpatialDimType", "SpatialDim", "TimeDim", "Dim1", "Dim2", "Dim3")
    keyed = {tuple(row[name] for name in names): row for row in rows}
    assert len(keyed) == len(rows)
    return keyed


def test_health_values_are_restated_under_other_ids(sample: Path):
    first, second = (by_key(health(sample, f"{folder}/WHOSIS_000001")) for folder in (GHO_FIRST, GHO_SECOND))
    assert first.keys() == second.keys()
    assert not any(first[key]["Id"] == second[key]["Id"] for key in first)
    again = {row["Id"] for row in first.values()} & {row["Id"] for row in second.values()}
    assert len(again) == 21
    changed = {key for key in first if abs(first[key]["NumericValue"] - second[key]["NumericValue"]) > 1e-5}
    assert {(place, year) for _, place, year, *_ in changed} == RESTATED_VALUES
    assert len(changed) == 3 * len(RESTATED_VALUES)
    assert max(len(str(row["NumericValue"]).partition(".")[2]) for row in first.values()) == 5
    assert max(len(str(row["NumericValue"]).partition(".")[2]) for row in second.values()) == 8
    assert {row["SpatialDimType"] for row in first.values()} == {"COUNTRY", "REGION", "WORLDBANKINCOMEGROUP", "GLOBAL"}
    assert {row["SpatialDim"] for row in first.values()} >= {"ZAF", "BWA", "NAM", "ZWE", "MOZ", "LSO"}
    assert {len({row["Date"] for row in rows.values()}) for rows in (first, second)} == {1}
    no_range = [row for row in first.values() if row["Low"] is None]
    assert no_range
    assert not any("[" in row["Value"] for row in no_range)


def test_second_indicator_was_answered_as_years_ago(sample: Path):
    old, new = (health(sample, f"{folder}/WHOSIS_000002") for folder in (GHO_FIRST, GHO_SECOND))
    assert {row["Dim1"] for row in old} == {"BTSX", "MLE", "FMLE"}
    assert not any("ParentLocation" in row for row in old)
    missing = [row for row in old if row["Value"] == "Data not available"]
    assert [row["NumericValue"] for row in missing] == [None, None]
    values = {key: row["NumericValue"] for key, row in by_key(new).items()}
    pairs = [
        (row["NumericValue"], values[kind, place, year, f"SEX_{sex}", None, None])
        for (kind, place, year, sex, *_), row in by_key(old).items()
    ]
    share = sum(a is None or abs(a - b) > 1e-5 for a, b in pairs) / len(pairs)
    assert 0.8 < share < 0.92


@pytest.mark.shared
@pytest.mark.parametrize(
    "name",
    [
        f"{GHO_SECOND}/WHOSIS_000001.json.gz",
        "treasury/2021-08-31/title_xii.json.gz",
        "census/saipe/state_2018.json",
        "census/saipe/county_2019.json",
        "census/histpov2/all_years.derived.json",
    ],
)
def test_api_answers_are_shaped_like_the_real_ones(sample: Path, shared_data: Path, name: str):
    ours, real = json.loads(read(sample, name)), json.loads(read(shared_data, name))
    if isinstance(real, list):
        assert ours[0] == real[0]
        return
    assert list(ours) == list(real)
    rows = "value" if "value" in real else "data"
    assert list(ours[rows][0]) == list(real[rows][0])
    assert {name: ours[name] for name in ours if name != rows} == {name: real[name] for name in real if name != rows}


def test_advances(sample: Path):
    first, second = (json.loads(read(sample, name))["data"] for name in API_FILES[4:6])
    rows = {(row["record_date"], row["state_nm"], row["src_line_nbr"]): row for row in second}
    assert len(rows) == len(second)
    assert sum(day in ("2020-04-03", "2020-04-06") and state == "Indiana" for day, state, _ in rows) == 4
    assert {state for _, state, _ in rows} >= {"Louisana", "Louisiana", "New York", "New York*", "New York**"}
    assert {row["interest_rate_pct"] for row in second} >= {"1.59090000", "1.59089995"}
    assert {value for row in second for value in row.values() if not value.strip()} == set()
    assert any(row["interest_paid_amt"] == "null" for row in second)
    later = [row for row in second if row["record_date"] > "2021-08-31"]
    assert len(second) == len(first) + len(later) > len(first) > 1000
    changed = {old["record_date"] for old, new in zip(first, second, strict=False) if old != new}
    assert changed == CORRECTED_ADVANCES


def test_poverty(sample: Path, counties: dict[str, BaseGeometry]):
    _, *rows = json.loads(read(sample, "census/saipe/county_2019.json"))
    codes = {row[-2] + row[-1] for row in rows}
    assert codes - counties.keys() == {"02158", "46102", "15005"}
    assert {fips[:2] for fips in counties.keys() - codes} == {"72"}
    assert [row[0] for row in rows if None in row] == ["Kalawao County"]
    assert json.loads(read(sample, "census/saipe/state_2017.json"))[0][-2:] == ["YEAR", "state"]

    _, *rows = json.loads(read(sample, "census/histpov2/all_years.derived.json"))
    years_and_races = Counter((row[2], row[3]) for row in rows)
    assert {year for (year, _), count in years_and_races.items() if count == 2} == {"2013", "2017"}
    assert {race for _, race in years_and_races} == {str(race) for race in range(1, 13)}
    before = {race for year, race in years_and_races if year < "2002"}
    assert before & {race for year, race in years_and_races if year >= "2002"} == {"1", "12"}


# --- retail


def test_retail_has_the_dirt_of_the_real_sources(sample: Path):
    tables = {
        name: list(csv.DictReader(io.StringIO(read(sample, f"retail/{name}.csv").decode(), newline="")))
        for name in ("products", "transactions", "sales_data")
    }
    customers, rates = (json.loads(read(sample, f"retail/{name}.json")) for name in ("customer_data", "exchange_rates"))
    sales, products = tables["sales_data"], {row["Product_ID"]: row for row in tables["products"]}
    assert read(sample, "retail/sales_data.csv").count(b"\r\n") == len(sales) + 1
    assert {re.sub(r"\d", "9", row["Transaction_Date"]) for row in sales} == {
        "9999-99-99",
        "99/99/9999",
        "99-99-9999",
        "",
    }
    assert not {row["Product_ID"] for row in sales} & products.keys()
    assert {"-1", "0", "1000"} <= {row["Quantity"] for row in sales}
    for rows, column in ((sales, "Price"), (tables["products"], "Price"), (tables["transactions"], "Total_Amount")):
        assert any(row[column].startswith("-") for row in rows)
    assert "" in {row["Price"] for row in sales}
    for row in tables["transactions"]:
        assert row["Product_ID"] in products
        assert int(row["Customer_ID"]) in {customer["Customer_ID"] for customer in customers}
        cents = float(row["Total_Amount"] or 0) / int(row["Quantity"]) * 100
        assert abs(cents - round(cents)) < 1e-6
    assert any(len(row["Total_Amount"]) > 12 for row in tables["transactions"])  # the noise of a binary fraction
    assert {"", "Unknown"} <= {customer["Location"] for customer in customers}
    assert None in {customer["Age"] for customer in customers}
    keys = Counter((rate["Currency_Code"], rate["Date"]) for rate in rates)
    assert max(keys.values()) > 1
    assert any(rate["Exchange_Rate"] is None for rate in rates)
    assert any((rate["Exchange_Rate"] or 1) < 0 for rate in rates)


# --- for benchmarks


def test_synthetic_events_lie_in_their_synthetic_counties(tmp_path: Path):
    synthetic_counties(tmp_path / "counties.geojson")
    synthetic_events(tmp_path / "events.csv", 5000, days=30)
    features = json.loads((tmp_path / "counties.geojson").read_bytes())["features"]
    shapes = [shape(feature["geometry"]) for feature in features]
    assert len({feature["id"] for feature in features}) == len(features) == 3000
    assert all(polygon.is_valid for polygon in shapes)
    assert len(shapes[0].boundary.coords) == 61

    events = pl.read_csv(tmp_path / "events.csv", infer_schema=False)
    assert events.columns == list(COLUMNS)
    assert events.height == 5000
    assert events["date"].n_unique() == 30
    assert not events.select(KEY).is_duplicated().any()
    points = shapely.points(events["lon"].cast(pl.Float64), events["lat"].cast(pl.Float64))
    event, county = shapely.STRtree(shapes).query(points, predicate="within")
    assert event.tolist() == list(range(5000))
    found = [features[number]["id"] for number in county]
    assert [f"{int(float(fips)):05d}" for fips in events["fips_code"]] == found


def test_synthetic_correction_changes_only_its_days(tmp_path: Path):
    synthetic_events(tmp_path / "a.csv", 20_000, days=100)
    synthetic_events(tmp_path / "again.csv", 20_000, days=100)
    synthetic_events(tmp_path / "b.csv", 20_000, days=100, corrected_days=2)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "again.csv").read_bytes()
    before, after = ((tmp_path / name).read_text().splitlines() for name in ("a.csv", "b.csv"))
    changed = {new[:10] for old, new in zip(before, after, strict=True) if old != new}
    assert changed == {"2024-01-01", "2024-04-09"}
