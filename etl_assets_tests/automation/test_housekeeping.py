"""Housekeeping: what is old and superseded goes, and nothing that anybody needs."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.freshness import FreshnessState, FreshnessStateChange

from etl_assets.automation.housekeeping import clean
from etl_assets.stages.staleness import State, in_order
from etl_assets.storage.lake import Lake
from etl_assets.storage.landing import Landing, Manifest, sha256
from etl_assets_tests.automation.test_conditions import publish_with
from etl_assets_tests.house import House

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
