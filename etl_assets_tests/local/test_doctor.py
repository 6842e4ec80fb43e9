"""`./dev doctor`: says that nothing is wrong where nothing is, and of what is wrong where it is and how to mend it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from dagster_postgres.utils import DagsterPostgresException

from etl_assets.automation.problems import Problem
from etl_assets.local import doctor as module
from etl_assets.local.databases import DATABASES
from etl_assets.local.doctor import Finding, doctor
from etl_assets.local.postgres import Cluster
from etl_assets_tests.faults import Fault
from etl_assets_tests.house import House


def test_what_is_wrong_is_said_with_what_to_do(
    house: House,
    cluster: Cluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = urlsplit(house.warehouse_url).path[1:] + "_dagster"
    monkeypatch.setenv("ETL_DAGSTER_STORAGE_URL", cluster.create_database(name))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home" / "dagster"))
    monkeypatch.setenv("ETL_HTTP_ATTEMPTS", "1")
    for source in DATABASES:
        house.open_database(source)
    assert doctor() == 0
    said = capsys.readouterr().out
    assert "Nothing is wrong." in said
    assert "ok    packages: as in the lock file" in said
    assert "ok    schemas: the first run creates them" in said
    assert "note  alerts: go to nobody" in said
    assert house.objects() == {}, "what it wrote is gone"

    broken = Problem("the tick fails", "sensor x", "It broke", "Mend it", "/")
    warning = replace(broken, kind="a check fails", is_warning=True)
    monkeypatch.setattr(module, "problems", lambda _: [broken, warning])
    assert doctor() == 1
    said = capsys.readouterr().out
    assert "wrong sensor x: the tick fails: It broke. Mend it" in said
    assert "note  sensor x: a check fails: It broke. Mend it" in said
    assert "Wrong: 1 of " in said

    folder = tmp_path / "no-folder"
    folder.write_text("a file where the lake should be")
    (tmp_path / "home" / "local.json").chmod(0o644)
    house.faults.always("/protest_events/ccc.csv", Fault.status(404, b"\x1b[31m[bold]gone[/bold]"))
    monkeypatch.setenv("ETL_LAKE_URL", str(folder))
    monkeypatch.setenv("ETL_WAREHOUSE_URL", "postgresql://etl:hunter22@127.0.0.1:9/warehouse")
    monkeypatch.setenv("ETL_ALERT_EMAIL_TO", "anna@example.org")
    monkeypatch.setattr(module, "_FREE_BYTES", 1 << 60)
    assert doctor() == 1
    said = capsys.readouterr().out
    for wrong in (
        f"wrong permissions: {tmp_path}/home/local.json can be read by other users, and may hold passwords. chmod 600",
        "GB free. Free some space, for example with ./dev clean",
        "wrong The warehouse: The warehouse at 127.0.0.1:9/warehouse cannot be reached",
        "wrong The lake:",
        "wrong source of protest_events: ",
        "wrong alerts: Alerts by e-mail need both: ETL_ALERT_SMTP_URL",
    ):
        assert wrong in said, said
    assert "\x1b" not in said
    assert "hunter22" not in said
    cluster.drop_database(name)


def test_an_examination_that_fails_is_a_finding() -> None:
    """Whatever it stumbles over: what is wrong elsewhere is to be seen, too."""

    def fails() -> Iterator[Finding]:
        """Dagster's own storage."""
        raise DagsterPostgresException("too many retries for DB connection")
        yield

    [found] = module._examined(fails)
    assert (found.about, found.said) == ("Dagster's own storage", "too many retries for DB connection")
    assert found.is_wrong


def test_a_clock_that_is_wrong_is_said() -> None:
    now = dt.datetime.now(dt.UTC)
    assert not module._clock("the warehouse", now).is_wrong
    found = module._clock("the warehouse", now - dt.timedelta(hours=1))
    assert found.is_wrong
    assert found.said in [f"differs by {seconds} s from that of the warehouse" for seconds in (3600, 3601)]
