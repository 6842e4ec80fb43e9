"""The three public APIs over real HTTP: queries, paging, envelopes, refusals, and faults on a page."""

from __future__ import annotations

import csv
import gzip
import io
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import requests

from etl_assets.local.apis import gho
from etl_assets.local.source_server import ROUTES, serve
from etl_assets_tests.faults import Fault, Faults

GHO = "/who_gho/api"
INDICATOR = f"{GHO}/WHOSIS_000001"
TITLE_XII = "/treasury/services/api/fiscal_service/v2/accounting/od/title_xii"
SAIPE = "/census/data/timeseries/poverty/saipe"
HISTPOV = "/census/data/timeseries/poverty/histpov2"
BY_KEY = "SpatialDim,TimeDim,Dim1"
BY_LINE = "record_date,src_line_nbr"

Get = Callable[..., requests.Response]


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def get(sample: Path, faults: Faults) -> Iterator[Get]:
    """Asks a server that shows the sample."""
    with serve(sample, handler=faults.handler()) as url, requests.Session() as session:
        yield lambda path, **query: session.get(url + path, params=query, timeout=10)


def recorded(data: Path, name: str) -> Any:
    content = (data / name).read_bytes()
    return json.loads(gzip.decompress(content) if name.endswith(".gz") else content)


def every_page(url: str, **query: str) -> list[dict[str, Any]]:
    """The pages of an OData answer, by its links."""
    pages = [requests.get(url, params=query, timeout=10).json()]
    while following := pages[-1].get("@odata.nextLink"):
        pages.append(requests.get(following, timeout=10).json())
    return pages


def rows_of(pages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for page in pages for row in page["value"]]


def same_rows(left: list[dict[str, Any]], right: list[dict[str, Any]]) -> bool:
    return sorted(map(json.dumps, left)) == sorted(map(json.dumps, right))


# --- WHO GHO


def test_indicator_is_whole_over_its_pages(sample: Path):
    real = recorded(sample, "who_gho/2025-11-09/WHOSIS_000001.json.gz")
    with serve(sample, routes={**ROUTES, "who_gho": gho(page_size=100)}) as url:
        pages = every_page(url + INDICATOR, **{"$orderby": BY_KEY, "$count": "true"})
    assert [len(page["value"]) for page in pages] == [100] * 17 + [82]
    assert {page["@odata.count"] for page in pages} == {1782}
    assert {page["@odata.context"] for page in pages} == {real["@odata.context"]}
    assert pages[0]["@odata.nextLink"].startswith(url + INDICATOR + "?")
    found = rows_of(pages)
    assert [list(row) for row in found[:2]] == [list(row) for row in real["value"][:2]]
    assert same_rows(found, real["value"])
    assert found == sorted(found, key=lambda row: (row["SpatialDim"], row["TimeDim"], row["Dim1"]))


