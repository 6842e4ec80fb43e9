"""Housekeeping: what is old and superseded goes, and nothing that anybody needs."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.freshness import FreshnessState, FreshnessStateChange
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager

from etl_assets.automation.housekeeping import _compute_logs, clean
from etl_assets.stages.staleness import State, in_order
from etl_assets.storage.configured import landing_store
from etl_assets.storage.lake import Lake
from etl_assets.storage.landing import Landing, Manifest, sha256
from etl_assets_tests.automation.test_conditions import publish_with
from etl_assets_tests.house import House, ephemeral

NOW = datetime.now(UTC)


def found(house: House, after: timedelta, *, dry_run: bool = False) -> list[int]:
    """How much is deleted so long after now: events, folders of output, objects of landed files, unfinished files."""
    return [item.count for item in clean(house.instance, dry_run=dry_run, now=NOW + after)]


def test_what_is_old_goes_and_everything_that_is_needed_stays(house: House) -> None:
    house.has_run()
    publish_with(house, "2025-03-10", ["2025-02-12,Albany,NY"])
    assert house.run(), house.failures()
    publish_with(house, "2025-03-11", ["2025-02-12,Albany,NY", "2025-02-13,Albany,NY"])  # landed, and not read yet
    staged = Path(str(house.lake.folder)) / "refined" / "protest_events" / "2025-02-12.parquet#1"
    staged.write_bytes(b"half a part")
    stale = dg.AssetKey(["landing", "protest_events"])
    house.instance.report_runless_asset_event(
        FreshnessStateChange(
            key=stale, new_state=FreshnessState.FAIL, previous_state=FreshnessState.PASS, state_change_timestamp=0.0
        )
    )
    before, events = house.objects(), rows(house)

    assert found(house, timedelta(0)) == [0, 0, 0, 0], "all of it is new"
    would = found(house, timedelta(days=400), dry_run=True)
    assert house.objects() == before
    assert staged.exists()
    assert rows(house) == events
    assert found(house, timedelta(days=400)) == would
    assert would[0] > 0
    assert would[2:] == [2, 1], "the first file: the second was read last, the third is current"
    assert found(house, timedelta(days=400)) == [0, 0, 0, 0]
    assert not staged.exists()
    assert house.instance.get_freshness_state_records([stale]), "it is told as stale for as long as it is"
    gone = before.keys() - house.objects().keys()
    assert {Path(path).suffix for path in gone} == {".csv", ".json"}
    assert {path.rpartition("/")[0] for path in gone} == {"landing/protest_events"}

    state = State(house.instance)
    out_of_date = {spec.key.to_user_string() for spec in in_order(["protest_events"]) if state.out_of_date(spec)}
    assert out_of_date == {"raw/protest_events"}, "what was landed last, and nothing that had been made"
    assert house.run(), house.failures()
    assert house.made()["refined/protest_events"] == 1
    assert house.run(), house.failures()
    assert house.made() == {}


def test_a_file_that_came_back_is_as_old_as_when_another_took_its_place(tmp_path: Path) -> None:
    store = Landing(Lake(str(tmp_path / "lake")), "files")
    file = tmp_path / "file"
    for at, content in (("2023-01-01", "a"), ("2023-06-01", "b"), ("2024-01-01", "a"), ("2026-01-01", "c")):
        file.write_text(content)
        store.land(file, Manifest(sha256(file), 1, ".txt", "", f"{at}T00:00:00+00:00", at, None, None))
    fetched = sorted(manifest.fetched_at[:10] for manifest in store.manifests())
    assert fetched == ["2023-06-01", "2024-01-01", "2026-01-01"]


def test_a_file_is_as_old_as_when_the_next_one_came_whatever_their_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What counts is the order in which they came, and not that of their names, which are those of their bytes."""
    monkeypatch.setenv("ETL_LAKE_URL", str(tmp_path / "lake"))
    store, paths = landing_store("us_counties"), []
    for number in range(3):
        paths.append(tmp_path / str(number))
        paths[-1].write_text(str(number))
    first, second, third = sorted(paths, key=sha256, reverse=True)
    for path, days in ((first, 800), (second, 400), (third, 10)):
        fetched = str(NOW - timedelta(days=days))
        store.land(path, Manifest(sha256(path), 1, ".json", "http://a", fetched, fetched, None, None))
    with ephemeral() as instance:
        clean(instance, dry_run=False, now=NOW)
    assert {own.sha256 for own in store.manifests()} == {sha256(second), sha256(third)}


def rows(house: House) -> int:
    """How many events Dagster has of all runs."""
    return sum(len(house.instance.all_logs(run.run_id)) for run in house.instance.get_runs())


