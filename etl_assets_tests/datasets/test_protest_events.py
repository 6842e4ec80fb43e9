"""The event file: what its records become, which days of a new publication run, and what bad records do to the rest."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from math import ceil
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from etl_assets.datasets.protest_events import DATASET, KEY, STEADY, TELLING, typed
from etl_assets.local.sample import CHANGED_DAYS, COLUMNS
from etl_assets.sources.delimited import read_csv
from etl_assets.stages.ordinals import with_ordinals
from etl_assets_tests.datasets.files import (
    INSIDE,
    OUTSIDE,
    Row,
    county,
    county_file,
    days,
    event,
    event_file,
    publish_counties,
    publish_events,
    read_independently,
)
from etl_assets_tests.house import House

# --- one record


def read(folder: Path, *rows: Row, columns: tuple[str, ...] = COLUMNS, delimiter: str = ",") -> pl.DataFrame:
    """Records as the raw stage hands them on, typed."""
    path = folder / "events.csv"
    path.write_bytes(event_file(rows, columns, delimiter))
    published = pl.lit("2025-03-05").str.to_datetime(time_zone="UTC")
    return typed(read_csv(path).with_columns(_published_at=published, _row_hash=pl.int_range(pl.len())))


@pytest.mark.parametrize(
    ("given", "name", "becomes"),
    [
        ({"fips_code": "06037"}, "fips_given", "06037"),
        ({"fips_code": "6037.0"}, "fips_given", "06037"),
        ({"fips_code": "6037"}, "fips_given", "06037"),
        ({"fips_code": "NA"}, "fips_given", None),
        ({"event_type": "Rally; march;; rally ;"}, "event_types", ["rally", "march"]),
        ({"event_type": "Rally; march;; rally ;"}, "event_type", "Rally; march;; rally ;"),
        ({"event_type": ""}, "event_types", []),
        ({"arrests": "2.0"}, "arrests", 2.0),
        ({"arrests": "unspecified"}, "arrests", None),
        ({"arrests": "at least 20"}, "arrests", None),
        ({"arrests": "nan"}, "arrests", None),
        ({"police_injuries": "inf"}, "police_injuries", None),
        ({"participant_injuries": "3"}, "participant_injuries", 3.0),
        ({"title": " A title "}, "title", "A title"),
        ({"title": "NA"}, "title", None),
        ({"online": "1"}, "online", True),
        ({"online": "0.0"}, "online", False),
        ({"online": "TRUE"}, "online", True),
        ({"valence": "2.0"}, "valence", 2),
        ({"date": "2025-03-05"}, "is_announced", False),
        ({"date": "2025-03-06"}, "is_announced", True),
        ({"source1": ""}, "sources", []),
        ({"source1": "NA", "source2": "b"}, "sources", ["b"]),
        ({"source1": "b", "source2": "a", "source3": "b", "source30": "c, d"}, "sources", ["b", "a", "c, d"]),
        ({"source1": "b", "source2": "a", "source3": "b"}, "source_count", 2),
    ],
)
def test_a_value(tmp_path: Path, given: Row, name: str, becomes: object) -> None:
    assert read(tmp_path, event(**given))[name].to_list() == [becomes]


@pytest.mark.parametrize(
    ("given", "column"),
    [
        ({"size_low": "a dozen"}, "size_low"),
        ({"size_mean": "nan"}, "size_mean"),
        ({"size_high": "-inf"}, "size_high"),
        ({"size_high": "1,000"}, "size_high"),
        ({"lat": "34° N"}, "lat"),
        ({"lon": "NaN"}, "lon"),
        ({"date": "2025-02-30"}, "event_date"),
        ({"valence": "1.7"}, "valence"),
        ({"online": "perhaps"}, "online"),
    ],
)
def test_a_value_that_cannot_be_read_is_a_problem_not_a_gap(tmp_path: Path, given: Row, column: str) -> None:
    [problems] = read(tmp_path, event(**given))["_problems"].to_list()
    assert problems == [{"check": "readable", "column": column, "value": next(iter(given.values()))}]


def test_a_gap_is_no_problem(tmp_path: Path) -> None:
    """Whether it is empty or the publisher's NA."""
    for gap in ("", "NA", " "):
        row = event(size_low=gap, size_mean=gap, size_high=gap, lat=gap, lon=gap, state=gap)
        found = read(tmp_path, row)
        assert found["_problems"].to_list() == [[]]
        assert found.select("size_low", "lat", "lon", "state").row(0) == (None, None, None, None)


