"""Paged APIs on good days and bad ones: an extract that is whole or refused, and one that is cut off and goes on."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import requests

from etl_assets.local.apis import gho
from etl_assets.local.faults import Fault, Faults
from etl_assets.local.sources import ROUTES, serve
from etl_assets.settings import NotConfiguredError
from etl_assets.sources import Fetched, SourceRefusedError, SourceUnavailableError, Validators, Workspace
from etl_assets.sources.census import CensusSource, rows_by_header
from etl_assets.sources.fiscal_data import FiscalDataSource
from etl_assets.sources.odata import ODataSource
from etl_assets.sources.paging import Call, Page, PagedSource, pages, read_pages, versions
from etl_assets.storage.lake import Lake
from etl_assets.storage.landing import LakePages

PROJECT = Path(__file__).parents[2]
GHO_PATH = "/who_gho/api/WHOSIS_000001"
TITLE_XII_PATH = "/treasury/services/api/fiscal_service/v2/accounting/od/title_xii"
SAIPE_PATH = "/census/data/timeseries/poverty/saipe"
#: The sample's indicator has 1,782 rows: 20 pages.
GHO_PAGE, GHO_PAGES = 90, 20
GHO = ODataSource(
    source="who_gho",
    live="https://who.invalid",
    path="api",
    sets={"WHOSIS_000001": ""},
    order="SpatialDimType,SpatialDim,TimeDim,Dim1,Dim2,Dim3",
    stamp="Date",
)
#: The sample's April 2020 has 200 rows: 5 pages.
TITLE_XII = FiscalDataSource(
    source="treasury",
    live="https://treasury.invalid",
    path=TITLE_XII_PATH.removeprefix("/treasury/"),
    sort="record_date,src_line_nbr",
    page_size=40,
)
APRIL = {"filter": "record_date:gte:2020-04-01,record_date:lt:2020-05-01"}
SAIPE = CensusSource(
    source="census",
    live="https://census.invalid",
    path=SAIPE_PATH.removeprefix("/census/"),
    variables=["NAME", "SAEPOVALL_PT"],
    geographies={"state": {"for": "state:*"}, "county": {"for": "county:*", "in": "state:*"}},
    first_year=2015,
)


@dataclass
class Api:
    """The APIs of one test, and what an extract from them keeps between one attempt and the next."""

    url: str
    data: Path
    as_of: Path
    folder: Path
    faults: Faults
    stored: dict[str, bytes] = field(default_factory=dict)
    extracts: int = 0

    def fetch(
        self, source: PagedSource, known: Validators | None = None, previous: Path | None = None, **options: Any
    ) -> Fetched | None:
        """One attempt at an extract; what it has got stays in `stored`, as in a lake, unless told otherwise."""
        self.extracts += 1
        folder = self.folder / str(self.extracts)
        folder.mkdir()
        return source.fetch(Workspace(folder, options.get("stored", self.stored), lambda: nullcontext(previous)), known)

    def extract(self, source: PagedSource, **options: Any) -> Fetched:
        """An extract that has to come to its end."""
        fetched = self.fetch(source, **options)
        assert fetched is not None
        return fetched

    def asked(self, path: str, page: str) -> Counter[str]:
        """How often each page of a path was asked for; a page is told by one of its parameters."""
        queries = [parse_qs(entry.query) for entry in self.faults.log if entry.path == path]
        return Counter(query.get(page, ["first"])[0] for query in queries if not _is_probe(query))

    def recorded(self, name: str) -> list[dict[str, Any]]:
        """The rows of a recording."""
        document = json.loads(gzip.decompress((self.data / name).read_bytes()))
        return document["value"] if "value" in document else document["data"]


def _is_probe(query: dict[str, list[str]]) -> bool:
    return query.get("$top") == ["1"] or query.get("page[size]") == ["1"]


@pytest.fixture
def api(sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """The APIs as of 2024-10-01, one indicator in twenty pages."""
    monkeypatch.setenv("ETL_HTTP_RETRY_WAIT", "0")
    monkeypatch.setenv("ETL_HTTP_ATTEMPTS", "2")
    as_of, faults = tmp_path / "as_of", Faults()
    as_of.write_text("2024-10-01")
    with serve(sample, as_of=as_of, faults=faults, routes={**ROUTES, "who_gho": gho(GHO_PAGE)}) as url:
        monkeypatch.setenv("ETL_LOCAL_SOURCES_URL", url)
        yield Api(url, sample, as_of, tmp_path, faults)


def gho_rows(fetched: Fetched) -> list[dict[str, Any]]:
    """The records of an OData extract, by means other than the project's."""
    return [row for _, body in pages(fetched.path) for row in json.loads(body)["value"]]


def treasury_rows(fetched: Fetched) -> list[dict[str, Any]]:
    """The records of a Fiscal Data extract."""
    return [row for _, body in pages(fetched.path) for row in json.loads(body)["data"]]


def same(rows: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]) -> bool:
    """Whether two lists hold the same rows, each as often."""
    return sorted(json.dumps(row, sort_keys=True) for row in rows) == sorted(
        json.dumps(row, sort_keys=True) for row in others
    )


def content(fetched: Fetched) -> bytes:
    return fetched.path.read_bytes()


# A good day ----------------------------------------------------------------------------------------------


