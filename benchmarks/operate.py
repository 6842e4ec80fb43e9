"""`operate`: what running it costs, beside Dagster's own floor: assets that do nothing, in the same instance.

- a run: an asset that is up to date already, made again, so that nothing is written;
- a backfill of a year of days through the four stages, in the dataset's batches, beside one run a day;
- ticks: the event file's sensor, and the automation of every asset, over ten years of days;
- the event log: bytes that a thousand partitions leave there;
- the UI: an asset's page with ten years of partitions, in headless Chromium.

Dagster's storage is PostgreSQL, as in the embedded default. The runs of a backfill are processes of their own, as the
launcher starts them (`python -m benchmarks.operate FIRST LAST`); what the queue adds to each is not in the figures.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator, Sequence
from datetime import date

import dagster as dg
import psycopg

from benchmarks.ground import Ground
from benchmarks.house import environment, instance_of, materialize
from benchmarks.measure import Ratio, Report, Run, interleave, timed
from etl_assets.automation.partitions import daily
from etl_assets.automation.sensors import source_sensors
from etl_assets.definitions import defs
from etl_assets.local.in_process import execute
from etl_assets.local.source_server import serve
from etl_assets.settings import PROJECT
from etl_assets.stages.dataset import SPECS

#: Ten years of days, on which all events lie, and the year of them that is made again.
FIRST_DAY, YEAR = date(2017, 1, 1), date(2024, 1, 1)
DAYS, QUICK_DAYS = 3650, 8
BACKFILL_DAYS, QUICK_BACKFILL_DAYS, SINGLE_DAYS = 365, 2, 12
PUBLISHED = "2027-01-01"
LANDED = ("landing/us_counties", "raw/us_counties", "refined/us_counties", "landing/eventdata_baseline",
          "raw/eventdata_baseline", "refined/eventdata_baseline", "landing/protest_events",
          "raw/protest_events")  # fmt: skip
STAGES = ("refined/protest_events", "presentation/eventdata")
SMALL = "refined/eventdata_baseline"
_KEYS = [dg.AssetKey.from_user_string(asset) for asset in STAGES]
#: Reaches as far as the calendar of the events, which includes the days that they are announced for.
_CALENDAR = daily(FIRST_DAY.isoformat(), ahead=366)
_PATIENCE_MS = 120_000


@dg.asset(name="nothing")
def nothing() -> None:
    """An asset that does nothing."""


@dg.asset(
    name="nothing_daily",
    partitions_def=_CALENDAR,
    backfill_policy=dg.BackfillPolicy.multi_run(BACKFILL_DAYS),
    automation_condition=dg.AutomationCondition.missing().newly_true(),
)
def nothing_daily() -> None:
    """A daily asset that does nothing."""


FLOOR = dg.Definitions(
    assets=[nothing, nothing_daily],
    sensors=[dg.AutomationConditionSensorDefinition("downstream", target="*", use_user_code_server=True)],
)


def run(ground: Ground, sizes: Sequence[int], *, quick: bool) -> Report:
    """Measure."""
    (rows,) = sizes
    days = QUICK_DAYS if quick else DAYS
    calendar = _CALENDAR.get_partition_keys()
    first = calendar.index((FIRST_DAY if quick else YEAR).isoformat())
    year = calendar[first : first + (QUICK_BACKFILL_DAYS if quick else BACKFILL_DAYS)]
    report = Report("operate", f"{rows:,} events of {days} days, {len(year)} of which are made again")
    data = ground.publications(rows, days, first_day=FIRST_DAY, published=PUBLISHED, quick=quick)
    with ground.database() as url, ground.database() as storage, serve(data) as sources:
        os.environ.update(environment(url, ground.folder / "operate" / "lake", sources))
        with instance_of(ground.folder / "operate" / "dagster", storage) as instance:
            _prepare(instance, calendar[:days])
            _runs(ground, report, instance)
            _backfill(ground, report, instance, year)
            _ticks(ground, report, instance)
            _event_log(report, instance, storage, year)
            if not quick:
                _page(ground, report)
    shutil.rmtree(ground.folder / "operate")
    return report


def _prepare(instance: dg.DagsterInstance, days: Sequence[str]) -> None:
    """Make everything once, for ten years of days, and an asset that does nothing for as many."""
    materialize(instance, [*LANDED, *STAGES], days)
    _floor(instance, "nothing_daily", days)


def _floor(instance: dg.DagsterInstance, name: str, days: Sequence[str] = ()) -> None:
    """Make an asset that does nothing."""
    execute(FLOOR, instance, [dg.AssetKey(name)], {}, partitions=days, raise_on_error=True)


def _runs(ground: Ground, report: Report, instance: dg.DagsterInstance) -> None:
    ours, floor = "a run of one asset, nothing changed", "a run of an asset that does nothing"
    cases = {
        ours: lambda: timed(lambda: materialize(instance, [SMALL])),
        floor: lambda: timed(lambda: _floor(instance, "nothing")),
    }
    report.runs |= interleave(cases, ground.rounds, ground.console)
    report.ratios.append(Ratio("a run of one asset over Dagster's floor", report.over(ours, floor)))


def _backfill(ground: Ground, report: Report, instance: dg.DagsterInstance, year: Sequence[str]) -> None:
    batch, single = f"backfill of {len(year)} days, in batches", f"backfill of {len(year)} days, a run a day"
    floor = f"backfill of {len(year)} days of an asset that does nothing, one run"
    size, sampled = SPECS[_KEYS[0]].dataset.batch, year[:: max(2, len(year) // SINGLE_DAYS)]

    def in_runs(runs: Sequence[Sequence[str]]) -> Run:
        return timed(lambda: list(map(_work, runs)))

    def days() -> Run:
        return Run(in_runs([[day] for day in sampled]).seconds * len(year) / len(sampled))

    cases = {
        batch: lambda: in_runs([year[n : n + size] for n in range(0, len(year), size)]),
        single: days,
        floor: lambda: timed(lambda: _floor(instance, "nothing_daily", year)),
    }
    report.runs |= interleave(cases, ground.rounds, ground.console)
    report.ratios.append(
        Ratio("a backfill in batches is so many times faster than a run a day", report.over(single, batch), at_least=20)
    )
    report.notes.append(
        f"A run a day is measured on {len(sampled)} of the {len(year)} days. Each run of a backfill is a process."
    )


def _work(days: Sequence[str]) -> None:
    """A run of the stages for contiguous days, in a process of its own."""
    subprocess.run([sys.executable, "-m", "benchmarks.operate", days[0], days[-1]], cwd=PROJECT, check=True)


def _ticks(ground: Ground, report: Report, instance: dg.DagsterInstance) -> None:
    sensor = next(s for s in source_sensors() if s.name == "protest_events_source")

    def look() -> object:
        with dg.build_sensor_context(instance=instance, repository_def=defs.get_repository_def()) as context:
            return sensor(context)

    def tick(definitions: dg.Definitions, cursor: str | None = None) -> str | None:
        repository = definitions.get_repository_def()
        with dg.build_sensor_context(instance=instance, repository_def=repository, cursor=cursor) as context:
            return repository.get_sensor_def("downstream").evaluate_tick(context).cursor

    logging.disable(logging.INFO)  # a tick logs every day that it requests
    cursor, floor_cursor = tick(defs), tick(FLOOR)
    ours, floor = "automation tick, every asset", "automation tick, one asset that does nothing"
    cases = {
        "sensor tick, event file": lambda: timed(look),
        ours: lambda: timed(lambda: tick(defs, cursor)),
        floor: lambda: timed(lambda: tick(FLOOR, floor_cursor)),
    }
    report.runs |= interleave(cases, ground.rounds, ground.console)
    logging.disable(logging.NOTSET)
    assets = len(list(defs.resolve_asset_graph().materializable_asset_keys))
    each = report.seconds(ours) / assets / report.seconds(floor)
    report.ratios.append(Ratio("automation tick per asset over Dagster's floor", each))


def _event_log(report: Report, instance: dg.DagsterInstance, storage: str, year: Sequence[str]) -> None:
    def size() -> int:
        query = "SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relkind = 'r' AND relnamespace = 2200"
        with psycopg.connect(storage, autocommit=True) as connection:
            connection.execute("VACUUM FULL")
            found = connection.execute(query).fetchone()
        assert found
        return int(found[0])

    before = size()
    materialize(instance, STAGES[:1], year)
    between = size()
    _floor(instance, "nothing_daily", year)
    after = size()
    ours, floor = ((b - a) * 1000 / len(year) / 1e6 for a, b in ((before, between), (between, after)))
    report.ratios.append(Ratio("event log growth over Dagster's floor", ours / floor))
    report.notes.append(f"1,000 partitions of refined.protest_events leave {ours:.1f} MB in Dagster's storage, "
                        f"of an asset that does nothing {floor:.1f} MB.")  # fmt: skip


def _page(ground: Ground, report: Report) -> None:
    """Load an asset's page in a browser, until its partitions are shown."""
    chromium = shutil.which("chromium")
    if chromium is None:
        report.notes.append("The UI's page: not measured, there is no Chromium (Debian: apt-get install chromium).")
        return
    from playwright.sync_api import sync_playwright

    with _webserver() as url, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])

        def load() -> None:
            page = browser.new_page()
            page.goto(f"{url}/assets/refined/protest_events?view=partitions", timeout=_PATIENCE_MS)
            page.get_by_text("Materialized", exact=False).first.wait_for(timeout=_PATIENCE_MS)
            page.close()

        report.runs |= interleave(
            {"UI: an asset's page with its partitions": lambda: timed(load)}, ground.rounds, ground.console
        )
        browser.close()


@contextlib.contextmanager
def _webserver() -> Generator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    where = ["-h", "127.0.0.1", "-p", str(port), "-w", str(PROJECT / "workspace.yaml")]
    process = subprocess.Popen(
        [sys.executable, "-m", "dagster_webserver", *where],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        url, until = f"http://127.0.0.1:{port}", time.monotonic() + _PATIENCE_MS / 1000
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/server_info", timeout=5):
                break
            assert time.monotonic() < until, "the webserver does not answer"
            time.sleep(0.2)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def main(first: str, last: str) -> None:
    """What a run's process does."""
    span = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
    with dg.DagsterInstance.get() as instance:
        execute(defs, instance, _KEYS, span, raise_on_error=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