def test_answer_of_the_server_is_no_file(get: Get):
    response = get(INDICATOR)
    assert response.headers["Content-Type"].startswith("application/json; odata.metadata=minimal")
    assert not {"ETag", "Last-Modified"} & set(response.headers)
    assert get("/who_gho/WHOSIS_000001.json").headers["ETag"]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("SpatialDim eq 'ZAF'", lambda r: r["SpatialDim"] == "ZAF"),
        ("SpatialDim ne 'ZAF'", lambda r: r["SpatialDim"] != "ZAF"),
        ("TimeDim ge 2010 and TimeDim lt 2012", lambda r: 2010 <= r["TimeDim"] < 2012),
        ("TimeDim gt 2019 or TimeDim le 2000", lambda r: r["TimeDim"] > 2019 or r["TimeDim"] <= 2000),
        ("SpatialDim in ('ZAF','BWA', 'LSO')", lambda r: r["SpatialDim"] in ("ZAF", "BWA", "LSO")),
        ("TimeDim in (2000,2021)", lambda r: r["TimeDim"] in (2000, 2021)),
        (
            "SpatialDim eq 'ZAF' and (Dim1 eq 'SEX_MLE' or TimeDim eq 2001)",
            lambda r: r["SpatialDim"] == "ZAF" and (r["Dim1"] == "SEX_MLE" or r["TimeDim"] == 2001),
        ),
        (
            "SpatialDim eq 'ZAF' and Dim1 eq 'SEX_MLE' or TimeDim eq 2001",
            lambda r: (r["SpatialDim"] == "ZAF" and r["Dim1"] == "SEX_MLE") or r["TimeDim"] == 2001,
        ),
        ("NumericValue gt 80.5", lambda r: r["NumericValue"] > 80.5),
        ("Low eq null", lambda r: r["Low"] is None),
        ("Low lt 60", lambda r: r["Low"] is not None and r["Low"] < 60),
        ("not (SpatialDimType eq 'COUNTRY')", lambda r: r["SpatialDimType"] != "COUNTRY"),
        ("TimeDimensionBegin ge 2020-01-01T00:00:00+01:00", lambda r: r["TimeDim"] >= 2020),
        ("date(TimeDimensionBegin) lt 2001-06-30", lambda r: r["TimeDim"] <= 2001),
        ("contains(ParentLocation,'East')", lambda r: "East" in (r["ParentLocation"] or "")),
        ("SpatialDim eq 'it''s'", lambda r: False),
        ("SpatialDim eq 'ZAF' and TimeDim eq 1900", lambda r: False),
    ],
)
def test_filter(get: Get, sample: Path, condition: str, expected: Callable[[dict[str, Any]], bool]):
    rows = recorded(sample, "who_gho/2025-11-09/WHOSIS_000001.json.gz")["value"]
    response = get(INDICATOR, **{"$filter": condition, "$count": "true"})
    assert response.status_code == 200
    page, matching = response.json(), list(filter(expected, rows))
    assert page["@odata.count"] == len(matching)
    assert len(page["value"]) == min(len(matching), 1000)
    assert all(map(expected, page["value"]))


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("$filter", "TimeDim ge '2000'", "'ge' cannot be used between the types 'Edm.Int32' and 'Edm.String'"),
        ("$filter", "SpatialDim eq 5", "Edm.String"),
        ("$filter", "TimeDim in (2000,'2001')", "Edm.Int32"),
        ("$filter", "Nothing eq 5", "no field 'Nothing'"),
        ("$filter", "TimeDim", "is not an operator"),
        ("$filter", "TimeDim eq", "'the end'"),
        ("$filter", "(TimeDim eq 5", "')' was expected"),
        ("$filter", "TimeDim eq 5 SpatialDim", "'the end' was expected"),
        ("$filter", "TimeDim eq %", "syntax error at position 10"),
        ("$filter", "date(TimeDimensionBegin) eq 2001-02-30", "is not a date"),
        ("$orderby", "Nothing", "no field 'Nothing'"),
        ("$orderby", "TimeDim down", "not something to order by"),
        ("$select", "TimeDim,Nothing", "no field 'Nothing'"),
        ("$top", "-1", "not a value for '$top'"),
        ("$skip", "some", "not a value for '$skip'"),
        ("$count", "yes", "not a value for '$count'"),
        ("$expand", "Country", "'$expand' is not supported"),
    ],
)
def test_bad_query(get: Get, option: str, value: str, message: str):
    response = get(INDICATOR, **{option: value})
    assert response.status_code == 400
    assert message in response.json()["error"]["message"]


def test_unknown_indicator_is_404_and_an_unmatched_filter_is_not(get: Get):
    missing = get(f"{GHO}/NOPE_000001")
    assert (missing.status_code, missing.content) == (404, b"")
    for query in ({"$filter": "SpatialDim eq 'XXX'"}, {"$skip": "99999"}, {"$top": "0"}):
        nothing = get(INDICATOR, **query)
        assert (nothing.status_code, nothing.json()["value"]) == (200, [])
    assert requests.post(missing.url, timeout=10).status_code == 405