def test_an_extract_is_every_page_as_received(api: Api) -> None:
    fetched = api.extract(GHO)
    assert [name for name, _ in pages(fetched.path)] == [f"WHOSIS_000001/{n:05}" for n in range(1, GHO_PAGES + 1)]
    assert same(gho_rows(fetched), api.recorded("who_gho/2024-10-01/WHOSIS_000001.json.gz"))
    assert set(api.asked(GHO_PATH, "$skip").values()) == {1}
    assert fetched.url == api.url + GHO_PATH


def test_a_date_that_straddles_a_page_break(api: Api) -> None:
    """Pages of seven rows cut nearly every day in two; no row of a day is lost or doubled, and they are in order."""
    fetched = api.extract(replace(TITLE_XII, page_size=7))
    rows = treasury_rows(fetched)
    assert same(rows, api.recorded("treasury/2021-09-30/title_xii.json.gz"))
    keys = [(row["record_date"], int(row["src_line_nbr"])) for row in rows]
    assert keys == sorted(keys)
    days = [{row["record_date"] for row in json.loads(body)["data"]} for _, body in pages(fetched.path)]
    assert any(one & other for one, other in pairwise(days))


def test_a_month_in_which_nothing_came_is_no_error(api: Api) -> None:
    """The source has gaps of more than a month; a month without rows is a page without rows."""
    earlier = changed(lambda page: page["data"][0].update(record_date="2020-01-31"))
    api.faults.add(TITLE_XII_PATH, earlier, query={"sort": "record_date"})
    fetched = api.extract(TITLE_XII)
    assert len(treasury_rows(fetched)) == 1226
    by_month = {name: json.loads(body)["data"] for name, body in pages(fetched.path)}
    assert by_month["2020-01/00001"] == by_month["2020-02/00001"] == []


def test_numbers_stay_as_the_source_wrote_them(api: Api) -> None:
    frame = read_pages(api.extract(GHO).path, lambda page: page["value"])
    body = b"".join(body for _, body in pages(api.folder / "1" / "extract.zip")).decode()
    assert frame["NumericValue"].null_count() == 0
    assert all(f'"NumericValue":{number},' in body for number in frame["NumericValue"].head(50))
    assert frame["_source_row"].to_list() == list(range(1, 1783))


def test_the_second_time_nothing_is_asked_for_but_the_version(api: Api) -> None:
    """For Census, which has no version, nothing is asked for at all."""
    for source, path in ((GHO, GHO_PATH), (TITLE_XII, TITLE_XII_PATH), (SAIPE, SAIPE_PATH)):
        fetched = api.extract(source, stored={})
        before = api.asked(path, "time"), len(api.faults.log)
        assert api.fetch(source, fetched.validators) is None
        assert api.asked(path, "time") == before[0]
        assert len(api.faults.log) - before[1] == (0 if source is SAIPE else 1)


def test_equal_pages_make_equal_bytes(api: Api) -> None:
    for source in (GHO, TITLE_XII, SAIPE):
        assert content(api.extract(source, stored={})) == content(api.extract(source, stored={})), source


# Bad days ------------------------------------------------------------------------------------------------

Change = Callable[[dict[str, Any]], object]


def changed(change: Change) -> Fault:
    """A page with its document changed."""

    def rewritten(body: bytes) -> bytes:
        document = json.loads(body)
        change(document)
        return json.dumps(document).encode()

    return Fault.changed(rewritten)


#: What comes as page 3 of 5 of Fiscal Data, and what is said of it.
TREASURY_PAGES: dict[str, tuple[Fault, str]] = {
    "html": (Fault.html(), "2020-04, page 3: .*answered with an HTML page instead of data"),
    "redirect to html": (Fault.redirect(), "2020-04, page 3: .*answered with an HTML page instead of data"),
    "no body": (Fault.empty(), "2020-04, page 3: .*answered with nothing"),
    "not json": (Fault.body(b'{"data": [{"rec', "application/json"), "2020-04, page 3: the answer is no whole JSON"),
    "an error for an answer": (
        Fault.body(b'{"error": "Oops", "message": "Sorry"}', "application/json"),
        "2020-04, page 3: the envelope lacks 'data'",
    ),
    "no rows where rows should be": (
        changed(lambda page: page.update(data=None)),
        "2020-04, page 3: the envelope lacks rows",
    ),
    "short": (changed(lambda page: page["data"].pop()), "2020-04, page 3: the envelope says 40 rows and holds 39"),
    "short, and says so": (
        changed(lambda page: (page["data"].pop(), page["meta"].update(count=39))),
        "2020-04: the source says that there are 200 rows, its 5 pages hold 199",
    ),
    "no rows, and says so": (
        changed(lambda page: (page["data"].clear(), page["meta"].update(count=0))),
        "2020-04, page 3: it has no rows, though another page follows",
    ),
    "calls itself the last": (
        changed(lambda page: page["links"].update(next=None)),
        "2020-04, page 3: the envelope says 5 pages, and page 3 has no link to a next one",
    ),
    "500": (Fault.status(500), "2020-04, page 3: .*could not be reached in 2 attempts .HTTP 500"),
    "429 for ever": (
        Fault.status(429, headers={"Retry-After": "0"}),
        "2020-04, page 3: .*could not be reached in 2 attempts .HTTP 429",
    ),
    "cut short": (Fault.truncated(), "2020-04, page 3: .*could not be reached in 2 attempts .*IncompleteRead"),
    "404": (Fault.status(404), "2020-04, page 3: .*answered HTTP 404"),
}


