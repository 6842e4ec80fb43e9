"""What nobody may see is nowhere, and what a source wrote is text wherever it is shown."""

from __future__ import annotations

import io
import json
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import dagster as dg
import psycopg
import pytest
import yaml
from dagster_shared.serdes import serialize_value
from rich.console import Console

from etl_assets.local.report import report
from etl_assets.local.run import Driver
from etl_assets.settings import PROJECT, settings
from etl_assets_tests.automation.servers import webhook
from etl_assets_tests.datasets.files import county, county_file, publish_counties
from etl_assets_tests.datasets.test_poverty import HISTPOV_PATH
from etl_assets_tests.faults import Fault
from etl_assets_tests.house import House

#: What a source may send that something further on would act upon, were it not text.
HOSTILE = (
    "'); DROP TABLE refined.us_counties; --",
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "=HYPERLINK(\"http://evil\",\"open\")",
    "../../../../etc/passwd",
    "\x1b[31m\x1b]0;title\x07 [bold red]markup[/bold red] {braces} %s $x^2$",
)  # fmt: skip


def hostile_counties() -> bytes:
    """Counties with hostile names, and one whose code is so too, which breaks the contract."""
    named = [county(id=f"060{n:02d}", NAME=name) for n, name in enumerate(HOSTILE)]
    return county_file(*named, county(id=HOSTILE[4]))


def test_no_secret_is_told_and_what_sources_write_is_text(
    house: House, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    sources = urlsplit(str(settings().local_sources_url))
    counties = urlunsplit(
        ("http", f"anna:s3same-0pen@{sources.netloc}", "/us_counties/counties.geojson", "token=qu3ry-t0ken", "")
    )
    with webhook() as hook:
        given = {
            "ETL_US_COUNTIES_URL": counties,
            "ETL_WHO_GHO_URL": "http://anna:0bs3rve@127.0.0.1:9",
            "ETL_CENSUS_KEY": "c3nsus-k3y",
            "ETL_ALERT_WEBHOOK_URL": hook.url,
            "ETL_ALERT_SMTP_URL": "smtp://etl:m41l-pass@127.0.0.1:9",
            "ETL_ALERT_EMAIL_TO": "anna@example.org",
            "AWS_SECRET_ACCESS_KEY": "4ws-s3cret",
            "ETL_LOG_FORMAT": "json",
        }
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        password = str(urlsplit(house.warehouse_url).password)
        secrets = [
            "s3same-0pen",
            "qu3ry-t0ken",
            "0bs3rve",
            "c3nsus-k3y",
            "hush-hush",
            "m41l-pass",
            "4ws-s3cret",
            password,
        ]
        publish_counties(house, hostile_counties())
        house.datasets = ("us_counties",)
        logging = yaml.safe_load((PROJECT / "dagster.yaml").read_text())["python_logs"]
        house.instance = dg.DagsterInstance.ephemeral(settings={"python_logs": logging})
        assert house.run(), house.failures()
        what_sources_write_is_text(house)

        told = [house.printed]
        house.faults.always("/us_counties/counties.geojson", Fault.status(404, HOSTILE[4].encode()))
        house.faults.always(HISTPOV_PATH, Fault.status(400, b"bad key c3nsus-k3y", {"Content-Type": "text/plain"}))
        for key in ("landing/us_counties", "landing/poverty_national", "landing/gho"):
            house.materialize(key, raise_on_error=False)
        with monkeypatch.context() as elsewhere:
            elsewhere.setenv("ETL_WAREHOUSE_URL", f"postgresql://etl:{password}@127.0.0.1:9/warehouse")
            house.materialize("raw/us_counties", raise_on_error=False)
        text = io.StringIO()
        console = Console(file=text, width=200)
        driver = Driver(house.definitions, house.instance, console, house.datasets)
        driver.run()
        report(console, house.instance, driver.specs, driver.outcomes)
        told += [text.getvalue(), alerts(house), *(posted["text"] for posted in hook.posted)]
        assert len(hook.posted) >= 2, hook.posted
    out, err = capfd.readouterr()
    told += [out, err]
    lines_of_json_say_what_they_are_about(out)
    assert "\x1b" not in "".join(told)
    told += [serialize_value(run) for run in house.instance.get_runs()]
    for run in house.instance.get_runs():
        told += [serialize_value(entry) for entry in house.instance.all_logs(run.run_id)]
    told += [str(house.lake.get(path)) for path in house.objects() if path.startswith("landing/") or "json" in path]
    with psycopg.connect(house.warehouse_url) as connection:
        for table in ("etl.publications", "etl.changes", "raw.us_counties", "quarantine.us_counties"):
            told += [str(connection.execute(f"SELECT * FROM {table}".encode()).fetchall())]
    told += [repr(settings()), json.dumps(graph(house))]
    for secret in secrets:
        holders = [text[:300] for text in told if secret in text]
        assert not holders, f"{secret}: {holders}"


def alerts(house: House) -> str:
    """What a tick of the alerts says."""
    from dagster._core.storage.schedules import SqliteScheduleStorage

    storage = SqliteScheduleStorage.from_local(str(house.home / "schedules"))
    storage.register_instance(house.instance)
    house.instance._schedule_storage = storage
    with dg.build_sensor_context(instance=house.instance) as context:
        result = house.definitions.resolve_sensor_def("alerts")(context)
    assert isinstance(result, dg.SkipReason)
    assert "the mail server did not accept the message" in str(result.skip_message)
    return str(result.skip_message)


def graph(house: House) -> dict[str, Any]:
    """Everything that the definitions show of themselves."""
    assets = house.definitions.resolve_asset_graph()
    return {str(key): str(assets.get(key).metadata) for key in assets.materializable_asset_keys}


def what_sources_write_is_text(house: House) -> None:
    names = {name for (name,) in house.sql("SELECT name FROM refined.us_counties")}
    assert set(HOSTILE) <= names
    (row,) = house.sql("SELECT reason, record FROM quarantine.us_counties")
    assert HOSTILE[4] in row[0]
    assert json.loads(row[1])["id"] == HOSTILE[4]
    assert all(".." not in path and "passwd" not in path for path in house.objects())
    event = house.instance.get_latest_materialization_event(dg.AssetKey(["refined", "us_counties"]))
    assert event is not None
    assert event.asset_materialization is not None
    for value in event.asset_materialization.metadata.values():
        if isinstance(value, dg.MarkdownMetadataValue):  # the one kind of metadata that is rendered
            assert "<script>" not in str(value.md_str)
            assert "[bold" not in str(value.md_str)


def lines_of_json_say_what_they_are_about(printed: str) -> None:
    lines = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    (published, *_) = [
        line
        for line in lines
        if line.get("asset") == "refined/us_counties" and line.get("event") == "ASSET_MATERIALIZATION"
    ]
    assert published["dataset"] == "us_counties"
    assert published["stage"] == "refined"
    assert published["rows"] == len(HOSTILE)
    assert len(published["run"]) == 36
    done = [line for line in lines if line.get("event") == "STEP_SUCCESS"]
    assert all(line["seconds"] > 0 for line in done)
    assert {line["asset"] for line in done} >= {"raw/us_counties", "refined/us_counties"}
    failed = [line for line in lines if line.get("event") == "STEP_FAILURE" and line["asset"] == "landing/us_counties"]
    assert "answered HTTP 404" in failed[0]["error"]
    assert failed[0]["level"] == "error"