def test_select_order_top_and_skip(get: Get):
    query = {"$filter": "SpatialDim eq 'ZAF'", "$select": "TimeDim,Dim1,Low", "$orderby": "TimeDim desc, Dim1 asc"}
    page = get(INDICATOR, **query, **{"$top": "4", "$skip": "1"}).json()
    assert page["@odata.context"].endswith("#WHOSIS_000001(TimeDim,Dim1,Low)")
    assert [(row["TimeDim"], row["Dim1"]) for row in page["value"]] == [
        (2021, "SEX_FMLE"),
        (2021, "SEX_MLE"),
        (2020, "SEX_BTSX"),
        (2020, "SEX_FMLE"),
    ]
    assert {tuple(row) for row in page["value"]} == {("TimeDim", "Dim1", "Low")}
    assert "@odata.count" not in page
    assert "@odata.nextLink" not in page
    lows = [row["Low"] for row in get(INDICATOR, **{"$orderby": "Low", "$top": "1000"}).json()["value"]]
    assert lows[0] is None
    assert lows[-1] is not None


def test_top_is_the_limit_of_all_pages(sample: Path):
    with serve(sample, routes={"who_gho": gho(page_size=100)}) as url:
        pages = every_page(url + INDICATOR, **{"$orderby": BY_KEY, "$top": "250", "$skip": "50", "$count": "true"})
        whole = every_page(url + INDICATOR, **{"$orderby": BY_KEY})
    assert [len(page["value"]) for page in pages] == [100, 100, 50]
    assert rows_of(pages) == rows_of(whole)[50:300]
    assert pages[2]["@odata.count"] == 1782


def test_smaller_pages_on_request(get: Get):
    url = get(INDICATOR).url
    response = requests.get(url, headers={"Prefer": "odata.maxpagesize=7"}, timeout=10)
    assert len(response.json()["value"]) == 7
    assert response.headers["Preference-Applied"] == "odata.maxpagesize=7"


def test_order_is_not_stable_unless_asked_for(get: Get):
    first, second = (get(INDICATOR, **{"$filter": "SpatialDim eq 'ZAF'"}).json()["value"] for _ in range(2))
    assert first != second
    assert same_rows(first, second)
    query = {"$filter": "SpatialDim eq 'ZAF'", "$orderby": "TimeDim"}
    first, second = (get(INDICATOR, **query).json()["value"] for _ in range(2))
    assert first != second  # rows of one year are equal for this order
    query["$orderby"] = "TimeDim,Dim1"
    first, second = (get(INDICATOR, **query).json()["value"] for _ in range(2))
    assert first == second


def test_pages_without_an_order_do_not_add_up(sample: Path):
    with serve(sample, routes={"who_gho": gho(page_size=100)}) as url:
        ids = [row["Id"] for row in rows_of(every_page(url + INDICATOR))]
    assert len(ids) == 1782 > len(set(ids))


def test_indicator_listing(get: Get):
    assert get(f"{GHO}/Indicator", **{"$orderby": "IndicatorCode"}).json()["value"] == [
        {"IndicatorCode": "WHOSIS_000001", "IndicatorName": "Life expectancy at birth (years)", "Language": "EN"},
        {
            "IndicatorCode": "WHOSIS_000002",
            "IndicatorName": "Healthy life expectancy (HALE) at birth (years)",
            "Language": "EN",
        },
    ]


def test_countries(get: Get):
    listed = get(f"{GHO}/DIMENSION/COUNTRY/DimensionValues", **{"$orderby": "Code"}).json()["value"]
    assert len(listed) == 16
    assert listed[0] == {
        "Code": "ATG",
        "Title": "Antigua and Barbuda",
        "ParentDimension": "REGION",
        "ParentCode": "AMR",
        "ParentTitle": "Americas",
    }
    assert [row["Title"] for row in listed if row["Code"] == "TUR"] == ["Türkiye"]
    assert get(f"{GHO}/DIMENSION/PLANET/DimensionValues").status_code == 404


