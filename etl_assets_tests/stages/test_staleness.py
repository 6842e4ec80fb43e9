"""What is out of date, where a whole house would be long in showing it."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from etl_assets.stages.dataset import SPECS, Input
from etl_assets.stages.staleness import State
from etl_assets.storage.landing import Manifest
from etl_assets.storage.table import WHOLE, Facts
from etl_assets_tests.house import ephemeral

EVENTS, DESIGNS, HISTORY = (
    SPECS[dg.AssetKey(key.split("/"))]
    for key in ("refined/protest_events", "raw/totesys_design", "refined/totesys_design_history")
)


def manifest(files: dict[str, dict[str, str]]) -> Manifest:
    return Manifest("", 0, ".parquet", "postgresql://a", "now", "then", None, None, batch="batch", files=files)


def test_a_day_of_which_the_lake_has_lost_a_block_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETL_LAKE_URL", str(tmp_path / "lake"))
    with ephemeral() as instance:
        assert State(instance)._lost(DESIGNS, ["2024-11-15_000000000000"]) == {"2024-11-15"}


def test_a_day_that_what_it_is_made_from_has_no_more_is_out_of_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its rows would stay for ever; and one that is in no partition is nothing to be made."""
    monkeypatch.setenv("ETL_LAKE_URL", str(tmp_path / "lake"))

    def facts(*keys: str) -> dict[str, Facts]:
        return {key: Facts(key, 1, "content", "inputs", "run", "") for key in keys}

    known = {
        "raw.protest_events": facts("2025-02-13", "1066-10-14"),
        "refined.us_counties": facts(WHOLE),
        "refined.eventdata_baseline": facts(WHOLE),
        "refined.protest_events": facts("2025-02-12"),
        "raw.totesys_design": facts("2024-11-15_000000000000"),
    }
    batches = manifest({"design": {"2024-11-16T080000.000000Z": "digest"}})
    with ephemeral() as instance:
        state = State(instance, (), known, {"totesys": batches})
        assert state.out_of_date(EVENTS) == {"2025-02-12", "2025-02-13"}
        assert state.out_of_date(DESIGNS) == {"2024-11-15", "2024-11-16"}


def test_a_run_that_somebody_has_deleted_is_not_under_way() -> None:
    """Else what it left undone would wait for it for ever."""
    with ephemeral() as instance:
        assert State(instance)._ended({"deleted"}) == {"deleted"}


def test_a_table_that_no_batch_had_anything_of_is_there_and_one_that_was_not_made_is_not() -> None:
    """Else what is made from an empty table would wait for it for ever."""
    [source] = [source for source in HISTORY.inputs.values() if source.key == DESIGNS.key]
    found: list[object] = []
    for files in ({}, {"design": {"2024-11-15T080000.000000Z": "digest"}}):
        with ephemeral() as instance:
            state = State(instance, (), {"raw.totesys_design": {}}, {"totesys": manifest(files)})
            found.append(state.versions(source))
    assert found == [{}, None]
    landed = Input(dg.AssetKey(["landing", "totesys"]), None, by_partition=False)
    with ephemeral() as instance:
        assert State(instance, (), {}, {"totesys": None}).versions(landed) is None
