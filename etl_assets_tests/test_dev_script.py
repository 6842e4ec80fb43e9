"""The script `./dev` itself; what its commands do is tested in `local`."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from etl_assets.settings import PROJECT


def test_a_path_counts_from_where_dev_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands work in the checkout, whose `.env` they read."""
    (below := tmp_path / "below").mkdir()
    monkeypatch.chdir(below)
    given = {
        "ETL_HOME": ("home", f"{below}/home"),
        "ETL_SAMPLE_DATA": ("../data", f"{tmp_path}/data"),
        "ETL_RETAIL_SALES_FOLDER": (f"{tmp_path}/sales", f"{tmp_path}/sales"),
        "ETL_LAKE_URL": ("s3://bucket/prefix", "s3://bucket/prefix"),
        "ETL_EVENTDATA_BASELINE": ("none", "none"),
    }
    for name, (value, _) in given.items():
        monkeypatch.setenv(name, value)
    found = runpy.run_path(str(PROJECT / "dev"), run_name="dev")["environment"]()
    assert {name: found[name] for name in given} == {name: path for name, (_, path) in given.items()}
    assert "DAGSTER_HOME" not in found
