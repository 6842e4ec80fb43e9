"""Paged APIs on good days and bad ones: an extract is whole, or it is refused."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from urllib.parse import parse_qs

import pytest
import requests

from etl_assets.sources import SourceRefusedError, SourceUnavailableError
from etl_assets.sources.extracts import pages, read_pages
from etl_assets.sources.odata import ODataSource
from etl_assets.sources.paging import Call, Page
from etl_assets_tests.faults import Fault
from etl_assets_tests.sources.api import (
    APRIL,
    GHO,
    GHO_PAGE,
    GHO_PAGES,
    GHO_PATH,
    SAIPE,
    SAIPE_PATH,
    TITLE_XII,
    TITLE_XII_PATH,
    Api,
    changed,
    content,
    gho_rows,
    is_probe,
    same,
    treasury_rows,
)

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


#: What comes as page 3 of 5 of Fiscal Data, and what is said of it.
TREASURY_PAGES: dict[str, tuple[Fault, str]] = {
    "html": (Fault.html(), "2020-04, page 3: .*answered with an HTML page instead of data"),
    "redirect to html": (Fault.redirect(), "2020-04, page 3: .*answered with an HTML page instead of data"),
    "no body": (Fault.empty(), "2020-04, page 3: .*answered with nothing"),
    "not json": (
        Fault.body(b'{"data": [{"rec', "application/json"),
        "2020-04, page 3: the answer is not complete JSON",
    ),
    "an error for an answer": (
        Fault.body(b'{"error": "Oops", "message": "Sorry"}', "application/json"),
        "2020-04, page 3: the envelope is malformed .KeyError: 'data'",
    ),
    "no rows where rows should be": (
        changed(lambda page: page.update(data=None)),
        "2020-04, page 3: the envelope is malformed .TypeError: data must be a list",
    ),
    "short": (changed(lambda page: page["data"].pop()), "2020-04, page 3: the envelope says 40 rows and holds 39"),
    "short, and says so": (
        changed(lambda page: (page["data"].pop(), page["meta"].update(count=39))),
        "2020-04: the source reports 200 rows, but its 5 pages hold 199",
    ),
    "no rows, and says so": (
        changed(lambda page: (page["data"].clear(), page["meta"].update(count=0))),
        "2020-04, page 3: it has no rows, though another page follows",
    ),
    "calls itself the last": (
        changed(lambda page: page["links"].update(next=None)),
        "2020-04, page 3: the envelope says 5 pages, but page 3 has no link to a next one",
    ),
    "500": (Fault.status(500), "2020-04, page 3: .*could not be fetched in 2 attempts .HTTP 500"),
    "429 for ever": (
        Fault.status(429, headers={"Retry-After": "0"}),
        "2020-04, page 3: .*could not be fetched in 2 attempts .HTTP 429",
    ),
    "cut short": (Fault.truncated(), "2020-04, page 3: .*could not be fetched in 2 attempts .*IncompleteRead"),
    "404": (Fault.status(404), "2020-04, page 3: .*answered HTTP 404"),
}


#: What the first page of all rows says of their ends, or of itself; each was once asked for month by month, or died.
TREASURY_ENDS: dict[str, tuple[Fault, str]] = {
    "a first date before there was a Treasury": (
        changed(lambda page: page["data"][0].update(record_date="0001-01-01")),
        "0001-01-01 is not a plausible record_date",
    ),
    "a last date that is far off": (
        changed(lambda page: page["data"][0].update(record_date="9999-12-31")),
        "9999-12-31 is not a plausible record_date",
    ),
    "no date": (changed(lambda page: page["data"][0].update(record_date="null")), "no record_date that can be read"),
    "no rows of the expected kind": (changed(lambda page: page.update(data=[5])), "no record_date that can be read"),
    "an endless count": (changed(lambda page: page["meta"].update({"total-count": 1e999})), "envelope is malformed"),
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
    "a link that is no text": (
        changed(lambda page: page.update({"@odata.nextLink": 5})),
        "its count is not a number, or its link is not text",
    ),
    "a link that is no address": (
        changed(lambda page: page.update({"@odata.nextLink": "http://[::1"})),
        "its link to the next page is not a valid address",
    ),
    "short": (
        changed(lambda page: page["value"].pop()),
        "WHOSIS_000001: the source reports 1782 rows, but its 20 pages hold 1781",
    ),
    "long": (
        changed(lambda page: page["value"].append(page["value"][0])),
        "WHOSIS_000001: the source reports 1782 rows, but its 20 pages hold 1783",
    ),
    "calls itself the last": (
        changed(lambda page: page.pop("@odata.nextLink")),
        "WHOSIS_000001, page 3: its link does not lead to page 4",
    ),
}
#: Those of the pages of which it cannot be told which is wrong: all are asked for again.
TOGETHER = ("short", "long", "calls itself the last")


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
    with pytest.raises(SourceRefusedError, match=r"page 1: it reports 16069380442589902755.*last good"):
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
    asked = [query.get("$skip", ["0"]) for query in queries if not is_probe(query)]
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
    with pytest.raises(SourceRefusedError, match="no entry is switched on"):
        api.fetch(replace(GHO, sets={}))


def test_a_file_that_is_no_extract(tmp_path: Path) -> None:
    broken = tmp_path / "landed.zip"
    broken.write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(SourceRefusedError, match=r"landed\.zip is not an extract"):
        list(pages(broken))