def test_publication_as_of_a_date_and_other_recordings(sample: Path, tmp_path: Path):
    data = tmp_path / "data"
    shutil.copytree(sample, data)
    other = {"value": [{"IndicatorCode": "OTHER_1", "SpatialDimType": "COUNTRY", "SpatialDim": "QQQ", "TimeDim": 1999}]}
    (data / "who_gho/2025-01-01").mkdir()
    (data / "who_gho/2025-01-01/OTHER_1.json").write_text(json.dumps(other))
    as_of = tmp_path / "as_of"

    def dates(url: str) -> set[str]:
        return {row["Date"] for row in requests.get(url + INDICATOR, timeout=10).json()["value"]}

    with serve(data, as_of=as_of) as url:
        as_of.write_text("2025-03-05")
        assert dates(url) == {"2024-07-15T08:30:05Z"}
        as_of.write_text("2025-11-09")
        assert dates(url) == {"2025-09-01T10:12:05.193+02:00"}
        # An indicator recorded on another day than the rest is still there, and hides no other.
        found = requests.get(f"{url}{GHO}/OTHER_1?$filter=TimeDim eq 1999", timeout=10).json()
        assert found["value"] == other["value"]
        codes = requests.get(f"{url}{GHO}/Indicator", timeout=10).json()["value"]
        assert {row["IndicatorCode"] for row in codes} == {"OTHER_1", "WHOSIS_000001", "WHOSIS_000002"}
        (data / "who_gho/2025-01-01/OTHER_1.json").write_text(json.dumps({"value": []}))
        found = requests.get(f"{url}{GHO}/OTHER_1?$filter=TimeDim eq 1999", timeout=10).json()
        assert found["value"] == []


# --- US Treasury


def test_treasury_is_whole_over_its_pages(get: Get, sample: Path):
    real = recorded(sample, "treasury/2021-09-30/title_xii.json.gz")
    pages: list[dict[str, Any]] = []
    while not pages or pages[-1]["links"]["next"]:
        pages.append(get(TITLE_XII, sort=BY_LINE, **{"page[number]": str(len(pages) + 1)}).json())
    assert [page["meta"]["count"] for page in pages] == [len(page["data"]) for page in pages] == [100] * 12 + [26]
    assert {(page["meta"]["total-count"], page["meta"]["total-pages"]) for page in pages} == {(1226, 13)}
    assert [row for page in pages for row in page["data"]] == real["data"]
    assert pages[3]["data"][-1]["record_date"] == pages[4]["data"][0]["record_date"]  # a day over two pages


def test_treasury_envelope(get: Get, sample: Path):
    real = recorded(sample, "treasury/2021-09-30/title_xii.json.gz")
    page = get(TITLE_XII).json()
    assert list(page) == ["data", "meta", "links"]
    assert list(page["meta"]) == ["count", "labels", "dataTypes", "dataFormats", "total-count", "total-pages"]
    assert page["meta"]["labels"] == real["labels"]
    assert page["links"] == {
        "self": "&page%5Bnumber%5D=1&page%5Bsize%5D=100",
        "first": "&page%5Bnumber%5D=1&page%5Bsize%5D=100",
        "prev": None,
        "next": "&page%5Bnumber%5D=2&page%5Bsize%5D=100",
        "last": "&page%5Bnumber%5D=13&page%5Bsize%5D=100",
    }
    last = get(TITLE_XII, **{"page[number]": "2", "page[size]": "1000"}).json()["links"]
    assert (last["prev"], last["next"]) == ("&page%5Bnumber%5D=1&page%5Bsize%5D=1000", None)
    assert get(TITLE_XII, **{"page[size]": "10000"}).json()["meta"]["count"] == 1226


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("record_date:eq:2020-04-03", lambda r: r["record_date"] == "2020-04-03"),
        (
            "record_date:gte:2021-01-01,record_date:lt:2021-02-01",
            lambda r: "2021-01-01" <= r["record_date"] < "2021-02-01",
        ),
        (
            "record_date:gt:2021-08-30,record_date:lte:2021-09-13",
            lambda r: "2021-08-30" < r["record_date"] <= "2021-09-13",
        ),
        (
            "state_nm:in:(Indiana,New York**),record_calendar_year:eq:2020",
            lambda r: r["state_nm"] in ("Indiana", "New York**") and r["record_calendar_year"] == "2020",
        ),
        ("src_line_nbr:gte:10", lambda r: int(r["src_line_nbr"]) >= 10),  # a number, not a text
        ("outstanding_advance_bal:gt:9e8", lambda r: Decimal(r["outstanding_advance_bal"]) > 900_000_000),
        ("interest_paid_amt:eq:null", lambda r: r["interest_paid_amt"] == "null"),
        ("interest_paid_amt:gte:0", lambda r: r["interest_paid_amt"] != "null"),
    ],
)
def test_treasury_filter(get: Get, sample: Path, condition: str, expected: Callable[[dict[str, str]], bool]):
    rows = recorded(sample, "treasury/2021-09-30/title_xii.json.gz")["data"]
    found = get(TITLE_XII, filter=condition, sort=BY_LINE, **{"page[size]": "10000"}).json()["data"]
    assert found == list(filter(expected, rows))
    assert 0 < len(found) < len(rows)


