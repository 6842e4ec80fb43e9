"""What time makes wrong: old data is said to be old, and a correction without a sign is found (and shown by `diff`)."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path

import dagster as dg
import pytest

from etl_assets.local.diff import diff
from etl_assets.stages.dataset import SPECS
from etl_assets.stages.newest import judge_newest, newest_day
from etl_assets_tests.datasets.test_treasury import Row, publish, recording
from etl_assets_tests.house import House

LANDING = dg.AssetKey(["landing", "treasury_title_xii"])
TABLE = "refined.state_unemployment_advances"
ADVANCES = dg.AssetKey(["refined", "state_unemployment_advances"])


def start(house: House, schedule: str) -> None:
    """What a schedule starts when its hour has come."""
    found = house.definitions.resolve_schedule_def(schedule)
    with dg.build_schedule_context(house.instance, scheduled_execution_time=dt.datetime.now(dt.UTC)) as context:
        [request] = found.evaluate_tick(context).run_requests or []
    house.definitions.resolve_job_def(found.job_name).execute_in_process(
        instance=house.instance, tags=dict(request.tags), asset_selection=request.asset_selection
    )


def test_a_correction_without_a_sign_is_found_by_landing_anew(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert diff(TABLE, None, None) == 0
    assert "No publication has changed" in capsys.readouterr().out, "nor has there been any"
    house.publish("2021-08-31")
    house.has_run("treasury_title_xii")
    before = tmp_path / "before"
    shutil.copytree(tmp_path / "lake", before)
    assert diff(TABLE, None, None) == 0
    assert "No publication has changed what an earlier one had published" in capsys.readouterr().out
    assert diff(TABLE, None, str(before)) == 0
    assert "0 rows added, 0 gone and 0 changed in 0 of" in capsys.readouterr().out
    rows = recording(house.data, "2021-08-31")["data"]
    oldest = min(rows, key=lambda row: (row["record_date"], row["src_line_nbr"]))
    paid_before, oldest["interest_paid_amt"] = oldest["interest_paid_amt"], "12345.67"
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

    diff_shows_it(before, oldest | {"interest_paid_amt": paid_before}, len(rows), monkeypatch, capsys)
    old_data_is_said_to_be_old(house, monkeypatch)


def diff_shows_it(
    before: Path, row: Row, rows: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `./dev diff` says of the one value that was corrected, and of a lake that has not got the table."""
    monkeypatch.setenv("COLUMNS", "200")
    assert diff(TABLE, None, None) == 0
    history = capsys.readouterr().out
    assert f"{row['record_date'][:7]}-01" in history
    assert "interest_paid 1" in history
    assert diff(TABLE, dt.date(2999, 1, 1), None) == 0
    assert "No publication has changed" in capsys.readouterr().out
    assert diff(TABLE, None, str(before)) == 1
    said = capsys.readouterr().out
    assert "0 rows added, 0 gone and 1 changed in 1 of" in said
    (line,) = [line for line in said.splitlines() if line.startswith(f"record_date {row['record_date']}, state_code ")]
    given = row["interest_paid_amt"]
    assert line.split()[-3:] == ["interest_paid", "null" if given == "null" else f"{float(given):.2f}", "12345.67"]
    shutil.rmtree(before / "refined" / "state_unemployment_advances")
    assert diff(TABLE, None, str(before)) == 1
    assert f"{rows:,} rows added, 0 gone and 0 changed" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"There is no table refined\.nothing"):
        diff("refined.nothing", None, None)


def old_data_is_said_to_be_old(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    newest = house.value("SELECT max(record_date) FROM refined.state_unemployment_advances")
    assert newest_day(SPECS[ADVANCES], dt.date(2026, 1, 1)) == newest
    before = newest.replace(day=1) - dt.timedelta(days=1)
    last_before = house.value(
        "SELECT max(record_date) FROM refined.state_unemployment_advances WHERE record_date <= %s", before
    )
    assert newest_day(SPECS[ADVANCES], before) == last_before, "what is announced does not count"
    assert newest_day(SPECS[ADVANCES], dt.date(1999, 1, 1)) is None
    key = ADVANCES.to_user_string()
    assert house.check(key, "newest").passed, "a recording is as old as it is"
    monkeypatch.setenv("ETL_SOURCES", "live")
    start(house, "newest_data")
    found = house.check(key, "newest")
    assert not found.passed
    assert found.severity == dg.AssetCheckSeverity.WARN
    assert found.metadata["newest_day"].value == str(newest)
    nothing = judge_newest(SPECS[dg.AssetKey(["refined", "protest_events"])])
    assert (nothing.passed, nothing.description) == (False, "There is no day yet")