def test_phases_1_and_2_of_the_file_say_the_same(tmp_path: Path) -> None:
    """With other names, tabs, and NA for nothing."""
    row = event(claims_summary="for a park", location="Depot", source1="https://a.example/1", source2="b")
    names = {"event_type": "type", "location": "location_detail", "claims_summary": "claims"} | {
        f"source{n}": f"source_{n}" for n in range(1, 31)
    }
    columns = tuple(names.get(name, name) for name in COLUMNS)
    older = {names.get(name, name): row.get(name) or "NA" for name in COLUMNS}
    new, old = read(tmp_path, row), read(tmp_path, older, columns=columns, delimiter="\t")
    assert old.equals(new)
    assert old.select("event_type", "location", "claims").row(0) == ("march", "Depot", "for a park")


def test_a_file_of_several_phases_has_a_value_under_one_of_its_names(tmp_path: Path) -> None:
    """And NA under the others."""
    columns = (*COLUMNS, "type", "location_detail", "claims")
    older = event(event_type="NA", type="rally", location="", location_detail="Depot", claims_summary="NA", claims="x")
    newer = event(type="NA", location_detail="NA", claims_summary="y", claims="NA")
    found = read(tmp_path, older, newer, columns=columns).select("event_type", "location", "claims")
    assert found.rows() == [("rally", "Depot", "x"), ("march", "City Hall", "y")]


# --- events of one natural key


def ordinals(before: dict[str, int], *names: str) -> dict[str, int]:
    """The ordinals of events of one natural key; each is a letter, which stands for all that it says.

    As a small letter, it says the same in another way; as a number, something else with the same sources.
    """
    key = {"event_date": "2025-01-15", "state": "CA", "locality": None, "location": None, "title": "A",
           "event_type": "march", "organizations": None} | dict.fromkeys(TELLING)  # fmt: skip
    kinds = dict.fromkeys(key, pl.String) | {"sources": pl.List(pl.String), "row_hash": pl.Int64}

    def of(name: str) -> dict[str, object]:
        source = chr(ord("A") + int(name) - 1) if name.isdigit() else name.upper()
        return key | {"row_hash": ord(name), "claims": name.upper(), "sources": [source]}

    rows = [of(name) | {"_source_sha256": "a", "_source_row": n} for n, name in enumerate(names)]
    events = pl.DataFrame(rows, schema_overrides=kinds)
    published = pl.DataFrame(
        [of(name) | {"ordinal": ordinal} for name, ordinal in before.items()], schema={**kinds, "ordinal": pl.Int32}
    )
    found = with_ordinals(events, published, KEY, TELLING, *STEADY)
    assert found.columns == [*events.columns, "ordinal"]
    assert found["row_hash"].to_list() == [ord(name) for name in names]
    return dict(zip(names, found["ordinal"].to_list(), strict=True))


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        pytest.param({}, "A", {"A": 1}, id="the first"),
        pytest.param({}, "CAB", {"C": 1, "A": 2, "B": 3}, id="several, in the order of the file"),
        pytest.param({"A": 1, "B": 2}, "BA", {"B": 2, "A": 1}, id="shuffled"),
        pytest.param({"A": 1, "B": 2, "C": 3}, "BC", {"B": 2, "C": 3}, id="the first vanishes"),
        pytest.param({"A": 1, "B": 2}, "B", {"B": 2}, id="the last one left keeps its own"),
        pytest.param({"B": 2}, "AB", {"A": 1, "B": 2}, id="and the first may come back"),
        pytest.param({"A": 1}, "BAC", {"B": 2, "A": 1, "C": 3}, id="one arrives before it"),
        pytest.param({"A": 1, "B": 2}, "XB", {"X": 1, "B": 2}, id="one is corrected"),
        pytest.param({"A": 1}, "X", {"X": 1}, id="the only one is corrected"),
        pytest.param({"A": 1, "B": 2, "C": 3}, "3", {"3": 3}, id="the one left is corrected, but for its sources"),
        pytest.param({"B": 2}, "X", {"X": 2}, id="the only one there was is corrected"),
        pytest.param({"A": 1, "B": 2, "C": 3}, "cXb", {"c": 3, "X": 1, "b": 2}, id="said in another way"),
        pytest.param({"B": 2, "A": 1}, "XY", {"X": 1, "Y": 2}, id="all are others"),
        pytest.param({"A": 1, "D": 4}, "DXYA", {"D": 4, "X": 2, "Y": 3, "A": 1}, id="gaps are filled"),
    ],
)
def test_an_event_keeps_its_ordinal(before: dict[str, int], now: str, expected: dict[str, int]) -> None:
    assert ordinals(before, *now) == expected