def test_treasury_filter_that_matches_nothing(get: Get):
    page = get(TITLE_XII, filter="record_date:lt:1999-01-01").json()
    assert (page["data"], page["meta"]["total-count"], page["meta"]["total-pages"]) == ([], 0, 0)
    assert page["links"]["next"] is None


def test_treasury_sort_fields_and_csv(get: Get):
    query = {"fields": "state_nm,src_line_nbr", "filter": "record_date:eq:2021-08-02", "sort": "-src_line_nbr"}
    page = get(TITLE_XII, **query).json()
    assert [int(row["src_line_nbr"]) for row in page["data"]] == list(range(12, 0, -1))
    assert list(page["meta"]["dataTypes"]) == ["state_nm", "src_line_nbr"]
    response = get(TITLE_XII, **query, format="csv")
    assert response.headers["Content-Type"].startswith("text/csv")
    assert list(csv.DictReader(io.StringIO(response.text))) == page["data"]


def test_treasury_ties_have_no_order(get: Get):
    first, second = (get(TITLE_XII, sort="record_date").json()["data"] for _ in range(2))
    assert first != second
    assert [row["record_date"] for row in first] == [row["record_date"] for row in second]


@pytest.mark.parametrize(
    "query",
    [
        {"filter": "nothing:eq:5"},
        {"filter": "record_date:like:2020"},
        {"filter": "record_date:gte:yesterday"},
        {"filter": "src_line_nbr:gte:ten"},
        {"filter": "record_date"},
        {"filter": "state_nm:in:Ohio"},
        {"fields": "state_nm,nothing"},
        {"sort": "-nothing"},
        {"format": "yaml"},
        {"page[size]": "10001"},
        {"page[size]": "0"},
        {"page[number]": "0"},
        {"page[number]": "14"},
        {"page[number]": "two"},
        {"nothing": "1"},
    ],
    ids=str,
)
def test_treasury_refuses(get: Get, query: dict[str, str]):
    response = get(TITLE_XII, **query)
    assert response.status_code == 400
    assert set(response.json()) == {"error", "message"}


def test_treasury_has_other_refusals(get: Get):
    missing = get(TITLE_XII + "i")
    assert missing.status_code == 404
    assert set(missing.json()) == {"error", "message"}
    posted = requests.post(missing.url[:-1], timeout=10)
    assert (posted.status_code, posted.headers["Allow"]) == (405, "GET")
    assert posted.json()["error"] == "Method Not Allowed"


def test_treasury_as_of_a_date(sample: Path):
    with serve(sample, as_of="2021-09-15") as url:
        meta = requests.get(url + TITLE_XII, timeout=10).json()["meta"]
    assert meta["total-count"] == 1166


# --- US Census

STATES = {"get": "NAME,SAEPOVALL_PT,SAEPOVALL_MOE,SAEPOVRTALL_MOE,SAEPOVRTALL_PT", "for": "state:*", "key": "k"}
COUNTIES = STATES | {"get": STATES["get"] + ",SAEMHI_PT", "for": "county:*", "in": "state:*"}


def test_census_answers_as_recorded(get: Get, sample: Path):
    for path, query, name in (
        (SAIPE, STATES | {"time": "2018"}, "saipe/state_2018"),
        (SAIPE, STATES | {"time": "2017"}, "saipe/state_2017"),  # whose year is called YEAR
        (SAIPE, COUNTIES | {"time": "2019"}, "saipe/county_2019"),
        (HISTPOV, {"get": "NAME,PCTPOV,YEAR,RACE", "for": "us:*", "key": "k"}, "histpov2/all_years.derived"),
    ):
        response = get(path, **query)
        assert response.headers["Content-Type"].startswith("application/json")
        assert response.content == (sample / f"census/{name}.json").read_bytes()


