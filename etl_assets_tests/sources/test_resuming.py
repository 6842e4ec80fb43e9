"""Paged APIs once more: what an extract takes from one that was cut off, and from the last one that was whole."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import zipfile
from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from etl_assets.sources import Fetched, SourceRefusedError, Validators
from etl_assets.sources.extracts import pages
from etl_assets.sources.paging import asks_otherwise, versions
from etl_assets.storage.lake import Lake
from etl_assets.storage.landing import LakePages
from etl_assets_tests.faults import Fault
from etl_assets_tests.sources.api import (
    GHO,
    GHO_PAGE,
    GHO_PAGES,
    GHO_PATH,
    PROJECT,
    SAIPE,
    SAIPE_PATH,
    TITLE_XII,
    TITLE_XII_PATH,
    Api,
    census_rows,
    changed,
    content,
    gho_rows,
    is_probe,
    same,
    treasury_rows,
)

#: Forks a process per page of the extract; each is killed when it is about to keep that page, as by `kill -9`.
KILLER = """
import os, signal, sys, threading
from pathlib import Path
from etl_assets.sources import Workspace
from etl_assets.storage.lake import Lake
from etl_assets.storage.landing import LakePages
from etl_assets_tests.sources.api import GHO

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
    good = [entry for entry in api.faults.log if entry.status == 200 and not is_probe(parse_qs(entry.query))]
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
    asked = {e.path for e in api.faults.log[before:] if not is_probe(parse_qs(e.query))}
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
    ahead = earlier(first, days=-300, part="WHOSIS_000002")
    assert looked_at(ahead) == (True, Counter("12")), "landed by a clock that was a year ahead"
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
    with pytest.raises(SourceRefusedError, match="reports 1227 rows, but its months hold 1226"):
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


def test_other_recordings_are_another_version(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an API that gives no sign of it, too, and within the days for which it is not asked again."""
    first = api.extract(SAIPE, stored={})
    assert SAIPE.probe(first.validators) is None
    monkeypatch.setenv("ETL_LOCAL_VERSIONS", '{"census": "another"}')
    assert SAIPE.probe(first.validators) is not None
    before = api.asked(SAIPE_PATH, "time")
    second = api.extract(SAIPE, known=first.validators, previous=first.path, stored={})
    assert {"2018", "2019"} <= (api.asked(SAIPE_PATH, "time") - before).keys()
    assert SAIPE.probe(second.validators) is None
    assert not asks_otherwise(second.validators, first.validators)
    monkeypatch.setenv("ETL_LOCAL_VERSIONS", '{"census": "a third"}')
    wider = replace(SAIPE, variables=[*SAIPE.variables, "SAEPOVRTALL_PT"])
    third = api.extract(wider, known=second.validators, previous=second.path, stored={})
    assert asks_otherwise(third.validators, second.validators)


def test_a_version_of_an_earlier_release_is_none(api: Api) -> None:
    """All is asked for once more, and the same file landed; nor does it count as another request, which may shrink."""
    first = api.extract(SAIPE, stored={})
    found = versions(first.validators)
    earlier_form = {part: [v.day, f"{v.service}#{v.recordings} {v.request}", v.state] for part, v in found.items()}
    other = Validators(etag=json.dumps(earlier_form, sort_keys=True))
    assert versions(other) == {}
    assert not asks_otherwise(first.validators, other)
    assert SAIPE.probe(other) == first.validators.etag
    second = api.extract(SAIPE, known=other, previous=first.path, stored={})
    assert second.path.read_bytes() == first.path.read_bytes()
    assert SAIPE.probe(second.validators) is None


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
