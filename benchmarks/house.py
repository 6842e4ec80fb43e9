"""A whole house to measure: lake, warehouse and sources of its own, and a Dagster instance.

As a program (`python -m benchmarks.house RUN.json ASSET …`) it makes assets one after another in a process of its
own, the partitioned ones over all days of the events, and writes down how long that took and how much memory it had.
Its settings are in the environment, as ever (`ETL_…`).
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
from rich.console import Console

from benchmarks.measure import Stopwatch
from etl_assets.definitions import defs
from etl_assets.local.in_process import execute
from etl_assets.local.report import Outcome
from etl_assets.local.run import Driver
from etl_assets.settings import PROJECT
from etl_assets.stages.dataset import SPECS
from etl_assets.storage.dagster_storage import at_a_terminal


@dataclass
class House:
    """What `./dev run` runs in; `settings` are its stores and sources, see `environment`."""

    instance: dg.DagsterInstance
    settings: dict[str, str]
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def run(self) -> None:
        """What `./dev run protest_events` does; raises an error if not all of it is up to date afterwards."""
        os.environ.update(self.settings)
        driver = Driver(defs, self.instance, Console(file=io.StringIO()), ["protest_events"])
        done = driver.run()
        self.outcomes = driver.outcomes
        if not done:
            failures = [f"{name}: {text}" for name, o in self.outcomes.items() for text in o.failures]
            raise RuntimeError("; ".join(failures) or "something is still out of date")


@contextmanager
def instance_of(home: Path, storage: str | None = None) -> Generator[dg.DagsterInstance]:
    """An instance with the project's own dagster.yaml, for a process at a terminal as `./dev run` is.

    `storage` is the database of Dagster's own storage; without it, the one that is in the environment.
    """
    if storage is not None:
        os.environ["ETL_DAGSTER_STORAGE_URL"] = storage
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "dagster.yaml").exists():
        (home / "dagster.yaml").symlink_to(PROJECT / "dagster.yaml")
    os.environ["DAGSTER_HOME"] = str(home)
    with at_a_terminal(), dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


def environment(url: str, lake: Path, sources: str = "") -> dict[str, str]:
    """The settings of a house; `sources` is the local source server, if it is to be asked."""
    return {
        "ETL_HOME": str(lake.parent / "home"),
        "ETL_WAREHOUSE_URL": url,
        "ETL_LAKE_URL": str(lake),
        "ETL_LOCAL_SOURCES_URL": sources,
        "ETL_SOURCES": "local",  # whatever `.env` says
    }


def materialize(instance: dg.DagsterInstance, assets: Sequence[str], days: Sequence[str] = ()) -> None:
    """Make assets one after another; those with partitions for these days, as many in a run as their dataset says."""
    for asset in assets:
        key = dg.AssetKey.from_user_string(asset)
        spec = SPECS[key]
        size = spec.dataset.batch
        for batch in [days[n : n + size] for n in range(0, len(days), size)] if spec.partitions else [()]:
            execute(defs, instance, [key], {}, partitions=batch, raise_on_error=True)


def prepare(home: Path, storage: str, settings: dict[str, str], assets: Sequence[str]) -> None:
    """Make assets without partitions in this process: the starting point of a measured one."""
    os.environ.update(settings)
    with instance_of(home, storage) as instance:
        materialize(instance, assets)


def main(run: str, first_day: str, last_day: str, *assets: str) -> None:
    """Make assets, and write down what it took."""
    span = dg.PartitionKeyRange(first_day, last_day)
    days = dg.DailyPartitionsDefinition(first_day).get_partition_keys_in_range(span)
    defs.resolve_implicit_global_asset_job_def()  # as a worker has it before it gets a run
    with instance_of(Path(run).parent / "dagster") as instance, Stopwatch(Path(run)) as watch:
        for asset in assets:
            materialize(instance, [asset], days)
            watch.part(asset)


if __name__ == "__main__":
    main(*sys.argv[1:])