def test_a_correction_of_all_twins_does_not_exchange_them() -> None:
    """Written with other digits and in another order, they are told apart by what they claim."""
    key = dict.fromkeys(KEY, "x")
    schema = dict.fromkeys([*KEY, *TELLING], pl.String) | {"sources": pl.List(pl.String)}
    twins = [key | {"claims": claims, "sources": ["a"], "lat": "42.6526"} for claims in ("for", "against")]
    published = pl.DataFrame(twins, schema).with_columns(
        row_hash=pl.Series([1, 2], dtype=pl.Int64), ordinal=pl.Series([1, 2], dtype=pl.Int32)
    )
    now = pl.DataFrame([twin | {"lat": "42.65", "sources": ["a", "b"]} for twin in reversed(twins)], schema)
    now = now.with_columns(pl.Series("row_hash", [3, 4]), pl.Series("_source_row", [1, 2]), _source_sha256=pl.lit("f"))
    assert with_ordinals(now, published, KEY, TELLING, *STEADY)["ordinal"].to_list() == [2, 1]
    now = now.with_columns(participants=pl.Series(["old", "young"]), claims=pl.lit(None, pl.String))
    published = published.with_columns(participants=pl.Series(["young", "old"]), claims=pl.lit(None, pl.String))
    assert with_ordinals(now, published, KEY, TELLING, *STEADY)["ordinal"].to_list() == [2, 1]


def test_nothing_said_tells_no_twins_apart() -> None:
    """A new event that claims nothing is not the one that claimed nothing before and has the same sources still."""
    key = dict.fromkeys(KEY, "x")
    schema = dict.fromkeys([*KEY, *TELLING], pl.String) | {"sources": pl.List(pl.String)}
    published = pl.DataFrame([key | {"sources": ["a"]}, key | {"sources": ["b"]}], schema).with_columns(
        row_hash=pl.Series([1, 2], dtype=pl.Int64), ordinal=pl.Series([1, 2], dtype=pl.Int32)
    )
    now = pl.DataFrame([key | {"sources": ["c"]}, key | {"sources": ["a"], "claims": "c"}], schema)
    now = now.with_columns(pl.Series("row_hash", [3, 4]), pl.Series("_source_row", [1, 2]), _source_sha256=pl.lit("f"))
    assert with_ordinals(now, published, KEY, TELLING, *STEADY)["ordinal"].to_list() == [2, 1]


