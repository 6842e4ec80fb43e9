"""The embedded default: what it shows, from one command to the next."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from etl_assets.local import embedded, ui
from etl_assets.local.recordings import Recordings
from etl_assets.settings import PROJECT, explicit_settings, home, settings


def test_a_folder_of_recordings_is_shown_until_another_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command without the variable does not take the sources back to the project's own sample."""

    def shown(*, may_show: bool = True) -> str:
        url = embedded._start_sources(explicit_settings(), may_show=may_show)
        answer = requests.get(f"{url}/libraries/libraries.csv", timeout=10)
        return answer.text if answer.ok else ""

    def name(folder: Path) -> None:
        monkeypatch.setenv("ETL_SAMPLE_DATA", str(folder))

    for text in ("one", "two"):
        file = tmp_path / text / "libraries" / "2025-01-01" / "libraries.csv"
        file.parent.mkdir(parents=True)
        file.write_text(text)
    try:
        assert shown() == "", "the project's own sample has no libraries"
        name(tmp_path / "one")
        assert shown() == "one"
        monkeypatch.delenv("ETL_SAMPLE_DATA")
        assert shown() == "one"
        name(tmp_path / "two")
        assert shown(may_show=False) == "one", "to ask the warehouse takes nobody's sources to another state"
        before = embedded._versions(embedded.source_server().recordings())
        assert shown() == "two"
        file = tmp_path / "two" / "census" / "2014" / "saipe" / "state_2014.json"
        file.parent.mkdir(parents=True)
        file.write_text("[1]")
        os.utime(file, (0, 0))
        other = file.parents[2] / "2015" / "saipe" / "state_2014.json"
        other.parent.mkdir(parents=True)
        other.write_text("[2]")
        os.utime(other, (0, 0))
        after = embedded._versions(embedded.source_server().recordings())
        assert {name for name in after if after[name] != before[name]} == {"census"}
        embedded._give({"local_versions": after})
        assert settings().local_version("census") == after["census"]
        monkeypatch.setenv("ETL_CENSUS_URL", "http://127.0.0.1:1")
        assert settings().local_version("census") == ""
        monkeypatch.delenv("ETL_CENSUS_URL")
        monkeypatch.delenv("ETL_SAMPLE_DATA")
        (tmp_path / "two").rename(tmp_path / "not mounted")
        for may_show in (True, False):
            with pytest.raises(ValueError, match=r"is gone\. Restore it, or set ETL_SAMPLE_DATA to another"):
                shown(may_show=may_show)
        (tmp_path / "not mounted").rename(tmp_path / "two")
        assert shown() == "two"
        shutil.rmtree(home() / "sample")
        name(home() / "sample")
        assert shown() == ""
        assert (home() / "sample" / "protest_events").is_dir(), "it is written wherever it is named"
        monkeypatch.delenv("ETL_SAMPLE_DATA")
        assert shown() == ""
    finally:
        embedded.source_server().stop()