def test_census_columns_are_in_the_order_asked_for(get: Get, sample: Path):
    header, *rows = recorded(sample, "census/saipe/county_2019.json")
    found = get(SAIPE, **COUNTIES | {"get": "SAEMHI_PT,NAME", "in": "state:06", "YEAR": "2019"}).json()
    assert found[0] == ["SAEMHI_PT", "NAME", "YEAR", "state", "county"]
    expected = [dict(zip(header, row, strict=True)) for row in rows]
    assert found[1:] == [
        [row["SAEMHI_PT"], row["NAME"], "2019", "06", row["county"]] for row in expected if row["state"] == "06"
    ]
    one = get(SAIPE, **COUNTIES | {"get": "NAME", "for": "county:003", "in": "state:06", "time": "2019"}).json()
    assert one == [["NAME", "time", "state", "county"], ["Orange County", "2019", "06", "003"]]
    two = get(SAIPE, **STATES | {"get": "NAME", "for": "state:06,48", "time": "2019"}).json()
    assert [row[0] for row in two[1:]] == ["California", "Texas"]


def test_census_nulls(get: Get):
    counties = get(SAIPE, **COUNTIES | {"get": "NAME,SAEMHI_PT", "in": "state:15", "time": "2019"}).json()
    assert ["Kalawao County", None, "2019", "15", "005"] in counties
    states = get(SAIPE, **STATES | {"get": "NAME,SAEMHI_PT", "time": "2018"}).json()
    assert {row[1] for row in states[1:]} == {None}  # known, and not in what was recorded


def test_census_knows_what_was_never_recorded(tmp_path: Path):
    file = tmp_path / "census" / "saipe" / "state_2014.json"
    file.parent.mkdir(parents=True)
    file.write_text('[["NAME", "time", "state"], ["Ohio", "2014", "39"]]')
    with serve(tmp_path) as url:
        query = STATES | {"get": "NAME,SAEMHI_PT", "time": "2014"}
        rows = requests.get(url + SAIPE, query, timeout=10).json()
    assert rows == [["NAME", "SAEMHI_PT", "time", "state"], ["Ohio", None, "2014", "39"]]


def test_census_year_of_two_methods(get: Get):
    rows = get(HISTPOV, get="PCTPOV,RACE", time="2013", key="k", **{"for": "us:*"}).json()
    assert rows[0] == ["PCTPOV", "RACE", "time", "us"]
    races = [row[1] for row in rows[1:]]
    assert len(races) == 2 * len(set(races)) == 16
    some = get(HISTPOV, get="PCTPOV", time="2013", RACE="12", key="k", **{"for": "us:*"}).json()
    assert some[0] == ["PCTPOV", "time", "RACE", "us"]
    assert len(some) == 3


def test_census_year_that_is_not_out(get: Get):
    for path, query in ((SAIPE, STATES), (SAIPE, COUNTIES), (HISTPOV, {"get": "PCTPOV", "for": "us:*", "key": "k"})):
        response = get(path, **query, time="2031")
        assert (response.status_code, response.content) == (204, b"")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"get": "NAME,NOTHING"}, "error: unknown variable 'NOTHING'"),
        ({"get": ""}, "error: missing 'get' argument"),
        ({"for": ""}, "error: missing 'for' argument"),
        ({"for": "galaxy:*"}, "error: unknown/unsupported geography hierarchy"),
        ({"in": "county:001"}, "error: unknown/unsupported geography hierarchy"),
        ({"get": ",".join(["NAME"] * 51)}, "error: 51 variables asked for, the limit is 50"),
        ({"time": "soon"}, "error: invalid 'time' argument"),
        ({"PLANET": "3"}, "error: unknown predicate variable: 'PLANET'"),
    ],
)
def test_census_refuses(get: Get, changes: dict[str, str], message: str):
    response = get(SAIPE, **STATES | {"time": "2018"} | changes)
    assert (response.status_code, response.text) == (400, message)
    assert response.headers["Content-Type"].startswith("text/plain")