def test_ordinals_of_different_keys_do_not_meet() -> None:
    """Nor do those of two files, in which records of unchanged days still stand where they stood in an older one."""
    events = pl.DataFrame(
        {"event_date": ["d"] * 4, "locality": ["x", None, None, "x"], "state": "CA", "location": None, "title": "A",
         "event_type": None, "organizations": None, "row_hash": [1, 2, 3, 4],
         "_source_sha256": ["a", "a", "b", "b"], "_source_row": [1, 2, 2, 1]},
        schema_overrides={"location": pl.String, "event_type": pl.String, "organizations": pl.String},
    )  # fmt: skip
    published = events.filter(row_hash=3).select(*KEY, "row_hash", ordinal=pl.lit(1, pl.Int32))
    assert with_ordinals(events, published, KEY)["ordinal"].to_list() == [1, 2, 1, 2]


# --- a file with everything that may be wrong

HOSTILE = {
    "sql": "'; DROP TABLE refined.protest_events; --",
    "backslash": r"\N \. \\ \x",
    "formula": '=HYPERLINK("http://x.example","y")',
    "emoji": "🌎 ﷽ e\u0301 \u202eright to left",
    "escape": "\x1b[31mred\x07\x1b]0;title\x07",
    "braces": "{} {{x}} %s $1 [red]",
    "long": "x" * 10_000,
    "bytes": "@NUL@Ca@LATIN1@on@CR@.",
}

#: What is to be quarantined: the record, and column, value and check of what is wrong with it.
BAD: list[tuple[Row, str, str, str]] = [
    (event(date=""), "date", "", "placeable"),
    (event(date="NA"), "date", "NA", "placeable"),
    (event(date="0001-01-01"), "date", "0001-01-01", "placeable"),
    (event(date="9999-12-31"), "date", "9999-12-31", "placeable"),
    (event(date="../../x"), "date", "../../x", "placeable"),
    (event(lat="140.0"), "lat", "140.0", "in_range"),
    (event(lat=INSIDE[1], lon=INSIDE[0]), "lat", "-118.5", "in_range"),
    (event(lon="18.5"), "", "lon=18.5", "lon_is_of_the_united_states"),
    (event(state="ZZ"), "state", "ZZ", "isin"),
    (event(state=""), "state", "", "not_nullable"),
    (event(size_low="300", size_high="200"), "", "size_low=300.0, size_high=200.0", "size_low_is_not_above_size_high"),
    (event(size_mean="NaN"), "size_mean", "NaN", "readable"),
    (event(size_high="inf"), "size_high", "inf", "readable"),
    (event(size_low="-1"), "size_low", "-1.0", "greater_than_or_equal_to"),
    (event(fips_code="no code"), "fips_given", "no code", "str_matches"),
    (event(fips_code="37"), "fips_given", "37", "str_matches"),
    (event(title="y" * 9_000_000), "title", "y" * 200, "str_length"),
]