#: What the first page of all rows says of their ends, or of itself; each was once asked for month by month, or died.
TREASURY_ENDS: dict[str, tuple[Fault, str]] = {
    "a first date before there was a Treasury": (
        changed(lambda page: page["data"][0].update(record_date="0001-01-01")), "0001-01-01 is no date of a record"
    ),
    "a last date that is far off": (
        changed(lambda page: page["data"][0].update(record_date="9999-12-31")), "9999-12-31 is no date of a record"
    ),
    "no date": (changed(lambda page: page["data"][0].update(record_date="null")), "no record_date that can be read"),
    "no rows of the expected kind": (changed(lambda page: page.update(data=[5])), "no record_date that can be read"),
    "an endless count": (changed(lambda page: page["meta"].update({"total-count": 1e999})), "the envelope lacks"),
}  # fmt: skip


@pytest.mark.parametrize("kind", TREASURY_ENDS)
def test_ends_of_treasury_that_cannot_be(api: Api, kind: str) -> None:
    api.faults.always(TITLE_XII_PATH, TREASURY_ENDS[kind][0], query={"page[size]": "1"})
    with pytest.raises(SourceRefusedError, match=f"{TITLE_XII_PATH}, sorted by .*{TREASURY_ENDS[kind][1]}.*last good"):
        api.fetch(TITLE_XII)
    assert len(api.faults.log) <= 2


@pytest.mark.parametrize("kind", TREASURY_PAGES)
def test_page_3_of_5_of_treasury(api: Api, kind: str) -> None:
    """It is told which page, nothing is landed, and the next attempt asks only for what is missing."""

    def april(since: int) -> list[str]:
        """The pages of April that were asked for."""
        asked = [parse_qs(entry.query) for entry in api.faults.log[since:]]
        return [query["page[number]"][0] for query in asked if query.get("filter") == [APRIL["filter"]]]

    api.faults.always(TITLE_XII_PATH, TREASURY_PAGES[kind][0], query={**APRIL, "page[number]": "3"})
    with pytest.raises((SourceRefusedError, SourceUnavailableError), match=TREASURY_PAGES[kind][1]) as refused:
        api.fetch(TITLE_XII)
    assert "last good" in str(refused.value)
    first, before = april(0), len(api.faults.log)
    api.faults.clear()
    assert same(treasury_rows(api.extract(TITLE_XII)), api.recorded("treasury/2021-09-30/title_xii.json.gz"))
    asked = Counter(number for numbers in (first, april(before)) for number in numbers if number != "3")
    times = 2 if kind == "short, and says so" else 1  # whichever page is the wrong one: it cannot be told
    assert asked == dict.fromkeys("1245", times)
    assert Counter(april(before))["3"] == 1


#: The same of OData, whose pages do not say how many rows they hold.
GHO_ANSWERS: dict[str, tuple[Fault, str]] = {
    "html": (Fault.html(), "WHOSIS_000001, page 3: .*answered with an HTML page instead of data"),
    "no body": (Fault.empty(), "WHOSIS_000001, page 3: .*answered with nothing"),
    "no values": (changed(lambda page: page.pop("value")), "WHOSIS_000001, page 3: the answer has no list of values"),
    "a list": (Fault.body(b"[]", "application/json"), "WHOSIS_000001, page 3: the answer has no list of values"),
    "no rows": (
        changed(lambda page: page["value"].clear()),
        "WHOSIS_000001, page 3: it has no rows, though another page follows",
    ),
    "values that are no rows": (changed(lambda page: page.update(value=[1])), "the answer has no list of values"),
    "a link that is no text": (changed(lambda page: page.update({"@odata.nextLink": 5})), "neither number nor text"),
    "a link that is no address": (
        changed(lambda page: page.update({"@odata.nextLink": "http://[::1"})),
        "its link is no address",
    ),
    "short": (
        changed(lambda page: page["value"].pop()),
        "WHOSIS_000001: the source says that there are 1782 rows, its 20 pages hold 1781",
    ),
    "calls itself the last": (
        changed(lambda page: page.pop("@odata.nextLink")),
        "WHOSIS_000001, page 3: its link does not lead to page 4",
    ),
}
#: Those of the pages of which it cannot be told which is wrong: all are asked for again.
TOGETHER = ("short", "calls itself the last")


@pytest.mark.parametrize("kind", GHO_ANSWERS)
def test_page_3_of_20_of_gho(api: Api, kind: str) -> None:
    api.faults.always(GHO_PATH, GHO_ANSWERS[kind][0], query={"$skip": "180"})
    with pytest.raises(SourceRefusedError, match=f"{GHO_ANSWERS[kind][1]}.*last good"):
        api.fetch(GHO)
    api.faults.clear()
    assert same(gho_rows(api.extract(GHO)), api.recorded("who_gho/2024-10-01/WHOSIS_000001.json.gz"))
    assert api.asked(GHO_PATH, "$skip")["180"] == 2
    assert api.asked(GHO_PATH, "$skip")["90"] == (2 if kind in TOGETHER else 1)


def test_a_count_that_no_source_has_is_not_turned_into_requests(api: Api) -> None:
    api.faults.always(GHO_PATH, changed(lambda page: page.update({"@odata.count": 2**200})))
    with pytest.raises(SourceRefusedError, match=r"page 1: it says that there are 16069380442589902755.*last good"):
        api.fetch(GHO)
    assert len(api.faults.log) <= 2