def test_census_without_a_key_is_a_page(get: Get):
    without = {name: value for name, value in STATES.items() if name != "key"} | {"time": "2018"}
    for query in (without, without | {"key": ""}):
        response = get(SAIPE, **query)
        assert [hop.status_code for hop in response.history] == [302]
        assert response.status_code == 200
        assert response.headers["Content-Type"].startswith("text/html")
        assert "Missing Key" in response.text
    bad = get(SAIPE, **without | {"key": "bad"})
    assert bad.status_code == 200
    assert bad.headers["Content-Type"].startswith("text/html")
    assert "Invalid Key" in bad.text


def test_census_unknown_dataset(get: Get):
    assert get(SAIPE + "x", **STATES).status_code == 404
    assert get("/census/data", **STATES).status_code == 404
    assert get("/census/saipe/state_2018.json").status_code == 200  # the recording itself


def test_census_key_is_in_no_log(get: Get, faults: Faults, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO):
        get(SAIPE, **STATES | {"key": "s3cr3t", "time": "2018"})
        get(SAIPE, key="s3cr3t")
    assert "key=***" in faults.log[0].query
    assert "time=2018" in faults.log[0].query
    assert "s3cr3t" not in repr(faults.log)
    assert "key=***" in caplog.text
    assert "s3cr3t" not in caplog.text


# --- faults on these paths


def test_fault_on_a_page_only(get: Get, faults: Faults):
    def ask(page: int) -> requests.Response:
        return get(TITLE_XII, sort=BY_LINE, **{"page[number]": str(page)})

    second = ask(2).content
    third = {"page[number]": "3"}
    faults.add(TITLE_XII, Fault.html(), Fault.status(429, headers={"Retry-After": "1"}), query=third)
    faults.add(TITLE_XII, Fault.body(second, "application/json"), query=third)
    assert ask(4).json()["meta"]["count"] == 100
    assert ask(3).headers["Content-Type"].startswith("text/html")
    assert ask(3).status_code == 429
    assert ask(3).content == second  # page 3 repeats page 2
    assert ask(3).json()["links"]["self"].startswith("&page%5Bnumber%5D=3")
    assert faults.count(TITLE_XII) == 6
    assert faults.count(TITLE_XII, query=third) == 4
    assert faults.count(TITLE_XII, query=third, status=429) == 1


def test_standing_fault_on_a_page_only(get: Get, faults: Faults):
    faults.always(INDICATOR, Fault.status(503), query={"$skip": "1000"})
    faults.always(INDICATOR, Fault.empty(), query={"$skip": None, "$top": "5"})
    assert get(INDICATOR).status_code == 200
    assert [get(INDICATOR, **{"$skip": "1000"}).status_code for _ in range(3)] == [503] * 3
    assert get(INDICATOR, **{"$top": "5"}).content == b""
    assert get(INDICATOR, **{"$top": "5", "$skip": "0"}).content != b""
    faults.clear()
    assert get(INDICATOR, **{"$skip": "1000"}).status_code == 200


def test_changed_page(get: Get, faults: Faults):
    def a_row_short(body: bytes) -> bytes:
        page = json.loads(body)
        del page["data"][-1]
        return json.dumps(page).encode()

    faults.add(TITLE_XII, Fault.changed(a_row_short), query={"page[number]": "2"})
    page = get(TITLE_XII, **{"page[number]": "2"}).json()
    assert (page["meta"]["count"], len(page["data"])) == (100, 99)
    page = get(TITLE_XII, **{"page[number]": "2"}).json()
    assert (page["meta"]["count"], len(page["data"])) == (100, 100)


def test_faults_of_every_kind_on_an_api(get: Get, faults: Faults):
    faults.add(SAIPE, Fault.reset(), Fault.truncated(), Fault.redirect())
    query = STATES | {"time": "2018"}
    for _ in range(2):
        with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
            get(SAIPE, **query)
    assert get(SAIPE, **query).history[0].status_code == 302
    assert get(SAIPE, **query).status_code == 200


# --- real recordings


