"""What the sources' sensors ask for: every version of a source is landed, and asked for no more often than that."""

from __future__ import annotations

import json
import re
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from etl_assets.automation import sensors
from etl_assets.local.in_process import execute
from etl_assets.sources import SourceRefusedError, SourceUnavailableError
from etl_assets.stages.dataset import SPECS
from etl_assets_tests.faults import Fault
from etl_assets_tests.house import House, ephemeral

FILE = "/protest_events/ccc.csv"
SENSORS = ("protest_events_source", "us_counties_source", "eventdata_baseline_source")
LANDING = dg.AssetKey(["landing", "protest_events"])


def look(house: House, name: str = SENSORS[0], instance: dg.DagsterInstance | None = None) -> dg.RunRequest | str:
    """What one tick of a sensor gives: a request, or why there is none."""
    sensor = house.definitions.resolve_sensor_def(name)
    result = sensor(dg.build_sensor_context(instance=instance or house.instance))
    assert isinstance(result, dg.RunRequest | dg.SkipReason)
    return result if isinstance(result, dg.RunRequest) else str(result.skip_message)


def tags(request: dg.RunRequest) -> dict[str, str]:
    """The tags that the daemon gives a run that a sensor asked for."""
    return {**request.tags, "dagster/sensor_name": SENSORS[0], "dagster/run_key": str(request.run_key)}


def start(house: House, request: dg.RunRequest | str) -> bool:
    """Run what the sensor asked for; gives whether it succeeded."""
    assert isinstance(request, dg.RunRequest), request
    return execute(house.definitions, house.instance, [LANDING], tags(request)).success


def test_a_new_version_is_asked_for_and_landed(house: House) -> None:
    assert start(house, look(house))
    assert "Nothing new" in str(look(house))
    house.publish("2025-04-04")
    assert start(house, look(house))
    assert "Nothing new: the landed file of 2025-04-04" in str(look(house))


def test_asking_downloads_nothing(house: House) -> None:
    assert start(house, look(house))
    before = house.faults.count(FILE, method="GET")
    look(house)
    look(house)
    assert house.faults.count(FILE, method="GET") == before
    assert house.faults.log[-1].status == 304


def test_publishers_are_asked_once_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    def intervals() -> dict[str, int | None]:
        return {sensor.name: sensor.minimum_interval_seconds for sensor in sensors.source_sensors()}

    assert set(intervals().values()) == {30}
    monkeypatch.setenv("ETL_SOURCES", "live")
    live = intervals()
    assert {live[name] for name in ("protest_events_source", "gho_source", "poverty_national_source")} == {3600}
    assert {live[name] for name in ("totesys_source", "retail_sales_source", "retail_customers_source")} == {30}


def test_nothing_is_asked_for_after_dev_run(house: House) -> None:
    house.has_run()
    for name in SENSORS:
        assert "Nothing new" in str(look(house, name)), name


def test_a_version_is_not_asked_for_while_its_run_is_under_way(house: House) -> None:
    request = look(house)
    assert isinstance(request, dg.RunRequest)
    job = house.definitions.resolve_implicit_global_asset_job_def()
    run = house.instance.create_run_for_job(job, tags=tags(request), asset_selection=frozenset({LANDING}))
    assert f"run {run.run_id} is landing what it finds" in str(look(house))
    house.publish("2025-04-04")
    assert "is landing what it finds" in str(look(house)), "a source that changes at every tick queues no run each"
    house.instance.report_dagster_event(dg.DagsterEvent(dg.DagsterEventType.PIPELINE_START.value, job.name), run.run_id)
    assert "is landing what it finds" in str(look(house)), "or nothing would ever be made of what is landed"
    house.instance.report_run_failed(run)
    assert isinstance(look(house), dg.RunRequest)


def test_a_run_that_was_canceled_has_dealt_with_nothing(house: House) -> None:
    request = look(house)
    assert isinstance(request, dg.RunRequest)
    job = house.definitions.resolve_implicit_global_asset_job_def()
    run = house.instance.create_run_for_job(job, tags=tags(request), asset_selection=frozenset({LANDING}))
    house.instance.report_run_canceled(run)
    assert "did not succeed; another attempt in" in str(look(house))


