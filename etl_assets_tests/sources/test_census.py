"""The Census's API: years that are not out, keys, and answers that are not what was asked for."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from etl_assets.settings import NotConfiguredError
from etl_assets.sources import SourceRefusedError, SourceUnavailableError
from etl_assets.sources.census import rows_by_header
from etl_assets_tests.faults import Fault
from etl_assets_tests.sources.api import (
    SAIPE,
    SAIPE_PATH,
    Api,
    census_rows,
    content,
)


def test_a_year_that_is_not_out_has_no_page(api: Api) -> None:
    """204 with no body: the others are extracted, and it is asked for the next time."""
    found = census_rows(api.extract(SAIPE))
    assert sorted(found) == ["county_2018", "county_2019", "state_2017", "state_2018", "state_2019"]
    assert api.faults.count(SAIPE_PATH, status=204, query={"time": "2015"}) == 2
    assert [row["NAME"] for row in found["state_2017"]][:2] == ["Alabama", "Alaska"]
    assert "YEAR" in found["state_2017"][0]


def test_a_series_of_which_no_year_is_out(api: Api) -> None:
    with pytest.raises(SourceRefusedError, match=f"{SAIPE_PATH} has no data for what the dataset asks for"):
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
    "an object": (b'{"error": "no"}', "the answer is not an array of arrays"),
    "nothing": (b"[]", "the answer is not an array of arrays"),
    "rows of two lengths": (b'[["NAME","time"],["a"]]', r"its rows have different numbers of fields: \[1, 2\]"),
    "other columns": (
        b'[["NAME","time","state"],["a","2018","01"]]',
        r"the answer lacks \['SAEPOVALL_PT', 'county'\]; it has",
    ),
    "a county without its code": (
        b'[["NAME","SAEPOVALL_PT","time","state","county"],["Kings","5","2018","06","031"],["X","5","2018","06",null]]',
        r"row 2 \(X\) has no county",
    ),
    "a county without its state": (
        b'[["NAME","SAEPOVALL_PT","time","state","county"],["Kings","5","2018",null,"031"]]',
        r"row 1 \(Kings\) has no state",
    ),
    "a header without end": (json.dumps([["NAME", "X" * 100_000], ["a", "b"]]).encode(), "the answer lacks"),
}


@pytest.mark.parametrize("kind", CENSUS_ANSWERS)
def test_an_answer_of_census_that_is_not_what_was_asked_for(api: Api, kind: str) -> None:
    body, why = CENSUS_ANSWERS[kind]
    query = {"time": "2018", "for": "county:*"}
    api.faults.add(SAIPE_PATH, Fault.body(body, "application/json"), query=query)
    with pytest.raises(SourceRefusedError, match=f"county_2018, page 1: {why}.*last good extract stays") as error:
        api.fetch(SAIPE)
    assert len(str(error.value)) < 1000, "what the source sends is not repeated at any length"
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
