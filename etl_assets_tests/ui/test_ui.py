"""What a person does in the Dagster UI, done in headless Chromium on what `./dev ui` starts.

Everything is up to date to begin with, so the sensors, which run, have nothing to start: every run is a click's.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from etl_assets.local.databases import DATABASES, show
from etl_assets.local.postgres import Cluster
from etl_assets.local.recordings import Recordings
from etl_assets.settings import PROJECT
from etl_assets.stages.dataset import SPECS
from etl_assets_tests.local.commands import Dev

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.ui,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)"),
]

#: As root there is no sandbox; the rest keeps Chromium from talking to anybody but the UI.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 120.0
ENDED = ("SUCCESS", "FAILURE", "CANCELED")
GROUPS = ("us_counties", "protest_events", "eventdata_baseline")
SOURCES = {f"{spec.key.path[-1]}_source" for spec in SPECS.values() if spec.source}
EVENTS, MONTHLY = "refined/protest_events", "presentation/county_protests_monthly"

RUNS = """query($id: String!) { runsOrError(filter: {tags: [{key: "dagster/backfill", value: $id}]}) { ... on Runs {
    results { status tags { key value } } } } }"""
MATERIALIZATIONS = """query($path: [String!]!, $partitions: [String!]) { assetOrError(assetKey: {path: $path}) {
    ... on Asset { assetMaterializations(partitions: $partitions) { runId } } } }"""
BACKFILLS = """{ partitionBackfillsOrError { ... on PartitionBackfills {
    results { id status numPartitions assetSelection { path } } } } }"""
TICKS = """{ sensorsOrError(
    repositorySelector: {repositoryName: "__repository__", repositoryLocationName: "etl_assets"}) { ... on Sensors {
     results { name sensorState { status ticks { status skipReason error { message } } } } } } }"""


@dataclass(frozen=True)
class Ui:
    """A running Dagster UI and the warehouse behind it."""

    url: str
    warehouse_url: str

    def ask(self, query: str, **variables: Any) -> Any:
        """The one field that a GraphQL query asks for."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as response:
            (field,) = json.load(response)["data"].values()
        return field

    def runs_of(self, key: str, partition: str | None = None) -> list[str]:
        """The runs that materialized an asset or one of its partitions, newest first."""
        partitions = None if partition is None else [partition]
        found = self.ask(MATERIALIZATIONS, path=key.split("/"), partitions=partitions)
        return [event["runId"] for event in found["assetMaterializations"]]

    def loaded_by(self, asset: str, partition: str) -> str:
        """The run that published a partition in the warehouse."""
        query = "SELECT run_id FROM etl.publications WHERE asset = %s AND partition = %s"
        with psycopg.connect(self.warehouse_url) as connection:
            row = connection.execute(query, (asset, partition)).fetchone()
        assert row is not None
        return str(row[0])


@pytest.fixture(scope="module")
def ui(cluster: Cluster, sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    """The UI that `./dev ui` opens, on a warehouse where `./dev run` has made everything."""
    folder, date = tmp_path_factory.mktemp("ui"), "2025-03-05"
    sources, names = {source: f"ui_{source}" for source in DATABASES}, ("ui_warehouse", "ui_dagster")
    warehouse, storage = map(cluster.create_database, names)
    settings = {
        "ETL_WAREHOUSE_URL": warehouse,
        "ETL_DAGSTER_STORAGE_URL": storage,
        "ETL_SAMPLE_DATA": str(sample),
        "ETL_SAMPLE_AS_OF": date,
        **{
            f"ETL_{source.upper()}_URL": show(cluster, source, Recordings(sample, date), database=name)
            for source, name in sources.items()
        },
    }
    dev, port, log = Dev(folder, settings), free_port(), folder / "ui.log"
    try:
        code, printed = dev.do("run")
        assert code == 0, printed
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "etl_assets.local", "ui", "--port", str(port)], env=dev.environment(),
                cwd=PROJECT, start_new_session=True, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
        try:
            yield answering(Ui(f"http://127.0.0.1:{port}", warehouse), process, log)
        finally:
            end(process)
    finally:
        dev.do("down")
        for name in (*names, *sources.values()):
            cluster.drop_database(name)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answering(ui: Ui, process: subprocess.Popen[bytes], log: Path) -> Ui:
    """The UI, once it answers and knows the sensors."""

    def loaded() -> bool:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            return bool(ui.ask(TICKS).get("results"))
        except OSError:
            return False

    until(loaded)
    return ui