def test_a_file_with_everything_that_may_be_wrong(house: House) -> None:
    """Bad records are kept out with their reasons, hostile text is text, twins are told apart, and no row is lost."""
    good = [event(title=text, notes=name) for name, text in HOSTILE.items()]
    twins = [event(title="Twins", notes=str(n)) for n in range(1000)]
    copies = [event(title="Copies")] * 1000
    large = event(title="Large", notes="z" * 10_000_000)
    rows = [*good, *twins, *copies, large, event(date=" 2025-01-16 "), *(row for row, *_ in BAD)]
    content = event_file(rows) + b"2025-01-15,x,y\n" + b"2025-01-15" + b",x" * 499 + b"\n"
    content = content.replace(b"@NUL@", b"\0").replace(b"@LATIN1@", b"\xf1").replace(b"@CR@", b"\r")
    publish_counties(house, county_file(county()))
    publish_events(house, "2025-03-05", content)
    assert house.run(), house.failures()

    raw, refined, out = (house.value(f"SELECT count(*) FROM {stage}.protest_events") for stage in STAGES)
    assert (raw, out) == (len(rows) + 2, len(BAD) + 2)
    assert raw - refined - out == 999
    found = dict(house.sql("SELECT r.notes, e.title FROM refined.protest_events e JOIN raw.protest_events r "
                           "USING (_source_sha256, _source_row) WHERE e.title NOT IN ('Twins', 'Copies')"))  # fmt: skip
    assert {name: found.get(name) for name in HOSTILE} == HOSTILE | {"bytes": "\u2400Cañon\r."}
    assert len(next(notes for notes, title in found.items() if title == "Large")) == 10_000_000
    ids = "count(*), count(DISTINCT event_id), min(ordinal), max(ordinal)"
    assert house.sql(f"SELECT {ids} FROM refined.protest_events WHERE title = 'Twins'") == [(1000, 1000, 1, 1000)]
    assert house.value("SELECT count(*) FROM refined.protest_events WHERE title = 'Copies'") == 1
    assert house.value("SELECT count(*) FROM refined.protest_events WHERE event_date = '2025-01-16'") == 1

    kept = house.sql(
        "SELECT _source_row, columns, values, checks, reason, record::json->>'date', _partition "
        "FROM quarantine.protest_events ORDER BY _source_row"
    )
    assert [number for number, *_ in kept] == list(range(len(rows) - len(BAD) + 1, len(rows) + 3))
    for (_, columns, values, checks, reason, date, partition), (row, column, value, check) in zip(
        kept, BAD, strict=False
    ):
        place = next(n for n, name in enumerate(checks) if name.startswith(check))
        assert (columns[place], values[place] if value else "") == (column, value)
        assert check in reason
        assert date == (row["date"] or None)
        assert partition == ("unplaced" if check == "placeable" else "2025-01-15")
    assert [(checks, values[0][:20]) for _, _, values, checks, *_ in kept[-2:]] == [
        (["fields"], "2025-01-15,x,y"),
        (["fields"], "2025-01-15,x,x,x,x,x"),
    ]
    assert {name for name in house.objects() if name.startswith("raw/protest_events/")} == {
        f"raw/protest_events/{name}" for name in
        ("2025-01-15.parquet", "2025-01-16.parquet", "unplaced.parquet", "bookkeeping.json")
    }  # fmt: skip

    # What is corrected leaves the quarantine, what vanishes leaves the tables, and nobody else's id changes.
    before = dict(house.sql("SELECT row_hash, event_id FROM refined.protest_events"))
    corrected = [event(title=f"Mended {n}") for n, _ in enumerate(BAD)]
    publish_events(house, "2025-03-06", event_file([*twins[::-1][:500], large, *good, *corrected]))
    assert house.run(), house.failures()
    assert house.made()["refined/protest_events"] == 2
    assert house.value("SELECT count(*) FROM quarantine.protest_events") == 0
    after = dict(house.sql("SELECT row_hash, event_id FROM refined.protest_events"))
    assert len(after) == 500 + 1 + len(good) + len(corrected)
    assert {key: before.get(key) for key in after if key in before} == {k: after[k] for k in after if k in before}
    assert not {after[key] for key in after.keys() - before.keys()} & set(before.values())


STAGES = ("raw", "refined", "quarantine")


@pytest.mark.parametrize("kind", ["same", "differs", "outside", "no_point"])
def test_how_the_located_county_and_the_given_agree(house: House, kind: str) -> None:
    """An event without a place that can be located goes by the file's own code, if it has one."""
    point = {"outside": OUTSIDE, "no_point": ("", "")}.get(kind, INSIDE)
    code = "06039" if kind == "differs" else "6037.0"
    publish_counties(house, county_file(county(), county(id="06039", NAME="Madera", geometry=_box(10))))
    rows = [event(lat=point[0], lon=point[1], fips_code=code), event(lat=point[0], lon=point[1], fips_code="")]
    publish_events(house, "2025-03-05", event_file(rows))
    for key in ("landing/us_counties", "raw/us_counties", "refined/us_counties", "landing/eventdata_baseline",
                "raw/eventdata_baseline", "refined/eventdata_baseline", "landing/protest_events",
                "raw/protest_events"):  # fmt: skip
        house.materialize(key)
    house.materialize("refined/protest_events", "2025-01-15")
    columns = "agreement, fips_given, fips_located, county_located, fips, ST_AsText(geometry)"
    found = house.sql(f"SELECT {columns} FROM refined.protest_events ORDER BY fips_given NULLS LAST")
    located = ("06037", "Los Angeles") if kind in ("same", "differs") else (None, None)
    wkt = f"POINT({point[1]} {point[0]})" if kind != "no_point" else None
    assert found[0] == (kind, code.removesuffix(".0").zfill(5), *located, located[0] or "06037", wkt)
    without_code = "differs" if kind == "same" else kind
    assert found[1] == (without_code, None, *located, located[0], wkt)


