"""The settings: where they come from, and what they do not show."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from etl_assets.automation.json_logs import JsonLines
from etl_assets.logs import Messages, plain
from etl_assets.settings import NotConfiguredError, explicit_settings, home, settings
from etl_assets.storage.lake import Lake


def test_the_environment_is_above_what_the_embedded_default_wrote(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "local.json").write_text(json.dumps({"warehouse_url": "postgresql://embedded/w"}))
    assert settings().database_url("warehouse") == "postgresql://embedded/w"
    assert explicit_settings().warehouse_url is None
    monkeypatch.setenv("ETL_WAREHOUSE_URL", "postgresql://own/w")
    assert settings().database_url("warehouse") == "postgresql://own/w"


def test_passwords_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ETL_WAREHOUSE_URL", "ETL_DAGSTER_STORAGE_URL", "ETL_CENSUS_KEY"):
        monkeypatch.setenv(name, "postgresql://u:sesame@host/db")
    assert "sesame" not in repr(settings())


def test_of_a_secret_that_holds_another_nothing_is_left() -> None:
    assert plain("it is sesame-street", secrets=["sesame", "sesame-street"]) == "it is ***"
    assert plain("it is sesame-street", secrets=["sesame-street", "sesame"]) == "it is ***"


@pytest.mark.parametrize(
    "address",
    ["postgresql://u:sesame@host/db", "postgresql://u@host/db?password=sesame", "host=h user=u password=sesame"],
)
def test_a_password_is_known_wherever_an_address_has_it(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETL_TOTESYS_URL", address)
    assert "sesame" in settings().secrets()


def test_the_address_of_a_source(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotConfiguredError, match=r"\./dev up"):
        settings().source_url("ccc", local="ccc/a.csv", live="https://live/a.csv")
    monkeypatch.setenv("ETL_LOCAL_SOURCES_URL", "http://127.0.0.1:1")
    assert settings().source_url("ccc", local="ccc/a.csv", live="https://live/a.csv") == "http://127.0.0.1:1/ccc/a.csv"
    monkeypatch.setenv("ETL_SOURCES", "live")
    assert settings().source_url("ccc", local="ccc/a.csv", live="https://live/a.csv") == "https://live/a.csv"
    monkeypatch.setenv("ETL_CCC_URL", "https://mine/a.csv")
    assert settings().source_url("ccc", local="ccc/a.csv", live="https://live/a.csv") == "https://mine/a.csv"


def test_a_variable_that_is_empty_hides_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("ETL_CCC_URL=https://mine/a.csv\nETL_CENSUS_KEY=mine\n")
    monkeypatch.setenv("ETL_CCC_URL", "")
    monkeypatch.setenv("ETL_CENSUS_KEY", "")
    assert settings().source_url("ccc", local="ccc/a.csv", live=None) == "https://mine/a.csv"
    assert settings().census_key == SecretStr("mine")


def test_a_database_of_ones_own_needs_no_setting_but_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotConfiguredError, match="ETL_CRM_URL is not set"):
        settings().database_url("crm")
    monkeypatch.setenv("ETL_CRM_URL", "postgresql://u:sesame@host/crm")
    assert settings().database_url("crm") == "postgresql://u:sesame@host/crm"
    assert "sesame" not in repr(settings())


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("ETL_SOURCES", "sesame", "ETL_SOURCES: Input should be 'local' or 'live'"),
        ("ETL_HTTP_ATTEMPTS", "sesame", "ETL_HTTP_ATTEMPTS: Input should be a valid integer"),
        (
            "ETL_DAGSTER_STORAGE_URL",
            "host=db password=sesame",
            "ETL_DAGSTER_STORAGE_URL: .*not a PostgreSQL address",
        ),
        ("ETL_LAKE_URL", "s3://AKIA:sesame@lake/p", "ETL_LAKE_URL: .*no user and password here"),
    ],
)
def test_a_wrong_value_is_told_by_its_variable(
    name: str, value: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(NotConfiguredError, match=why) as told:
        settings()
    assert "sesame" not in str(told.value)


def test_a_secret_with_quotes_is_in_no_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """In JSON it is written otherwise."""
    monkeypatch.setenv("ETL_CENSUS_KEY", 'pa"ss\\word')
    record = logging.LogRecord("etl_assets", logging.ERROR, "", 1, 'the key pa"ss\\word is wrong', None, None)
    assert json.loads(JsonLines().format(record))["message"] == "the key *** is wrong"


def test_what_is_logged_for_people_has_no_secret_and_nothing_that_acts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETL_CENSUS_KEY", "sesame")
    record = logging.LogRecord("etl_assets", logging.ERROR, "", 1, "%s", ("\x1b[31mopen sesame",), None)
    try:
        raise ValueError("no sesame")
    except ValueError:
        record.exc_info = sys.exc_info()
    told = Messages().format(record)
    assert told.startswith("\ufffd[31mopen ***\nTraceback")
    assert told.endswith("ValueError: no ***")


def test_the_lake_is_in_the_home_whatever_that_is_called(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ETL_HOME", str(tmp_path / "clone #1, 100%41?"))
    assert Lake(settings().lake_url).folder == home() / "lake"