def test_texts_and_names_of_pages_are_such_as_postgresql_takes(tmp_path: Path) -> None:
    """As those of files are: without NUL or half a surrogate pair, none of them the house's or PostgreSQL's own."""
    archive = tmp_path / "extract.zip"
    page = b'[{"a": "x\\u0000y", "_page": "\\ud800", "xmin": [1, null], "": 1.50}, {"a": null}]'
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("one/00001.gz", gzip.compress(page))
    frame = read_pages(archive, lambda records: records)
    assert frame.columns == ["a", "source_page", "source_xmin", "column_4", "_page", "_source_row"]
    assert frame.rows() == [("x\u2400y", "?", '["1",null]', "1.50", "one/00001", 1), (None,) * 4 + ("one/00001", 2)]


def test_a_page_that_repeats_another(api: Api) -> None:
    query = {**APRIL, "sort": TITLE_XII.sort, "page[size]": "40"}
    second = requests.get(api.url + TITLE_XII_PATH, params={**query, "page[number]": "2"}, timeout=10)
    api.faults.add(TITLE_XII_PATH, Fault.body(second.content, "application/json"), query=APRIL | {"page[number]": "3"})
    with pytest.raises(SourceRefusedError, match="2020-04, page 3: it repeats page 2"):
        api.fetch(TITLE_XII)
    # By then not all of the five had to be asked for: those after the repeated one were given up.
    before = api.faults.count(TITLE_XII_PATH, query=APRIL)
    assert len(treasury_rows(api.extract(TITLE_XII))) == 1226
    assert api.faults.count(TITLE_XII_PATH, query=APRIL) == before + 5


class Chained(ODataSource):
    """As an API whose pages are known only from the link of the one before."""

    def ahead(self, first: Call, page: Page) -> Sequence[Call]:
        return []


CHAINED = Chained(**{each.name: getattr(GHO, each.name) for each in fields(GHO)})


def test_a_link_that_leads_back(api: Api) -> None:
    """An extract does not go round in circles."""
    back = {"@odata.nextLink": f"{api.url}{GHO_PATH}?$skip=90&$count=true&$orderby={GHO.order}"}
    api.faults.always(GHO_PATH, changed(lambda page: page.update(back)), query={"$skip": "180"})
    with pytest.raises(SourceRefusedError, match="WHOSIS_000001, page 3: its link does not lead to page 4"):
        api.fetch(GHO)
    with pytest.raises(SourceRefusedError, match="WHOSIS_000001, page 4: it repeats page 2"):
        api.fetch(CHAINED)


def test_pages_that_only_their_links_tell_are_asked_for_one_after_another(api: Api) -> None:
    assert content(api.extract(CHAINED, stored={})) == content(api.extract(GHO, stored={}))
    queries = [parse_qs(entry.query) for entry in api.faults.log]
    asked = [query.get("$skip", ["0"]) for query in queries if not _is_probe(query)]
    assert asked[:GHO_PAGES] == [[str(GHO_PAGE * n)] for n in range(GHO_PAGES)]


def test_a_link_to_another_host_is_asked_of_the_one_that_is_configured(api: Api) -> None:
    elsewhere = changed(
        lambda page: page.update({"@odata.nextLink": page["@odata.nextLink"].replace(api.url, "http:/")})
    )
    api.faults.add(GHO_PATH, elsewhere, query={"$skip": "180"})
    assert len(gho_rows(api.extract(GHO))) == 1782


@pytest.mark.shared
def test_the_verbatim_envelope_that_holds_fewer_rows_than_it_says(shared_data: Path) -> None:
    body = (shared_data / "treasury" / "envelope_example.debt_outstanding.json").read_bytes()
    with pytest.raises(SourceRefusedError, match="the envelope says 36 rows and holds 25"):
        TITLE_XII.read(Call("http://x.invalid", {"page[number]": "3"}), body)


def test_a_total_that_changes_between_two_pages_starts_the_slice_anew(api: Api) -> None:
    """It ends whole; only the slice that changed is asked for again."""
    good = content(api.extract(TITLE_XII, stored={}))
    before = api.asked(TITLE_XII_PATH, "filter")
    grown = changed(lambda page: page["meta"].update({"total-count": 201}))
    api.faults.add(TITLE_XII_PATH, grown, query={**APRIL, "page[number]": "3"})
    assert content(api.extract(TITLE_XII)) == good
    again = api.asked(TITLE_XII_PATH, "filter") - before
    assert 3 + 5 <= again[APRIL["filter"]] <= 5 + 5  # the last two may have been under way
    assert again["record_date:gte:2020-03-01,record_date:lt:2020-04-01"] == 4


def test_a_total_that_never_comes_to_rest(api: Api) -> None:
    grown = changed(lambda page: page.update({"@odata.count": 1783}))
    api.faults.always(GHO_PATH, grown, query={"$skip": "180"})
    with pytest.raises(SourceRefusedError, match="WHOSIS_000001: the source changed between two pages, 3 times"):
        api.fetch(GHO)
    assert api.asked(GHO_PATH, "$skip")["180"] == 3


def test_a_source_that_is_published_while_it_is_extracted(api: Api) -> None:
    """The pages of before and after have the same total; the stamp tells, and the extract starts anew."""

    def publish(body: bytes) -> bytes:
        api.as_of.write_text("2025-11-09")
        return body

    api.faults.add(GHO_PATH, Fault.changed(publish), query={"$skip": "900"})
    fetched = api.extract(GHO)
    assert same(gho_rows(fetched), api.recorded("who_gho/2025-11-09/WHOSIS_000001.json.gz"))
    assert "2025-09-01T10:12:05.193" in str(fetched.validators.etag)
    assert set(api.asked(GHO_PATH, "$skip").values()) == {2}