def _box(west: int) -> dict[str, Any]:
    ring = [[west, 0], [west + 1, 0], [west + 1, 1], [west, 1], [west, 0]]
    return {"type": "Polygon", "coordinates": [ring]}


# --- two publications


def test_two_publications(house: House) -> None:
    """On the project's own sample."""
    differ = _run_two_publications(house, house.data, raw=(437, 703), columns=(71, 74))
    assert differ > CHANGED_DAYS  # and the days that are only in the second


@pytest.mark.shared
@pytest.mark.long
def test_two_real_publications(shared_house: House, shared_data: Path) -> None:
    """On what the publisher published."""
    _run_two_publications(shared_house, shared_data, raw=(2669, 5169), columns=(71, 74))


def _run_two_publications(house: House, data: Path, raw: tuple[int, int], columns: tuple[int, int]) -> set[str]:
    """Run both, and check all that can be computed by other means; gives the days that differ."""
    files = [
        gzip.decompress((data / "protest_events" / date / "ccc.csv.gz").read_bytes())
        for date in ("2025-03-05", "2025-04-04")
    ]
    first, second = (read_independently(content) for content in files)
    assert (len(first), len(second)) == raw

    assert house.run(), house.failures()
    _check_accounts(house, raw[0], columns[0])
    _check_presentation(house, first)
    objects, tables = house.objects(), {name: house.frame(name) for name in TABLES}
    made = _made_at(house)

    assert house.run(), house.failures()
    assert house.made() == {}
    assert house.objects() == objects
    assert all(house.frame(name).equals(table) for name, table in tables.items())
    assert _made_at(house) == made

    house.publish("2025-04-04")
    runs = _runs(house)
    assert house.run(), house.failures()
    _check_accounts(house, raw[1], columns[1])
    _check_presentation(house, second)
    before, after = days(first), days(second)
    differ = {day for day in before.keys() | after.keys() if before.get(day) != after.get(day)}
    assert {day for day, at in _made_at(house).items() if made.get(day) != at} == differ
    assert house.made()["refined/protest_events"] == len(differ)
    assert _runs(house) - runs == ceil(len(differ) / DATASET.batch)  # however scattered the days are
    event = house.instance.get_latest_materialization_event(dg.AssetKey(["raw", "protest_events"]))
    assert event is not None
    assert event.asset_materialization is not None
    assert event.asset_materialization.metadata["partitions_changed"].value == len(differ)
    assert f"{len(differ)} partitions changed" in house.printed

    published = house.frame("refined.protest_events")
    keys = ["event_date", "locality", "state", "location", "title", "event_type", "organizations", "ordinal"]
    both = tables["refined.protest_events"].join(published, on=keys, nulls_equal=True)
    assert both.height > raw[0] / 2
    assert both.filter(pl.col("event_id") != pl.col("event_id_right")).is_empty()
    vanished = before.keys() - after.keys()
    assert published.filter(pl.col("event_date").cast(pl.String).is_in(sorted(vanished))).is_empty()

    drift = house.check("raw/protest_events", "columns")
    assert drift.severity is dg.AssetCheckSeverity.WARN
    new = ("issue_tags_summary", "issue_tags_verbatim", "issues")
    assert drift.description == "; ".join(f"{name} is new" for name in new)
    assert house.value("SELECT count(issues) FROM raw.protest_events") == sum(bool(row["issues"]) for row in second)
    return differ