def end(process: subprocess.Popen[bytes]) -> None:
    """End `dagster dev` and all that it has started."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def until(condition: Any) -> Any:
    """What a condition comes to, as soon as that is something."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, f"nothing in {PATIENCE} s"
        time.sleep(0.5)
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium."""
    expect.set_options(timeout=PATIENCE * 1000)  # a context's timeout is not that of what is expected: 5 s
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of a person who has not been here before."""
    context = browser.new_context(viewport={"width": 1600, "height": 1000})
    context.set_default_timeout(PATIENCE * 1000)
    yield context.new_page()
    context.close()


def dialog_to_materialize(page: Page, ui: Ui, partition: str) -> Locator:
    """Open the dialog that asks which days of the events to make, from the page of one of them."""
    page.goto(f"{ui.url}/assets/{EVENTS}?view=partitions&partition={partition}")
    expect(page.get_by_text(partition).last).to_be_visible()
    page.get_by_role("button", name="Materialize").first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("Partition selection")).to_be_visible()
    return dialog


@pytest.mark.long
def test_a_person_materializes_in_the_ui(ui: Ui, browser: Browser, page: Page) -> None:
    """A range first: the backfill daemon looks every 30 s, and the rest is done meanwhile."""
    days = ["2025-02-11", "2025-02-12", "2025-02-13"]
    before = {day: ui.runs_of(EVENTS, day) for day in [*days, "2025-02-20"]}

    dialog = dialog_to_materialize(page, ui, days[0])
    dialog.get_by_role("button", name="Show all partitions").click()
    field = dialog.locator("input[type=text]").first
    field.fill(f"[{days[0]}...{days[-1]}]")
    field.press("Enter")
    expect(dialog.get_by_text("3 partitions").first).to_be_visible()
    dialog.get_by_role("button", name="Launch").click()
    (backfill,) = until(lambda: ui.ask(BACKFILLS)["results"])
    assert backfill["numPartitions"] == 3

    the_graph_has_the_groups(page, ui)

    # One day, by a click on its own page.
    dialog_to_materialize(page, ui, "2025-02-20").get_by_role("button", name="Launch 1 run").click()
    run = until(lambda: set(ui.runs_of(EVENTS, "2025-02-20")) - set(before["2025-02-20"]))
    assert len(run) == 1

    # A whole asset, and the map that comes with it.
    (made,) = ui.runs_of(MONTHLY)
    page.goto(f"{ui.url}/assets/{MONTHLY}?view=events")
    page.get_by_role("button", name="Materialize").first.click()
    until(lambda: ui.runs_of(MONTHLY) != [made])
    the_map_is_shown(page, ui)

    # The run that the backfill comes to; the backfill itself is called completed up to half a minute later.
    (run_of_all,) = until(lambda: [r for r in ui.ask(RUNS, id=backfill["id"])["results"] if r["status"] in ENDED])
    assert run_of_all["status"] == "SUCCESS"
    tags = {tag["key"]: tag["value"] for tag in run_of_all["tags"]}
    assert tags["dagster/asset_partition_range_start"] == days[0]
    assert tags["dagster/asset_partition_range_end"] == days[-1]
    for day in days:
        assert len(ui.runs_of(EVENTS, day)) == len(before[day]) + 1

    # The same content again: the warehouse still has what `./dev run` published.
    for day in before:
        assert ui.loaded_by("refined.protest_events", day) == before[day][-1]
    the_sensors_work(ui)


def the_graph_has_the_groups(page: Page, ui: Ui) -> None:
    """One group a dataset, and within it the stages."""
    page.goto(f"{ui.url}/asset-groups")
    for group in GROUPS:
        expect(page.get_by_text(group, exact=True).first).to_be_visible()
    page.goto(f"{ui.url}/locations/__repository__@etl_assets/asset-groups/us_counties/lineage")
    # Its name is in the page's title, and on each of its three assets.
    expect(page.locator(":text-is('us_counties'):visible").nth(3)).to_be_visible()


def the_map_is_shown(page: Page, ui: Ui) -> None:
    """In a dialog: Dagster shows long Markdown on demand."""
    page.goto(f"{ui.url}/assets/{MONTHLY}?view=events")
    page.get_by_text("Show Markdown").first.click()
    picture = page.get_by_role("dialog").locator("img[alt='Protest events per county']")
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.naturalWidth") > 300


def the_sensors_work(ui: Ui) -> None:
    """Each has looked, and none had an error or found something to do."""
    sensors = {sensor["name"]: sensor["sensorState"] for sensor in ui.ask(TICKS)["results"]}
    assert sensors.keys() > SOURCES | {"downstream"}
    for name, state in sensors.items():
        assert state["status"] == "RUNNING"
        ended = [tick for tick in state["ticks"] if tick["status"] != "STARTED"]
        assert {tick["status"] for tick in ended} == {"SKIPPED"}, (name, ended)
        assert name not in SOURCES or all(tick["skipReason"].startswith("Nothing new") for tick in ended), ended