def test_a_file_of_many_goes_when_its_last_set_does(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was current until today is kept as long as any, however long ago it came."""
    folder = tmp_path / "drop"
    folder.mkdir()
    monkeypatch.setenv("ETL_RETAIL_SALES_FOLDER", str(folder))
    header = "Transaction_ID,Product_ID,Quantity,Price,Transaction_Date"
    house.datasets = ("retail_sales",)
    for name, price in (("a", 3), ("b", 5), ("a", 4)):
        if price == 4:  # the two before came long ago
            for path in [name for name in house.lake.list("landing/retail_sales") if name.endswith(".json")]:
                manifest = json.loads(house.lake.get(path) or b"")
                manifest["fetched_at"] = str(datetime.fromisoformat(manifest["fetched_at"]) - timedelta(days=800))
                house.lake.put(path, json.dumps(manifest).encode())
        (folder / f"{name}.csv").write_text(f"{header}\n{ord(name)},1001,2,{price}.00,2024-01-01\n")
        assert house.run(), house.failures()

    def landed() -> int:
        return sum(name.endswith(".csv") for name in house.lake.list("landing/retail_sales"))

    clean(house.instance, dry_run=False)
    assert landed() == 3
    clean(house.instance, dry_run=False, now=NOW + timedelta(days=364))
    assert landed() == 3
    clean(house.instance, dry_run=False, now=NOW + timedelta(days=366))
    assert landed() == 2
    assert house.run(), house.failures()
    assert not house.made()


def test_of_unfinished_files_only_those_go_that_nobody_is_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has a name that only looks like one of them is an object."""
    monkeypatch.setenv("ETL_LAKE_URL", str(tmp_path / "lake"))
    folder = tmp_path / "lake" / "raw" / "languages"
    folder.mkdir(parents=True)
    for name in ("Ada.parquet#1", "C#.parquet"):
        (folder / name).write_text("")
    with ephemeral() as instance:
        for hours, count in ((23, 0), (25, 1)):
            assert clean(instance, dry_run=False, now=datetime.now(UTC) + timedelta(hours=hours))[3].count == count
    assert [path.name for path in folder.iterdir()] == ["C#.parquet"]


def test_a_file_whose_set_is_about_to_become_the_current_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bytes and its manifest are there before the set is."""
    monkeypatch.setenv("ETL_LAKE_URL", str(tmp_path / "lake"))
    store, landed = landing_store("retail_sales"), []
    for name in ("one", "two"):
        path = tmp_path / name
        path.write_text(name)
        landed.append((path, Manifest(sha256(path), 3, ".csv", f"/{name}", str(NOW), str(NOW), None, None)))
    (_, one), (_, two) = landed
    store.land_set(landed, replace(one, sha256="1" * 64, members={"one": one.sha256}))
    with ephemeral() as instance:
        clean(instance, dry_run=False)
        assert {own.sha256 for own in store.manifests()} == {one.sha256, two.sha256, "1" * 64}
        clean(instance, dry_run=False, now=NOW + timedelta(days=366))  # it never did
    assert {own.sha256 for own in store.manifests()} == {one.sha256, "1" * 64}


def test_of_a_runs_folder_only_its_output_goes(tmp_path: Path) -> None:
    """What else is in it belongs to somebody else."""
    instance: Any = SimpleNamespace(compute_log_manager=LocalComputeLogManager(str(tmp_path)))
    for run in ("alone", "with more"):
        (tmp_path / run / "compute_logs").mkdir(parents=True)
        (tmp_path / run / "compute_logs" / "step.out").write_text("printed")
    (tmp_path / "with more" / "result").write_text("kept")
    for dry_run, left in ((True, {"alone", "with more"}), (False, {"with more"})):
        assert _compute_logs(instance, NOW - timedelta(days=1), dry_run=dry_run) == 0
        assert _compute_logs(instance, NOW + timedelta(days=1), dry_run=dry_run) == 2
        assert {path.name for path in tmp_path.iterdir()} == left
    assert [path.name for path in (tmp_path / "with more").iterdir()] == ["result"]


def test_why_a_run_failed_is_known_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETL_LAKE_URL", str(tmp_path / "lake"))

    @dg.op
    def fails() -> None:
        raise ValueError("the disk is full")

    @dg.job
    def job() -> None:
        fails()

    with ephemeral() as instance:
        run = job.execute_in_process(instance=instance, raise_on_error=False).run_id

        def kinds() -> set[str]:
            found = (entry.dagster_event for entry in instance.all_logs(run))
            return {event.event_type_value for event in found if event}

        assert "STEP_START" in kinds()
        clean(instance, dry_run=False, now=NOW + timedelta(days=400))
        assert kinds() == {"PIPELINE_START", "PIPELINE_FAILURE", "STEP_FAILURE"}
        [failure] = [
            entry for entry in instance.all_logs(run) if entry.dagster_event and entry.dagster_event.is_step_failure
        ]
        assert "the disk is full" in str(failure)
