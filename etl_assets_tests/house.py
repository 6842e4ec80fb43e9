"""A whole house for one test: its own lake, warehouse, sources and Dagster instance, all real."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sqlite3
import uuid
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dagster as dg
import polars as pl
import psycopg
from dagster._core.storage.event_log import SqlEventLogStorage
from dagster._core.storage.runs import SqlRunStorage
from rich.console import Console
from sqlalchemy import QueuePool, create_engine

from etl_assets.definitions import defs
from etl_assets.local.databases import show
from etl_assets.local.in_process import execute
from etl_assets.local.postgres import Cluster
from etl_assets.local.recordings import Recordings
from etl_assets.local.report import Outcome, report
from etl_assets.local.run import Driver
from etl_assets.stages.run_tags import RunPartitions
from etl_assets.storage.configured import lake
from etl_assets.storage.lake import Lake
from etl_assets.storage.quick_events import quicken
from etl_assets_tests.faults import Faults


@contextmanager
def ephemeral() -> Generator[dg.DagsterInstance]:
    """Dagster's instance in memory, which keeps its connections and writes as the project's own does."""
    with dg.DagsterInstance.ephemeral() as instance:
        for storage in (instance.event_log_storage, instance.run_storage):
            assert isinstance(storage, SqlEventLogStorage | SqlRunStorage)
            of_one: Any = storage
            of_one._engine = create_engine(
                of_one._engine.url, poolclass=QueuePool, connect_args={"check_same_thread": False}
            )
        quicken(instance.event_log_storage, instance.run_storage)
        yield instance


def frame_of(connection: psycopg.Connection, table: str) -> pl.DataFrame:
    """A table, but for its provenance, with geometry as EWKB, in a fixed order."""
    cursor = connection.execute(f"SELECT * FROM {table}".encode())
    names = [column.name for column in cursor.description or ()]
    frame = pl.DataFrame(cursor.fetchall(), schema=names, orient="row", infer_schema_length=None)
    own = frame.select([c for c in frame.columns if not c.startswith("_") or c == "_partition"])
    return own.sort(
        pl.all().cast(pl.String, strict=False)
        if not any(isinstance(d, pl.List) for d in own.dtypes)
        else [c for c, d in own.schema.items() if not isinstance(d, pl.List)]
    )


@dataclass(frozen=True)
class _Kept:
    """What a house had after a run: its warehouse, its lake and what Dagster knew, for others to begin with."""

    database: str
    lake: Path
    storages: tuple[sqlite3.Connection, ...]
    outcomes: dict[str, Outcome]

    @classmethod
    def of(cls, house: House) -> _Kept:
        """A copy of what a house has."""
        assert house.cluster is not None
        assert house.lake.folder is not None
        database, folder = f"kept_{uuid.uuid4().hex[:12]}", house.home.with_name("kept")
        house.cluster.create_database(database, _database(house.warehouse_url))
        shutil.copytree(house.lake.folder, folder)
        storages = tuple(sqlite3.connect(":memory:", check_same_thread=False) for _ in _in_memory(house.instance))
        for storage, kept in zip(_in_memory(house.instance), storages, strict=True):
            storage.backup(kept)
        return cls(database, folder, storages, house.outcomes)

    def give(self, house: House) -> None:
        """Let a house that has nothing have a copy of all this."""
        assert house.cluster is not None
        assert house.lake.folder is not None
        house.cluster.drop_database(_database(house.warehouse_url))
        house.cluster.create_database(_database(house.warehouse_url), self.database)
        shutil.copytree(self.lake, house.lake.folder, dirs_exist_ok=True)
        for storage, kept in zip(_in_memory(house.instance), self.storages, strict=True):
            kept.backup(storage)
        house.outcomes = dict(self.outcomes)


#: By what houses had run on, and for which datasets.
_KEPT: dict[tuple[str, ...], _Kept] = {}


def _in_memory(instance: dg.DagsterInstance) -> list[sqlite3.Connection]:
    """The databases of an instance in memory."""
    storages: list[Any] = [instance.event_log_storage, instance.run_storage]
    return [storage._held_conn.connection.driver_connection for storage in storages]


def _database(url: str) -> str:
    return urlsplit(url).path[1:]


@dataclass
class House:
    """What a test needs of a running project; made by the fixture `house`."""

    home: Path
    data: Path
    warehouse_url: str
    as_of: Path
    faults: Faults
    instance: dg.DagsterInstance
    definitions: dg.Definitions = defs
    #: What `run` makes, with what it is made from; none means everything.
    datasets: Sequence[str] = ("protest_events",)
    #: Where `open_database` makes databases, and what it has made: source -> name.
    cluster: Cluster | None = None
    databases: dict[str, str] = field(default_factory=dict)
    printed: str = ""
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def publish(self, date: str) -> None:
        """Let the sources show their state of a date."""
        self.as_of.write_text(date)
        for source in self.databases:
            self.open_database(source)

    def open_database(self, source: str) -> str:
        """The owner's address of a source that is a database; it shows the recording, and the pipeline reads it."""
        assert self.cluster is not None
        name = self.databases.setdefault(source, f"{source}_{uuid.uuid4().hex[:12]}")
        recordings = Recordings(self.data, self.as_of.read_text())
        os.environ[f"ETL_{source.upper()}_URL"] = show(self.cluster, source, recordings, database=name)
        return self.cluster.url(name)

    def close(self) -> None:
        """Drop the source databases."""
        for source, name in self.databases.items():
            assert self.cluster is not None
            self.cluster.drop_database(name)
            del os.environ[f"ETL_{source.upper()}_URL"]

    def write(self, source: str, date: str, file: str, content: bytes) -> None:
        """Add a publication to the sources."""
        path = self.data / source / date / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def age(self, table: str, days: int) -> None:
        """Let a landed extract be so many days older."""
        path = f"landing/{table}/current.json"
        manifest = json.loads(self.lake.get(path) or b"")
        versions = {
            part: [str(date.fromisoformat(day) - timedelta(days=days)), *rest]
            for part, (day, *rest) in json.loads(manifest["etag"]).items()
        }
        self.lake.put(path, json.dumps(manifest | {"etag": json.dumps(versions)}).encode())

    def run(self, *, anew: bool = False, accept_shrunk: bool = False) -> bool:
        """What `./dev run` does; gives whether everything is up to date. `outcomes` has what was made."""
        text = io.StringIO()
        console = Console(file=text, width=200)
        driver = Driver(self.definitions, self.instance, console, self.datasets, anew, accept_shrunk)
        done = driver.run()
        report(console, self.instance, driver.specs, driver.outcomes)
        self.printed, self.outcomes = text.getvalue(), driver.outcomes
        return done

    def has_run(self, *datasets: str) -> None:
        """Make these datasets, or those that there are; whoever comes second with the same data gets a copy of that.

        Not for houses whose settings say what is made (a baseline), nor for what the sources are asked in that run.
        """
        assert not self.instance.get_runs_count(), "too late: something has run"
        assert "ETL_EVENTDATA_BASELINE" not in os.environ, "the copy would be without it"
        self.datasets = datasets or self.datasets
        content = hashlib.sha256()
        for path in sorted(path for path in self.data.rglob("*") if path.is_file()):
            content.update(str(path.relative_to(self.data)).encode() + path.read_bytes())
        on = (*self.datasets, self.as_of.read_text(), content.hexdigest())
        if on in _KEPT:
            _KEPT[on].give(self)
            return
        assert self.run(), self.failures()
        _KEPT[on] = _Kept.of(self)

    def made(self) -> dict[str, int]:
        """Partitions made by the last run, of the assets of which any were."""
        return {name: outcome.partitions for name, outcome in self.outcomes.items() if outcome.partitions}

    def failures(self) -> str:
        """Why things failed in the last run, as one text."""
        return "\n".join(text for outcome in self.outcomes.values() for text in outcome.failures)

    def materialize(self, key: str, *partitions: str, raise_on_error: bool = True) -> dg.ExecuteInProcessResult:
        """Materialize one asset ("refined/us_counties"), or the range of its partitions from first to last."""
        tags = RunPartitions(partitions[0], partitions[-1]).tags if partitions else {}
        asset = dg.AssetKey(key.split("/"))
        return execute(self.definitions, self.instance, [asset], tags, raise_on_error=raise_on_error)

    def check(self, key: str, name: str, partition: str | None = None) -> Any:
        """The newest evaluation of a check of an asset ("refined/us_counties"), or of one of its partitions."""
        of = dg.AssetCheckKey(dg.AssetKey(key.split("/")), name)
        for record in self.instance.event_log_storage.get_asset_check_execution_history(of, limit=1000):
            event = record.event.dagster_event if record.event else None
            found: Any = event.event_specific_data if event else None
            if found is not None and hasattr(found, "passed") and (partition is None or found.partition == partition):
                return found
        raise AssertionError(f"the check {name} of {key} was never evaluated")

    def sql(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Rows of a query on the warehouse."""
        with psycopg.connect(self.warehouse_url) as connection:
            return connection.execute(query.encode(), parameters or None).fetchall()

    def value(self, query: str, *parameters: Any) -> Any:
        """The one value of a query on the warehouse."""
        return self.sql(query, *parameters)[0][0]

    def frame(self, table: str) -> pl.DataFrame:
        """A table of the warehouse, see `frame_of`."""
        with psycopg.connect(self.warehouse_url) as connection:
            return frame_of(connection, table)

    @property
    def lake(self) -> Lake:
        """The lake that is configured."""
        return lake()

    def objects(self) -> dict[str, int]:
        """Every object in the lake with its size."""
        return self.lake.list("")