def test_429_with_retry_after(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("etl_assets.sources.http.time.sleep", slept.append)
    monkeypatch.setenv("ETL_HTTP_ATTEMPTS", "4")
    busy = Fault.status(429, headers={"Retry-After": "20"})
    api.faults.add(GHO_PATH, busy, busy, busy, query={"$skip": "180"})
    assert len(gho_rows(api.extract(GHO))) == 1782
    assert slept == [20.0, 20.0, 20.0]
    assert api.asked(GHO_PATH, "$skip")["180"] == 4


def test_an_indicator_that_there_is_not(api: Api) -> None:
    """404 with an empty body."""
    with pytest.raises(SourceRefusedError, match=r"api/NOPE answered HTTP 404.*check the address.*last good"):
        api.fetch(replace(GHO, sets={"WHOSIS_000001": "", "NOPE": ""}))


@pytest.mark.parametrize(
    ("condition", "why"),
    [
        ("SpatialDim eq 'ATLANTIS'", "WHOSIS_000001: the filter .*ATLANTIS.* matches nothing. Correct it"),
        ("TimeDim ge '2000'", r"answered HTTP 400 Bad Request \(.*types 'Edm.Int32' and 'Edm.String'"),
    ],
)
def test_a_filter_that_is_wrong(api: Api, condition: str, why: str) -> None:
    with pytest.raises(SourceRefusedError, match=why):
        api.fetch(replace(GHO, sets={"WHOSIS_000001": condition}))


def test_a_filter(api: Api) -> None:
    fetched = api.extract(replace(GHO, sets={"WHOSIS_000001": "SpatialDim eq 'ZAF' and TimeDim ge 2010"}))
    rows = api.recorded("who_gho/2024-10-01/WHOSIS_000001.json.gz")
    assert same(gho_rows(fetched), [row for row in rows if row["SpatialDim"] == "ZAF" and row["TimeDim"] >= 2010])


def test_a_source_without_anything_switched_on(api: Api) -> None:
    with pytest.raises(SourceRefusedError, match="nothing is switched on"):
        api.fetch(replace(GHO, sets={}))


def test_a_file_that_is_no_extract(tmp_path: Path) -> None:
    broken = tmp_path / "landed.zip"
    broken.write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(SourceRefusedError, match=r"landed\.zip is not an extract"):
        list(pages(broken))


# Census --------------------------------------------------------------------------------------------------


def census_rows(fetched: Fetched) -> dict[str, list[dict[str, str | None]]]:
    """The rows of each answer by the name of its slice, by means other than the project's."""
    found = {}
    for name, body in pages(fetched.path):
        header, *rows = json.loads(body)
        found[name.partition("/")[0]] = [dict(zip(header, row, strict=True)) for row in rows]
    return found


def test_a_year_that_is_not_out_has_no_page(api: Api) -> None:
    """204 with no body: the others are extracted, and it is asked for the next time."""
    found = census_rows(api.extract(SAIPE))
    assert sorted(found) == ["county_2018", "county_2019", "state_2017", "state_2018", "state_2019"]
    assert api.faults.count(SAIPE_PATH, status=204, query={"time": "2015"}) == 2
    assert [row["NAME"] for row in found["state_2017"]][:2] == ["Alabama", "Alaska"]
    assert "YEAR" in found["state_2017"][0]


def test_a_series_of_which_no_year_is_out(api: Api) -> None:
    with pytest.raises(SourceRefusedError, match=f"{SAIPE_PATH} has no data for what was asked for"):
        api.fetch(replace(SAIPE, first_year=2022))


def test_the_year_is_called_time_or_year() -> None:
    rows = [["1", "2017"], ["2", "2017"]]
    assert rows_by_header([["a", "YEAR"], *rows]) == rows_by_header([["a", "time"], *rows])
    assert rows_by_header([["YEAR", "time"], ["2017", "2018"]]) == [{"YEAR": "2017", "time": "2018"}]


def test_an_unknown_variable(api: Api) -> None:
    wrong = replace(SAIPE, variables=["NAME", "POOR"])
    with pytest.raises(SourceRefusedError, match=r"state_2015, page 1: .*HTTP 400 .*error: unknown variable 'POOR'"):
        api.fetch(wrong)


#: What a year's answer may be, and what is said of it.
CENSUS_ANSWERS: dict[str, tuple[bytes, str]] = {
    "an object": (b'{"error": "no"}', "the answer is no array of arrays"),
    "nothing": (b"[]", "the answer is no array of arrays"),
    "rows of two lengths": (b'[["NAME","time"],["a"]]', r"rows have \[1, 2\] fields"),
    "other columns": (
        b'[["NAME","time","state"],["a","2018","01"]]',
        r"the answer has no \['SAEPOVALL_PT', 'county'\], but",
    ),
    "a county without its code": (
        b'[["NAME","SAEPOVALL_PT","time","state","county"],["Kings","5","2018","06","031"],["X","5","2018","06",null]]',
        r"row 2 \(X\) has no county",
    ),
    "a county without its state": (
        b'[["NAME","SAEPOVALL_PT","time","state","county"],["Kings","5","2018",null,"031"]]',
        r"row 1 \(Kings\) has no state",
    ),
}


@pytest.mark.parametrize("kind", CENSUS_ANSWERS)
def test_an_answer_of_census_that_is_not_what_was_asked_for(api: Api, kind: str) -> None:
    body, why = CENSUS_ANSWERS[kind]
    query = {"time": "2018", "for": "county:*"}
    api.faults.add(SAIPE_PATH, Fault.body(body, "application/json"), query=query)
    with pytest.raises(SourceRefusedError, match=f"county_2018, page 1: {why}.*last good extract stays"):
        api.fetch(SAIPE)
    assert api.extract(SAIPE)
    assert api.faults.count(SAIPE_PATH, query=query) == 2
    assert api.faults.count(SAIPE_PATH, query={"time": "2017", "for": "state:*"}) == 1


def test_a_missing_key_is_told_before_any_request(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETL_SOURCES", "live")
    monkeypatch.setenv("ETL_CENSUS_URL", f"{api.url}/census")
    for attempt in (lambda: SAIPE.probe(None), lambda: api.fetch(SAIPE)):
        with pytest.raises(NotConfiguredError, match=r"ETL_CENSUS_KEY.*https://api.census.gov/data/key_signup.html"):
            attempt()
    assert not api.faults.log


def test_the_key_is_sent_and_never_written_down(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not in the extract, its facts, the pages that are kept, a message or a log; also where it is not taken."""
    monkeypatch.setenv("ETL_CENSUS_KEY", "s3cr3t")
    fetched = api.extract(SAIPE)
    assert all("key=***" in entry.query for entry in api.faults.log)
    assert b"s3cr3t" not in content(fetched) + repr((fetched, api.stored)).encode()
    told = []
    for fault in (Fault.status(500), Fault.status(403), Fault.html(), Fault.reset(), Fault.redirect()):
        api.faults.always(SAIPE_PATH, fault)
        with pytest.raises((SourceRefusedError, SourceUnavailableError)) as refused:
            api.fetch(SAIPE, stored={})
        told.append(str(refused.value))
    monkeypatch.setenv("ETL_LOCAL_SOURCES_URL", "http://127.0.0.1:9")
    with pytest.raises(SourceUnavailableError) as refused:
        api.fetch(SAIPE, stored={})
    assert "s3cr3t" not in "".join(told) + str(refused.value) + caplog.text


def test_a_key_that_is_not_good(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The API answers with a page of HTML, and 200; the message says which setting that is, and where to get one."""
    monkeypatch.setenv("ETL_CENSUS_KEY", "bad")
    why = "HTML page instead of data .*ETL_CENSUS_KEY.*https://api.census.gov/data/key_signup.html"
    with pytest.raises(SourceRefusedError, match=why):
        api.fetch(SAIPE)


# Going on ------------------------------------------------------------------------------------------------

#: Forks a process per page of the extract; each is killed when it is about to keep that page, as by `kill -9`.
KILLER = """
import os, signal, sys, threading
from pathlib import Path
from etl_assets.sources import Workspace
from etl_assets.storage.lake import Lake
from etl_assets.storage.landing import LakePages
from etl_assets_tests.sources.test_paging import GHO

one_at_a_time = threading.Lock()

class Killed(LakePages):
    def __setitem__(self, name, body):
        with one_at_a_time:
            if len(self) + 1 == page:
                os.kill(os.getpid(), signal.SIGKILL)
            super().__setitem__(name, body)
            if len(self) + 1 == page > int(sys.argv[2]):
                os.kill(os.getpid(), signal.SIGKILL)

for page in range(1, int(sys.argv[2]) + 2):
    folder = Path(sys.argv[1]) / str(page)
    folder.mkdir()
    child = os.fork()
    if not child:
        GHO.fetch(Workspace(folder, Killed(Lake(str(folder / "lake")), "pages/")), None)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, page
"""


def test_an_extract_that_is_killed_goes_on_with_the_pages_that_it_does_not_have(api: Api) -> None:
    """At each of twenty pages, and before the pages are put together; the result is that of an undisturbed one."""
    undisturbed = content(api.extract(GHO))
    folder = api.folder / "killed"
    folder.mkdir()
    subprocess.run([sys.executable, "-c", KILLER, folder, str(GHO_PAGES)], cwd=PROJECT, check=True)
    for page in range(1, GHO_PAGES + 2):
        stored = LakePages(Lake(str(folder / str(page) / "lake")), "pages/")
        there = {int(name.rpartition("/")[2]) for name in stored}
        assert len(there) == page - 1
        before = api.asked(GHO_PATH, "$skip")
        again = api.extract(GHO, stored=stored)
        missing = [n for n in range(1, GHO_PAGES + 1) if n not in there]
        wanted = Counter(str(GHO_PAGE * (n - 1)) if n > 1 else "first" for n in missing)
        assert api.asked(GHO_PATH, "$skip") - before == wanted, page
        assert content(again) == undisturbed, page


def test_an_extract_that_fails_again_and_again_asks_for_no_page_twice(api: Api) -> None:
    """But for those that were asked for in vain."""
    for page in range(1, GHO_PAGES):
        api.faults.add(GHO_PATH, Fault.status(404), query={"$skip": str(GHO_PAGE * page)})
    fetched: Any = None
    for _ in range(GHO_PAGES):
        try:
            fetched = api.extract(GHO)
        except SourceRefusedError as error:
            assert "answered HTTP 404" in str(error)  # noqa: PT017 it is refused as often as it takes
    assert len(gho_rows(fetched)) == 1782
    good = [entry for entry in api.faults.log if entry.status == 200 and not _is_probe(parse_qs(entry.query))]
    assert len(good) == len({entry.query for entry in good}) == GHO_PAGES


def test_an_extract_of_a_source_that_changed_in_between_starts_anew(api: Api) -> None:
    """Pages of two publications are never put together, though their totals are the same."""
    api.faults.add(GHO_PATH, Fault.status(404), query={"$skip": "900"})
    with pytest.raises(SourceRefusedError):
        api.fetch(GHO)
    before = api.asked(GHO_PATH, "$skip")
    api.as_of.write_text("2025-11-09")
    fetched = api.extract(GHO)
    assert api.asked(GHO_PATH, "$skip") - before == Counter(
        ["first", *(str(GHO_PAGE * n) for n in range(1, GHO_PAGES))]
    )
    assert same(gho_rows(fetched), api.recorded("who_gho/2025-11-09/WHOSIS_000001.json.gz"))


def earlier(fetched: Fetched, days: int = 0, state: str | None = None, part: str | None = None) -> Validators:
    """What would be known of an extract, had it been made so many days ago, or a part of it in another state."""
    found = versions(fetched.validators)
    for name, version in found.items():
        if part in (None, name):
            day = str(date.fromisoformat(version.day) - timedelta(days=days))
            found[name] = version._replace(day=day, state=version.state if state is None else state)
    return Validators(etag=json.dumps(found, sort_keys=True))


def test_only_the_indicator_that_was_published_again_is_asked_for(api: Api) -> None:
    both = replace(GHO, sets={"WHOSIS_000001": "", "WHOSIS_000002": ""})
    first = api.extract(both, stored={})
    known = earlier(first, state="earlier", part="WHOSIS_000002")
    before = len(api.faults.log)
    second = api.extract(both, known=known, previous=first.path, stored={})
    asked = {e.path for e in api.faults.log[before:] if not _is_probe(parse_qs(e.query))}
    assert asked == {"/who_gho/api/WHOSIS_000002"}
    assert content(second) == content(first)


def test_an_indicator_is_not_asked_for_again_while_it_is_fresh(api: Api) -> None:
    """Not by a look at the source, nor for another one's sake; with 0 days, at each look; on demand, always."""
    both = replace(GHO, sets={"WHOSIS_000001": "", "WHOSIS_000002": ""}, freshness_days={"WHOSIS_000002": 30})
    first = api.extract(both, stored={})

    def looked_at(known: Validators) -> tuple[bool, Counter[str]]:
        """Whether there is something to land, and what was asked for to know it."""
        before = len(api.faults.log)
        is_new = both.probe(known) is not None
        return is_new, Counter(entry.path[-1] for entry in api.faults.log[before:])

    assert looked_at(first.validators) == (False, Counter("1"))
    assert looked_at(earlier(first, days=29, part="WHOSIS_000002")) == (False, Counter("1"))
    assert looked_at(earlier(first, days=30, part="WHOSIS_000002")) == (True, Counter("12"))
    api.as_of.write_text("2025-11-09")
    assert looked_at(first.validators) == (True, Counter("1"))

    before = len(api.faults.log)
    second = api.extract(both, known=first.validators, previous=first.path, stored={})
    assert {entry.path[-1] for entry in api.faults.log[before:]} == {"1"}
    kept = {name: body for name, body in pages(first.path) if name.startswith("WHOSIS_000002")}
    assert kept.items() <= dict(pages(second.path)).items()
    again = api.extract(both, stored={})
    assert [version.state[:10] for version in versions(second.validators).values()] == ["2025-09-01", "2019-03-05"]
    assert [version.state[:10] for version in versions(again.validators).values()] == ["2025-09-01", "2025-09-01"]
    assert {"1", "2"} == {entry.path[-1] for entry in api.faults.log[-5:]}


def test_an_extract_of_the_same_version_later_asks_for_no_page(api: Api) -> None:
    """Of GHO, whose stamp tells; once its days are over it is known that it was asked for, and nothing else changes."""
    assert GHO.probe(earlier(api.extract(GHO, stored={}), days=1000)) is None
    monthly = replace(GHO, freshness_days={"WHOSIS_000001": 30})
    first = api.extract(monthly, stored={})
    before = api.asked(GHO_PATH, "$skip")
    second = api.extract(monthly, known=earlier(first, days=30), previous=first.path, stored={})
    assert content(second) == content(first)
    assert second.validators == first.validators
    assert api.asked(GHO_PATH, "$skip") == before


@pytest.mark.parametrize(("days", "asked_again"), [(1, False), (2, True)])
def test_pages_of_an_extract_that_was_cut_off_serve_until_the_next_day_ends(
    api: Api, days: int, *, asked_again: bool
) -> None:
    """Also where the source tells no version: midnight in between is no reason to ask for a page again."""
    api.faults.add(SAIPE_PATH, Fault.status(404), query={"time": "2019", "for": "county:*"})
    with pytest.raises(SourceRefusedError):
        api.fetch(SAIPE)
    today, day = (str(datetime.now(UTC).date() - timedelta(days=n)) for n in (0, days))
    stored = {name.replace(today, day): body for name, body in api.stored.items()}
    before = api.faults.count(SAIPE_PATH, query={"time": "2018"}, status=200)
    api.extract(SAIPE, stored=stored)
    assert (api.faults.count(SAIPE_PATH, query={"time": "2018"}, status=200) > before) is asked_again


def test_months_that_corrections_do_not_reach_are_taken_from_the_last_extract(api: Api) -> None:
    """From 400 days before the newest date that is known, each month is asked for again."""
    api.as_of.write_text("2021-08-31")
    first = api.extract(TITLE_XII, stored={})
    assert [version.state for version in versions(first.validators).values()] == ["2021-08-31 1166"]
    api.as_of.write_text("2021-09-30")
    before = api.asked(TITLE_XII_PATH, "filter")
    second = api.extract(TITLE_XII, known=first.validators, previous=first.path, stored={})
    asked = api.asked(TITLE_XII_PATH, "filter") - before
    months = {text.removeprefix("record_date:gte:")[:7] for text in asked}
    assert months == {"2020-07", *(f"2020-{m:02}" for m in range(8, 13)), *(f"2021-{m:02}" for m in range(1, 10))}
    old, new = dict(pages(first.path)), dict(pages(second.path))
    settled = [name for name in old if name < "2020-07"]
    assert [new[name] for name in settled] == [old[name] for name in settled]
    rows = api.recorded("treasury/2021-09-30/title_xii.json.gz")
    fresh = [row for row in treasury_rows(second) if row["record_date"] >= "2020-07"]
    assert same(fresh, [row for row in rows if row["record_date"] >= "2020-07"])


def test_a_row_that_was_added_to_a_settled_month(api: Api) -> None:
    """The number of all rows tells: the settled months are asked for as well, and the others no second time."""
    api.as_of.write_text("2021-08-31")
    whole = api.extract(TITLE_XII, stored={})
    less = api.folder / "less.zip"
    with zipfile.ZipFile(less, "w") as archive:
        for name, body in pages(whole.path):
            document = json.loads(body)
            if name == "2020-03/00001":
                del document["data"][0]
            archive.writestr(f"{name}.gz", gzip.compress(json.dumps(document).encode()))
    before = api.asked(TITLE_XII_PATH, "filter")
    again = api.extract(TITLE_XII, known=earlier(whole, state="2021-08-31 1165"), previous=less)
    assert content(again) == content(whole)
    assert api.asked(TITLE_XII_PATH, "filter") - before == before


def test_rows_that_are_in_no_month(api: Api) -> None:
    """A row without a date is in none: the extract is not whole."""
    more = changed(lambda page: page["meta"].update({"total-count": 1227}))
    api.faults.always(TITLE_XII_PATH, more, query={"sort": "-record_date", "page[size]": "1"})
    with pytest.raises(SourceRefusedError, match="says that there are 1227 rows, its months hold 1226"):
        api.fetch(TITLE_XII)


def test_settled_years_are_taken_from_the_last_extract_and_missing_ones_asked_for(api: Api) -> None:
    first = api.extract(SAIPE, stored={})
    before = api.asked(SAIPE_PATH, "time")
    second = api.extract(SAIPE, known=earlier(first, days=31), previous=first.path, stored={})
    asked = api.asked(SAIPE_PATH, "time") - before
    assert not {"2018", "2019"} & asked.keys()
    assert (asked["2016"], asked["2017"]) == (2, 1)  # 2017 is there of the states only
    assert content(second) == content(first)


def test_a_change_of_what_is_asked_for_asks_for_it(api: Api) -> None:
    """At once: a settled year of before does not have the variable that has been added since."""
    first = api.extract(SAIPE, stored={})
    wider = replace(SAIPE, variables=[*SAIPE.variables, "SAEPOVRTALL_PT"])
    second = api.extract(wider, known=first.validators, previous=first.path, stored={})
    assert all("SAEPOVRTALL_PT" in row for rows in census_rows(second).values() for row in rows)


def test_another_filter_is_another_version(api: Api) -> None:
    """Though it gives as many rows of the same publication."""
    first = api.extract(replace(GHO, sets={"WHOSIS_000001": "SpatialDim eq 'ZAF'"}), stored={})
    other = replace(GHO, sets={"WHOSIS_000001": "SpatialDim eq 'LSO'"})
    second = api.extract(other, known=first.validators, previous=first.path, stored={})
    assert {row["SpatialDim"] for row in gho_rows(second)} == {"LSO"}


def test_a_set_without_a_stamp_is_told_by_its_content(api: Api) -> None:
    """A country that is renamed is another version, though there are as many."""
    path = "DIMENSION/COUNTRY/DimensionValues"
    countries = replace(GHO, sets={path: ""}, order="Code", stamp=None)
    first = api.extract(countries, stored={})
    assert countries.probe(first.validators) is None
    api.faults.always(f"/who_gho/api/{path}", changed(lambda page: page["value"][3].update(Title="Another")))
    second = api.extract(countries, known=first.validators, previous=first.path, stored={})
    assert "Another" in [row["Title"] for row in gho_rows(second)]


def test_pages_in_a_lake(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    kept, other = LakePages(lake, "landing/a/pages/"), LakePages(lake, "landing/ab/pages/")
    kept["v/x/00001"], other["v/x/00001"] = b"1", b"2"
    assert (kept["v/x/00001"], dict(other), len(kept), list(kept)) == (b"1", {"v/x/00001": b"2"}, 1, ["v/x/00001"])
    assert kept.get("v/x/00002") is None
    kept.clear()
    assert (len(kept), len(other)) == (0, 1)