@pytest.mark.shared
@pytest.mark.parametrize("date", ["2024-10-01", "2025-11-09"])
def test_real_indicator(shared_data: Path, date: str):
    real = recorded(shared_data, f"who_gho/{date}/WHOSIS_000001.json.gz")["value"]
    with serve(shared_data, as_of=date) as url:
        pages = every_page(url + INDICATOR, **{"$orderby": BY_KEY, "$count": "true"})
        year = every_page(url + INDICATOR, **{"$filter": "TimeDim eq 2019", "$orderby": BY_KEY})
        countries = requests.get(f"{url}{GHO}/DIMENSION/COUNTRY/DimensionValues", timeout=10).json()["value"]
    assert [len(page["value"]) for page in pages] == [1000] * 12 + [936]
    assert same_rows(rows_of(pages), real)
    assert same_rows(rows_of(year), [row for row in real if row["TimeDim"] == 2019])
    assert len(countries) == 185
    assert not [row for row in countries if row["Title"] == row["Code"] or not row["ParentTitle"]]


@pytest.mark.shared
def test_real_treasury(shared_data: Path):
    real = recorded(shared_data, "treasury/2021-08-31/title_xii.json.gz")
    with serve(shared_data) as url:
        pages = [
            requests.get(
                url + TITLE_XII, {"sort": BY_LINE, "page[size]": "1000", "page[number]": str(number)}, timeout=10
            ).json()
            for number in range(1, 8)
        ]
    assert [row for page in pages for row in page["data"]] == real["data"]
    assert pages[-1]["meta"] == {
        "count": 820,
        **{name: real[name] for name in ("labels", "dataTypes", "dataFormats")},
        "total-count": 6820,
        "total-pages": 7,
    }
    example = recorded(shared_data, "treasury/envelope_example.debt_outstanding.json")
    assert list(pages[-1]) == list(example)
    assert list(pages[-1]["meta"]) == list(example["meta"])
    assert list(pages[-1]["links"]) == list(example["links"])


@pytest.mark.shared
def test_real_census(shared_data: Path):
    recordings = sorted((shared_data / "census").rglob("*.json"))
    assert recordings
    with serve(shared_data) as url:
        for file in recordings:
            header, first, *_ = json.loads(file.read_bytes())
            year = max(header.index(name) for name in ("time", "YEAR") if name in header)
            query = {"get": ",".join(header[:year]), "for": f"{header[-1]}:*", "key": "k"}
            if file.parent.name == "saipe":
                query["time"] = first[year]
            response = requests.get(f"{url}/census/data/timeseries/poverty/{file.parent.name}", query, timeout=10)
            assert response.content == file.read_bytes().rstrip(b"\n")


# --- the retail company

CUSTOMERS = "/retail/customers"


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Bearer ", "Basic token", "token", "Bearer TOKEN"])
def test_retail_wants_its_token(sample: Path, header: str | None):
    with serve(sample, token="token") as url:
        answer = requests.get(url + CUSTOMERS, headers={"Authorization": header} if header else {}, timeout=10)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert "John" not in answer.text
    with serve(sample) as url:  # a server without a token accepts none
        assert requests.get(url + CUSTOMERS, headers={"Authorization": "Bearer "}, timeout=10).status_code == 401


def test_retail_gives_every_record_once_over_its_pages(sample: Path):
    recorded_rows = json.loads((sample / "retail" / "customer_data.json").read_bytes())
    with serve(sample, token="token") as url, requests.Session() as session:
        session.headers["Authorization"] = "Bearer token"
        pages = [session.get(url + CUSTOMERS, params={"page": n, "page_size": 30}).json() for n in (1, 2, 3)]
        assert [row for page in pages for row in page["data"]] == recorded_rows
        assert [(page["page"], page["pages"], page["total"]) for page in pages] == [(n, 3, 80) for n in (1, 2, 3)]
        whole = session.get(url + CUSTOMERS)
        assert len(whole.json()["data"]) == 80
        again = session.head(url + CUSTOMERS, headers={"If-None-Match": whole.headers["ETag"]})
        assert again.status_code == 304
        for query in ("page=4&page_size=30", "page_size=501", "page=x", "page=-1", "page=1&page=2"):
            assert session.get(f"{url}{CUSTOMERS}?{query}").status_code == 400, query
        for path in ("/retail", "/retail/products", "/retail/customer_data.json", "/retail/customers/1"):
            assert session.get(url + path).status_code == 404, path
        assert session.post(url + CUSTOMERS).status_code == 405
