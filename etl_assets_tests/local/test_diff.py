"""`./dev diff`: what publications changed, and two lakes side by side."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from etl_assets.local.diff import diff
from etl_assets_tests.datasets.test_treasury import publish, recording
from etl_assets_tests.house import House

TABLE = "refined.state_unemployment_advances"


def test_changes_are_shown_by_key_and_column(
    house: House, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    house.datasets = ("treasury_title_xii",)
    house.publish("2021-08-31")
    assert house.run(), house.failures()
    other = tmp_path / "other"
    shutil.copytree(tmp_path / "lake", other)
    assert diff(TABLE, None, None) == 0
    assert "No publication has changed what an earlier one had published" in capsys.readouterr().out
    assert diff(TABLE, None, str(other)) == 0
    assert "0 rows added, 0 gone and 0 changed in 0 of" in capsys.readouterr().out

    rows = recording(house.data, "2021-08-31")["data"]
    newest = max(rows, key=lambda row: (row["record_date"], int(row["src_line_nbr"])))
    before, newest["interest_paid_amt"] = newest["interest_paid_amt"], "12345.67"
    another = {**newest, "src_line_nbr": "999"}
    publish(house, "2021-09-01", [*rows, another])
    assert house.run(), house.failures()
    assert diff(TABLE, None, None) == 0
    history = capsys.readouterr().out
    assert f"{newest['record_date'][:7]}-01" in history
    assert "interest_paid 1" in history
    assert diff(TABLE, None, str(other)) == 1
    said = capsys.readouterr().out
    assert "1 rows added, 0 gone and 1 changed in 1 of" in said
    key = f"record_date {newest['record_date']}, state_code "
    (line,) = [line for line in said.splitlines() if line.startswith(key)]
    assert line.split()[-3:] == ["interest_paid", "null" if before == "null" else f"{float(before):.2f}", "12345.67"]
    shutil.rmtree(other / "refined" / "state_unemployment_advances")
    assert diff(TABLE, None, str(other)) == 1
    assert f"{len(rows) + 1:,} rows added, 0 gone and 0 changed" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"There is no table refined\.nothing"):
        diff("refined.nothing", None, None)