def test_what_was_published_stays_shown_and_what_is_provided_stays_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another command with the date that was in its environment before does not take the sources back."""
    for name in ("ETL_TOTESYS_URL", "ETL_RETAIL_URL"):
        monkeypatch.setenv(name, "postgresql://127.0.0.1:9/none")
    monkeypatch.setenv("ETL_RETAIL_SALES_FOLDER", str(tmp_path))
    monkeypatch.setenv("ETL_SAMPLE_AS_OF", "2025-03-05")
    try:
        url = embedded._start_sources(explicit_settings())
        embedded._give({"local_sources_url": url, "warehouse_url": "postgresql://127.0.0.1:9/warehouse"})
        embedded.publish("2025-04-04")
        assert settings().database_url("warehouse") == "postgresql://127.0.0.1:9/warehouse", (
            "who reads it next finds it all"
        )
        assert settings().local_version("census")
        embedded._start_sources(explicit_settings())
        assert embedded.source_server().recordings().as_of == "2025-04-04"
        monkeypatch.setenv("ETL_SAMPLE_AS_OF", "2025-03-06")
        embedded._start_sources(explicit_settings())
        assert embedded.source_server().recordings().as_of == "2025-03-06"
    finally:
        embedded.source_server().stop()


def test_a_file_of_sales_that_somebody_has_mended_stays_mended(tmp_path: Path) -> None:
    """Until the sources show another."""
    recorded = tmp_path / "data" / "retail" / "sales_data.csv"
    recorded.parent.mkdir(parents=True)
    recorded.write_text("first")
    file = embedded._drop_sales(Recordings(tmp_path / "data")) / "sales_data.csv"
    assert file.read_text() == "first"
    file.write_text("mended")
    (file.parent / "more.csv").write_text("more")
    embedded._drop_sales(Recordings(tmp_path / "data"))
    assert file.read_text() == "mended"
    file.unlink()
    embedded._drop_sales(Recordings(tmp_path / "data"))
    assert not file.exists()
    recorded.write_text("second")
    embedded._drop_sales(Recordings(tmp_path / "data"))
    assert file.read_text() == "second"
    assert (file.parent / "more.csv").read_text() == "more"


def test_a_command_with_other_variables_takes_nothing_from_a_ui(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only where the publishers are to be asked, no embedded source is left."""
    for name in ("WAREHOUSE", "DAGSTER_STORAGE", "TOTESYS", "RETAIL"):
        monkeypatch.setenv(f"ETL_{name}_URL", "postgresql://127.0.0.1:9/own")
    monkeypatch.setenv("ETL_LOCAL_SOURCES_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("ETL_RETAIL_SALES_FOLDER", str(tmp_path))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    provided = {"warehouse_url": "postgresql://127.0.0.1:8/w", "totesys_url": "postgresql://127.0.0.1:8/t"}
    home().mkdir(parents=True)
    embedded._give(provided)
    for may_show in (False, True):
        embedded.up(may_show=may_show)
        assert embedded._given() == provided
    monkeypatch.setenv("ETL_SOURCES", "live")
    embedded.up(may_show=False)
    assert embedded._given() == provided
    embedded.up()
    assert embedded._given() == {"warehouse_url": "postgresql://127.0.0.1:8/w"}


def test_a_folder_whose_name_means_something_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dagster would not find its settings there, and send statistics somewhere."""
    monkeypatch.setenv("ETL_HOME", str(tmp_path / "home [1]"))
    with pytest.raises(ValueError, match=r"home \[1\] has \[ \] in its name.* Set ETL_HOME to a folder without it"):
        embedded.up()
    assert not home().exists()


def test_what_a_killed_ui_has_left_is_ended_and_nothing_else(tmp_path: Path) -> None:
    """Its daemon would go on beside the next one's, and take the runs of that for dead."""
    own, other = (
        subprocess.Popen(["sleep", "60"], env={"ETL_UI": str(folder / "ui")}) for folder in (home(), tmp_path / "other")
    )
    try:
        ui.end()
        assert own.wait(10) == -signal.SIGTERM
        assert other.poll() is None
    finally:
        for process in (own, other):
            process.kill()
            process.wait()


def test_a_ui_on_a_port_that_is_taken_says_so() -> None:
    home().mkdir(parents=True)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(RuntimeError, match=rf"Port {port} cannot be used .Address already in use.. Choose another"):
            ui.serve(port)


def test_a_checkout_may_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dagster's settings are found where the project is now."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    (tmp_path / "dagster.yaml").symlink_to(tmp_path / "where it was" / "dagster.yaml")
    embedded._make_dagster_home()
    assert (tmp_path / "dagster.yaml").resolve() == PROJECT / "dagster.yaml"


def test_what_stands_in_a_file_is_in_the_environment_of_a_command(tmp_path: Path) -> None:
    """Also what only the environment is asked for; what is in the environment already is above it."""
    (tmp_path / ".env").write_text("ETL_HOME=own\nAWS_ENDPOINT_URL=http://127.0.0.1:9\nAWS_REGION=eu-west-1\n")
    show = "import os; from etl_assets.local.__main__ import main; main(['down']); from etl_assets.settings import home"
    show += "; print(home(), os.environ['AWS_ENDPOINT_URL'], os.environ['AWS_REGION'])"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("ETL_", "AWS_"))}
    environment = inherited | {"PYTHONPATH": str(PROJECT), "AWS_REGION": "us-east-1"}
    done = subprocess.run(
        [sys.executable, "-c", show], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1].split() == [str(tmp_path / "own"), "http://127.0.0.1:9", "us-east-1"]


def test_a_second_ui_is_refused_and_the_first_can_be_ended(tmp_path: Path) -> None:
    """The lock outlives that another program takes the process over, and goes with it."""
    hold = "import os, sys; from etl_assets.local import ui; ui._hold('http://127.0.0.1:1')"
    hold += "; os.execv(sys.executable, [sys.executable, '-c', 'import time; print(1, flush=True); time.sleep(60)'])"
    home().mkdir()
    environment = os.environ | {"ETL_HOME": str(home()), "PYTHONPATH": str(PROJECT)}
    assert ui.running() is None
    with subprocess.Popen([sys.executable, "-c", hold], env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline()
        assert ui.running() == (process.pid, "http://127.0.0.1:1")
        with pytest.raises(RuntimeError, match=r"is already running at http://127\.0\.0\.1:1; stop it"):
            ui.serve(2)
        ui.end()
        assert process.wait(10) != 0
    assert ui.running() is None
    ui.end()