TABLES = (
    "raw.protest_events",
    "refined.protest_events",
    "quarantine.protest_events",
    "presentation.eventdata",
    "presentation.county_protests_monthly",
    "presentation.event_sources",
    "refined.us_counties",
)


def _made_at(house: House) -> dict[str, int]:
    """The newest materialization of every day of the refined events."""
    return dict(
        house.instance.get_latest_storage_id_by_partition(
            dg.AssetKey(["refined", "protest_events"]), dg.DagsterEventType.ASSET_MATERIALIZATION
        )
    )


def _runs(house: House) -> int:
    """How many runs have made days of the refined events."""
    asset = dg.AssetKey(["refined", "protest_events"])
    return sum(asset in (run.asset_selection or ()) for run in house.instance.get_runs())


def _check_accounts(house: House, raw: int, columns: int) -> None:
    """Every record is somewhere, and every point is where PostGIS says."""
    assert house.value("SELECT count(*) FROM raw.protest_events") == raw
    own = "table_schema = 'raw' AND table_name = 'protest_events' AND column_name NOT LIKE '\\_%%'"
    assert house.value(f"SELECT count(*) FROM information_schema.columns WHERE {own}") == columns
    refined = house.value("SELECT count(*) FROM refined.protest_events")
    out = house.value("SELECT count(*) FROM quarantine.protest_events")
    merged = house.value(
        "SELECT sum(n - 1) FROM (SELECT count(*) n FROM raw.protest_events GROUP BY _partition, _row_hash "
        "HAVING max(_partition) <> 'unplaced') AS g"
    )
    assert raw == refined + out + merged
    assert house.check("refined/protest_events", "balance").passed
    wrong = """
        SELECT count(*) FROM refined.protest_events e
        LEFT JOIN LATERAL (SELECT min(c.fips) AS fips FROM refined.us_counties c
                           WHERE ST_Contains(c.geometry, e.geometry)) AS found ON true
        WHERE e.fips_located IS DISTINCT FROM found.fips
           OR e.fips IS DISTINCT FROM coalesce(found.fips, e.fips_given)
           OR e.agreement <> CASE WHEN e.geometry IS NULL THEN 'no_point' WHEN found.fips IS NULL THEN 'outside'
                                  WHEN found.fips = e.fips_given THEN 'same' ELSE 'differs' END
           OR ST_SRID(e.geometry) <> 4326
    """
    assert house.value(wrong) == 0
    assert house.value("SELECT count(DISTINCT agreement) FROM refined.protest_events") == 4


