"""What time makes wrong: old data is said to be old, and a correction that the source gives no sign of is found."""

from __future__ import annotations

import datetime as dt

import dagster as dg
import pytest

from etl_assets.automation.freshness import newest_day
from etl_assets.stages.dataset import SPECS
from etl_assets_tests.datasets.test_treasury import publish, recording
from etl_assets_tests.house import House

LANDING = dg.AssetKey(["landing", "treasury_title_xii"])
ADVANCES = dg.AssetKey(["refined", "state_unemployment_advances"])


def start(house: House, schedule: str) -> None:
    """What a schedule starts when its hour has come."""
    found = house.definitions.resolve_schedule_def(schedule)
    with dg.build_schedule_context(house.instance, scheduled_execution_time=dt.datetime.now(dt.UTC)) as context:
        (request,) = found.evaluate_tick(context).run_requests or ()
    house.definitions.resolve_job_def(found.job_name).execute_in_process(
        instance=house.instance, tags=dict(request.tags), asset_selection=request.asset_selection
    )


def test_a_correction_without_a_sign_is_found_by_landing_anew(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.datasets = ("treasury_title_xii",)
    house.publish("2021-08-31")
    assert house.run(), house.failures()
    rows = recording(house.data, "2021-08-31")["data"]
    oldest = min(rows, key=lambda row: (row["record_date"], row["src_line_nbr"]))
    oldest["interest_paid_amt"] = "12345.67"
    publish(house, "2021-09-01", rows)
    assert house.run(), house.failures()
    assert house.made() == {}, "as many rows, and the same newest date"

    start(house, "treasury_title_xii_anew")
    assert house.run(), house.failures()
    assert house.made()["refined/state_unemployment_advances"] == 1
    paid = "SELECT interest_paid FROM refined.state_unemployment_advances ORDER BY record_date, line LIMIT 1"
    assert str(house.value(paid)) == "12345.67"
    start(house, "treasury_title_xii_anew")
    assert house.run(), house.failures()
    assert house.made() == {}, "the same bytes"

    old_data_is_said_to_be_old(house, monkeypatch)


def old_data_is_said_to_be_old(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    newest = house.value("SELECT max(record_date) FROM refined.state_unemployment_advances")
    assert newest_day(SPECS[ADVANCES], dt.date(2026, 1, 1)) == newest
    before = newest.replace(day=1) - dt.timedelta(days=1)
    last_before = house.value(
        "SELECT max(record_date) FROM refined.state_unemployment_advances WHERE record_date <= %s", before
    )
    assert newest_day(SPECS[ADVANCES], before) == last_before, "what is announced does not count"
    assert newest_day(SPECS[ADVANCES], dt.date(1999, 1, 1)) is None
    monkeypatch.setattr("etl_assets.automation.freshness._dated", lambda: [SPECS[ADVANCES]])
    start(house, "newest_data")
    key = ADVANCES.to_user_string()
    assert house.check(key, "newest").passed, "a recording is as old as it is"
    monkeypatch.setenv("ETL_SOURCES", "live")
    start(house, "newest_data")
    found = house.check(key, "newest")
    assert not found.passed
    assert found.severity == dg.AssetCheckSeverity.WARN
    assert found.metadata["newest_day"].value == str(newest)