def test_a_version_that_was_landed_in_another_lake_is_asked_for(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert start(house, look(house))
    monkeypatch.setenv("ETL_LAKE_URL", str(tmp_path / "another"))
    assert isinstance(look(house), dg.RunRequest)


def test_versions_of_many_parts_go_into_dagsters_index(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    version = json.dumps({f"part {n}": uuid.uuid4().hex for n in range(200)})
    source = SPECS[LANDING].source
    monkeypatch.setattr(type(source), "probe", lambda self, known: version)
    request = look(house)
    assert isinstance(request, dg.RunRequest)
    assert max(len(value) for value in tags(request).values()) < 200
    assert look(house) == request


def test_a_source_that_goes_back_to_what_a_sensor_once_landed(house: House) -> None:
    """What it shows was dealt with; then somebody has landed another version."""
    assert start(house, look(house))
    house.publish("2025-04-04")
    house.materialize("landing/protest_events")
    manifest = json.loads(house.lake.get("landing/protest_events/current.json") or b"")
    later = (datetime.now(UTC) + timedelta(seconds=2)).isoformat(timespec="seconds")
    house.lake.put("landing/protest_events/current.json", json.dumps(manifest | {"fetched_at": later}).encode())
    house.publish("2025-03-05")
    assert isinstance(look(house), dg.RunRequest)


def test_once_a_day_a_version_is_asked_for_whatever_came_of_it(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as one that was refused for a right that has been granted since."""
    house.faults.always(FILE, Fault.html())
    assert not start(house, look(house))
    assert "refused, see run" in str(look(house))
    monkeypatch.setattr(sensors, "AGAIN", 0.0)
    assert isinstance(look(house), dg.RunRequest)


def test_a_source_that_is_down_is_named(house: House) -> None:
    house.faults.always(FILE, Fault.status(503))
    reason = str(look(house))
    assert "Protest events" in reason
    assert f"{FILE} could not be fetched" in reason
    assert "503" in reason
    assert isinstance(look(house, "us_counties_source"), dg.RunRequest)
    house.faults.clear()
    assert isinstance(look(house), dg.RunRequest)


def test_a_source_that_cannot_be_asked_for_long_fails_the_tick(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is alerted; at once where waiting does not help, as with another address or a token that has expired."""
    sensor = house.definitions.resolve_sensor_def(SENSORS[0])
    house.faults.always(FILE, Fault.status(503))
    context = dg.build_sensor_context(instance=house.instance)
    assert isinstance(sensor(context), dg.SkipReason)
    since = context.cursor
    assert isinstance(sensor(context), dg.SkipReason)
    assert context.cursor == since
    monkeypatch.setattr(sensors, "PATIENCE", 0.0)
    with pytest.raises(SourceUnavailableError, match="could not be fetched"):
        sensor(context)
    house.faults.clear()
    assert isinstance(sensor(context), dg.RunRequest)
    assert not context.cursor, "from anew the next time"
    house.faults.always(FILE, Fault.status(404))
    with pytest.raises(SourceRefusedError, match="answered HTTP 404"):
        sensor(context)


def test_what_was_refused_is_not_asked_for_again_until_the_source_has_another_version(house: House) -> None:
    house.faults.always(FILE, Fault.html())
    assert not start(house, look(house))
    assert "refused, see run" in str(look(house))
    house.faults.clear()
    assert start(house, look(house))


def test_a_download_that_broke_off_is_tried_again_within_a_limit(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.faults.add(FILE, Fault())
    request = look(house)
    house.faults.always(FILE, Fault.reset())
    assert not start(house, request)
    house.faults.clear()
    assert "another attempt in" in str(look(house))

    monkeypatch.setattr(sensors, "FIRST_WAIT", 0.0)
    keys = [request.run_key] if isinstance(request, dg.RunRequest) else []
    for _ in range(sensors.ATTEMPTS - 1):
        request = look(house)
        assert isinstance(request, dg.RunRequest)
        keys.append(request.run_key)
        house.faults.always(FILE, Fault.reset())
        assert not start(house, request)
        house.faults.clear()
    assert len(set(keys)) == sensors.ATTEMPTS
    assert f"{sensors.ATTEMPTS} attempts did not succeed" in str(look(house))


def test_each_attempt_waits_three_times_as_long_as_the_one_before(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = []
    for _ in range(2):
        monkeypatch.setattr(sensors, "FIRST_WAIT", 0.0)
        request = look(house)
        house.faults.always(FILE, Fault.reset())
        assert not start(house, request)
        house.faults.clear()
        monkeypatch.setattr(sensors, "FIRST_WAIT", 300.0)
        told = re.search(r"another attempt in (\d+) s", str(look(house)))
        assert told
        waits.append(int(told[1]))
    assert 250 < waits[0] <= 300
    assert 850 < waits[1] <= 900


def test_a_version_that_comes_back_is_asked_for_again(house: House) -> None:
    """A run key is used once: with the version alone, a source that goes back would never be landed again."""
    keys = []
    for date in ("2025-03-05", "2025-04-04", "2025-03-05", "2025-04-04"):
        house.publish(date)
        request = look(house)
        assert start(house, request), date
        keys.append(request.run_key if isinstance(request, dg.RunRequest) else None)
    assert len(set(keys)) == 4


def test_another_attempt_is_asked_for_though_somebody_has_deleted_a_run(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensors, "FIRST_WAIT", 0.0)
    assert start(house, look(house))
    [first] = house.instance.get_runs()
    house.publish("2025-04-04")
    request = look(house)
    house.faults.always(FILE, Fault.reset())
    assert not start(house, request)
    house.faults.clear()
    house.instance.delete_run(first.run_id)
    again = look(house)
    assert isinstance(request, dg.RunRequest)
    assert isinstance(again, dg.RunRequest)
    assert again.run_key != request.run_key
    assert start(house, again)


def test_a_landed_file_that_dagster_does_not_know_of_is_asked_for(house: House) -> None:
    """Such as after Dagster's own storage was lost: the lake has the file, the asset would be missing for ever."""
    assert start(house, look(house))
    with ephemeral() as another:
        assert isinstance(look(house, instance=another), dg.RunRequest)