def _check_presentation(house: House, rows: list[Row]) -> None:
    """The presentation tables beside a computation from the file's records in plain Python."""
    kept_out = [json.loads(record) for (record,) in house.sql("SELECT record FROM quarantine.protest_events")]
    out = {frozenset((name, text) for name, text in record.items() if text) for record in kept_out}
    distinct = {frozenset((name, text) for name, text in row.items() if text): row for row in rows}
    good = [row for content, row in distinct.items() if content not in out]
    assert len(good) == house.value("SELECT count(*) FROM refined.protest_events")
    places = sorted({(value(row["lat"]), value(row["lon"])) for row in good} - {("", "")})
    located = {
        (lat, lon): fips
        for lat, lon, fips in house.sql(
            "SELECT lat, lon, (SELECT min(fips) FROM refined.us_counties WHERE ST_Contains(geometry, "
            "ST_SetSRID(ST_Point(lon::float8, lat::float8), 4326))) FROM unnest(%s::text[], %s::text[]) AS p(lat, lon)",
            [lat for lat, _ in places],
            [lon for _, lon in places],
        )
    }

    def county_of(row: Row) -> str | None:
        given = value(row["fips_code"]).removesuffix(".0")
        return located.get((value(row["lat"]), value(row["lon"]))) or (given.zfill(5) if given else None)

    months: dict[tuple[str, str], list[Row]] = {}
    for row in good:
        if fips := county_of(row):
            months.setdefault((fips, row["date"][:7] + "-01"), []).append(row)
    expected: dict[Any, Any] = {}
    for key, group in months.items():
        sums = [[float(value(row[name])) for row in group if value(row[name])] for name in SIZES]
        named = {source for row in group for source in sources(row)}
        single = sum(len(sources(row)) == 1 for row in group) / len(group)
        expected[key] = (len(group), *(sum(s) if s else None for s in sums), len(sums[1]), len(named), single)
    found = house.sql(
        "SELECT fips, month::text, events, size_low, size_mean, size_high, sized_events, distinct_sources, "
        "single_source_share, county, geometry IS NULL FROM presentation.county_protests_monthly"
    )
    assert {row[:2]: tuple(row[2:9]) for row in found} == {
        key: tuple(pytest.approx(v) if isinstance(v, float) else v for v in values) for key, values in expected.items()
    }
    names = dict(house.sql("SELECT fips, name FROM refined.us_counties"))
    assert all(row[9] == names.get(row[0]) and row[10] == (row[0] not in names) for row in found)

    reports: dict[str, list[Row]] = {}
    for row in good:
        for source in dict.fromkeys(map(domain, sources(row))):
            reports.setdefault(source, []).append(row)
    assert {row[0]: row[1:] for row in house.sql(
        "SELECT source, events, first_date::text, last_date::text, corroborated_share FROM presentation.event_sources"
    )} == {
        name: (len(group), min(row["date"] for row in group), max(row["date"] for row in group),
               pytest.approx(sum(len({domain(s) for s in sources(row)}) > 1 for row in group) / len(group)))
        for name, group in reports.items()
    }  # fmt: skip

    events = house.sql("SELECT id, event_id, event_date::text, event_city, event_source FROM presentation.eventdata")
    assert len({row[0] for row in events}) == len({row[1] for row in events}) == len(events) == len(good)
    assert Counter(row[2:] for row in events) == Counter(
        (row["date"], value(row["locality"]) or None, ", ".join(sources(row))) for row in good
    )


SIZES = ("size_low", "size_mean", "size_high")


def value(text: str) -> str:
    """A value of the file without its signs for nothing, as the project reads it."""
    text = text.strip()
    return "" if text == "NA" else text


def sources(row: Row) -> list[str]:
    """The sources of a record in their order, each once."""
    given = [value(row[f"source{n}"]) for n in range(1, 31)]
    return list(dict.fromkeys(source for source in given if source))


def domain(source: str) -> str:
    """The domain of a source that is one or an address, else the source."""
    text = source.lower().removeprefix("https://").removeprefix("http://").removeprefix("www.")
    for sign in "/:?#":
        text = text.split(sign)[0]
    *rest, last = text.split(".")
    plain = set(text) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-")
    return text if rest and plain and len(last) > 1 and last.isalpha() and "".join(rest) else source


def test_the_dataset_says_who_answers_for_it() -> None:
    """What every one of its assets shows."""
    assert {"source", "publisher", "licence", "citation", "cadence"} <= DATASET.metadata().keys()


def test_what_tells_twins_apart_tells_nothing_of_another_key() -> None:
    """An event that claims what one elsewhere did does not take its ordinal, which another here has."""
    here, elsewhere = dict.fromkeys(KEY, "here"), dict.fromkeys(KEY, "elsewhere")
    schema = dict.fromkeys([*KEY, *TELLING], pl.String) | {"sources": pl.List(pl.String)}
    rows = [elsewhere | {"claims": "c"}, *(here | {"claims": claims} for claims in "dec")]
    events = pl.DataFrame(rows, schema).with_columns(pl.Series("row_hash", [1, 2, 3, 4]))
    published = events.head(3).with_columns(ordinal=pl.Series([2, 1, 2], dtype=pl.Int32))
    now = events.tail(3).with_columns(pl.Series("_source_row", [1, 2, 3]), _source_sha256=pl.lit("f"))
    assert with_ordinals(now, published, KEY, TELLING, *STEADY)["ordinal"].to_list() == [1, 2, 3]
