"""What is put to the test: a warehouse, a lake, sources that change, and a reader who looks on all the time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from etl_assets.local.postgres import Cluster
from etl_assets.local.source_server import serve
from etl_assets.quality.quarantine import quarantine_table
from etl_assets.settings import PROJECT
from etl_assets.stages.staleness import in_order
from etl_assets.storage.hashes import content_hashes
from etl_assets.storage.lake import Lake, LakeError
from etl_assets.storage.landing import Landing
from etl_assets.storage.table import WHOLE, Table
from etl_assets_tests.contents import partition_key
from etl_assets_tests.datasets.files import county, county_file, event, event_file

DATASETS = ["protest_events"]
FIRST, SECOND = "2025-03-05", "2025-04-04"
_BETWEEN_LOOKS = 0.05
_WAREHOUSE, _DAGSTER = "chaos", "chaos_dagster"

#: A partition: its table's name, and its key.
Place = tuple[str, str]


def tables() -> dict[str, Table]:
    """Every table that a run makes, quarantines included, by name."""
    own = [spec.table for spec in in_order(DATASETS) if spec.table]
    kept_out = [quarantine_table(table.name) for table in own if table.stage != "presentation"]
    return {table.full_name: table for table in (*own, *kept_out)}


@dataclass(frozen=True)
class Seen:
    """All that a reader sees at one moment: what the bookkeeping says of each partition, and what is there."""

    told: dict[Place, str]
    held: dict[Place, tuple[int, str]]
    lake: dict[Place, tuple[str, str]]

    def filled(self) -> dict[str, dict[Place, Any]]:
        """What there is of partitions that have rows: one that has lost them all is as good as one that never was."""
        own = self.held.keys()
        of: dict[str, dict[Place, Any]] = {"bookkeeping": self.told, "warehouse": self.held, "lake": self.lake}
        return {name: {place: what for place, what in found.items() if place in own} for name, found in of.items()}


@dataclass
class Known:
    """What a partition may hold: what it holds when nothing disturbs, by the hash that the bookkeeping has of it."""

    held: dict[tuple[Place, str], tuple[int, str]] = field(default_factory=dict)
    lake: dict[tuple[Place, str], str] = field(default_factory=dict)

    def learn(self, seen: Seen) -> None:
        """Take what is there for good."""
        for place, digest in seen.told.items():
            self.held[place, digest] = seen.held.get(place, (0, ""))
        for place, (digest, content) in seen.lake.items():
            self.lake[place, digest] = content

    def faults(self, seen: Seen) -> Iterator[str]:
        """What is not as it should be."""
        for place, digest in seen.told.items():
            if (place, digest) not in self.held:
                yield f"warehouse: {place} has a content that no undisturbed run gives"
            elif self.held[place, digest] != seen.held.get(place, (0, "")):
                yield f"warehouse: {place} holds {seen.held.get(place)} instead of {self.held[place, digest]}"
        for place in seen.held.keys() - seen.told.keys():
            yield f"warehouse: {place} has rows and no bookkeeping"
        for place, (digest, content) in seen.lake.items():
            if self.lake.get((place, digest)) != content:
                yield f"lake: {place} has a content that no undisturbed run gives"


@dataclass(frozen=True)
class World:
    """Everything that a run works on; the server of databases and the lake may be anywhere."""

    folder: Path
    cluster: Cluster
    settings: Mapping[str, str]
    as_of: Path
    victim: subprocess.Popen[str]
    #: What an object of the lake holds, by its bytes.
    objects: dict[bytes, tuple[str, str]] = field(default_factory=dict)

    def publish(self, date: str) -> None:
        """Let the sources show their state of a date."""
        self.as_of.write_text(date)

    def shows(self) -> str:
        """The date whose state the sources show."""
        return self.as_of.read_text()

    def run(self, **order: Any) -> dict[str, Any]:
        """One run of the victim; gives how it ended."""
        self.start(**order)
        return self.ended()

    def start(self, **order: Any) -> int:
        """Begin a run; gives the number of its process."""
        assert self.victim.stdin
        self.victim.stdin.write(json.dumps({"datasets": DATASETS, **order}) + "\n")
        self.victim.stdin.flush()
        return int(self._told()["pid"])

    def ended(self) -> dict[str, Any]:
        """Wait for the run; gives how it ended."""
        return self._told()

    def _told(self) -> dict[str, Any]:
        assert self.victim.stdout
        answer: dict[str, Any] = json.loads(self.victim.stdout.readline())
        return answer

    def empty(self) -> None:
        """Begin with nothing: no warehouse, no lake, nothing that Dagster knows."""
        for name in (_WAREHOUSE, _DAGSTER):
            self.cluster.drop_database(name)
            self.cluster.create_database(name)
        for path in self.lake.list(""):
            self.lake.delete(path)
        shutil.rmtree(self.folder / "home", ignore_errors=True)

    @property
    def lake(self) -> Lake:
        """The lake, as a reader has it."""
        return Lake(self.settings["ETL_LAKE_URL"])

    def look(self) -> Seen:
        """What a reader sees now."""
        told, held = self._warehouse()
        return Seen(told, held, self._lake())

    def _warehouse(self) -> tuple[dict[Place, str], dict[Place, tuple[int, str]]]:
        """Bookkeeping and content of every table, of one moment."""
        with psycopg.connect(self.settings["ETL_WAREHOUSE_URL"]) as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.execute("SET TIME ZONE 'UTC'")
            names = "SELECT schemaname || '.' || tablename FROM pg_tables"
            there = {name for (name,) in connection.execute(names).fetchall()}
            if "etl.publications" not in there:
                return {}, {}
            book = connection.execute("SELECT asset, partition, content_hash FROM etl.publications").fetchall()
            told = {(asset, key): digest for asset, key, digest in book}
            held = {}
            for table in tables().values():
                if table.full_name in there:
                    for key, rows, digest in connection.execute(_contents(connection, table)).fetchall():
                        held[table.full_name, key] = (rows, digest)
        parts = {place: digest for place, digest in told.items() if place[1] != WHOLE or not _is_cut(place[0])}
        return parts, held

    def _lake(self) -> dict[Place, tuple[str, str]]:
        """Every object's own hash and what it holds; an object that cannot be read is an error."""
        found = {}
        for table in tables().values():
            for key in self.lake.partitions(table):
                if (read := self._object(table, key)) is not None:
                    found[table.full_name, key] = read
        for name in ("us_counties", "eventdata_baseline", "protest_events"):
            landed = Landing(self.lake, name)
            if (manifest := landed.current()) is not None:
                with landed.open(manifest):  # which compares the bytes with what the manifest says of them
                    pass
        return found

    def _object(self, table: Table, key: str) -> tuple[str, str] | None:
        """A partition's own hash and what it holds; the same bytes are read once, since looking takes time."""
        path = self.lake.path(table, key)
        data = self.lake.get(path)
        if data is not None and data in self.objects:
            return self.objects[data]
        loaded = self.lake.read(table, [key])
        if key not in loaded.versions:
            return None
        found = loaded.versions[key], content_hashes([loaded.frame])[0]
        if data is not None and self.lake.get(path) == data:  # not replaced while it was read
            self.objects[data] = found
        return found


@dataclass
class Reader:
    """Looks at lake and warehouse until told to stop, and notes what should not be."""

    world: World
    known: Known
    looks: int = 0
    faults: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def looking_on(self) -> Generator[None]:
        """Look on while the block runs."""
        self._stop.clear()
        thread = threading.Thread(target=self._look_on, name="reader")
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _look_on(self) -> None:
        while not self._stop.is_set():
            try:
                self.faults.extend(self.known.faults(self.world.look()))
            except (psycopg.OperationalError, LakeError) as error:
                # Servers that are down show nobody anything; a damaged object is another matter.
                if "damaged" in str(error) or "not the file" in str(error):
                    self.faults.append(str(error))
                time.sleep(0.1)
            else:
                self.looks += 1
                time.sleep(_BETWEEN_LOOKS)


@contextmanager
def world(folder: Path, cluster: Cluster, lake_url: str | None = None, **environment: str) -> Generator[World]:
    """Make a world in a folder, on a server of databases; by default with a lake in the folder, too."""
    data, as_of = folder / "data", folder / "as_of"
    _publications(data)
    as_of.write_text(FIRST)
    home = folder / "home" / "dagster"
    with serve(data, as_of=as_of) as sources:
        settings = {
            "ETL_HOME": str(folder / "home"),
            "DAGSTER_HOME": str(folder / "dagster"),
            "ETL_WAREHOUSE_URL": cluster.create_database(_WAREHOUSE),
            "ETL_DAGSTER_STORAGE_URL": cluster.create_database(_DAGSTER),
            "ETL_LAKE_URL": lake_url or str(folder / "lake"),
            "ETL_LOCAL_SOURCES_URL": sources,
            "ETL_HTTP_RETRY_WAIT": "0.01",
            **environment,
        }
        home.mkdir(parents=True, exist_ok=True)
        (folder / "dagster").mkdir(exist_ok=True)
        if not (folder / "dagster" / "dagster.yaml").exists():
            (folder / "dagster" / "dagster.yaml").symlink_to(PROJECT / "dagster.yaml")
        others = {k: v for k, v in os.environ.items() if not k.startswith(("ETL_", "DAGSTER_", "PG"))}
        with (
            (folder / "victim.log").open("ab") as log,
            subprocess.Popen(
                [sys.executable, "-m", "etl_assets_tests.chaos.victim"],
                cwd=PROJECT,
                env=others | settings,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            ) as victim,
        ):
            yield World(folder, cluster, settings, as_of, victim)
            assert victim.stdin
            victim.stdin.close()
    for name in (_WAREHOUSE, _DAGSTER):
        cluster.drop_database(name)


def _publications(data: Path) -> None:
    """Events of ten days; in the second publication two days differ, one is gone and one is new."""
    rows = [event(date=f"2025-01-{day:02}", title=f"Event {n}") for day in range(1, 11) for n in range(3)]
    bad = event(date="2025-01-03", title="Bad", size_low="30", size_high="20")
    changed = [row | {"size_mean": "16"} if row["date"] in ("2025-01-04", "2025-01-07") else row for row in rows]
    kept = [row for row in changed if row["date"] != "2025-01-09"]
    late = [event(date="2025-01-07", title="Late"), event(date="2025-02-01", title="New")]
    files = {
        f"protest_events/{FIRST}/ccc.csv": event_file([*rows, bad]),
        f"protest_events/{SECOND}/ccc.csv": event_file([*kept, *late, bad]),
        "us_counties/2010/counties.geojson": county_file(county()),
    }
    for name, content in files.items():
        path = data / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _is_cut(name: str) -> bool:
    return tables()[name].partitioning is not None


def _contents(connection: psycopg.Connection, table: Table) -> sql.Composed:
    """A query for what each partition of a table holds: key, number of rows, and a digest of them."""
    name = sql.Identifier(table.stage, table.name)
    there = connection.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
        (name.as_string(connection),),
    ).fetchall()
    own = [sql.Identifier(column) for (column,) in sorted(there) if not column.startswith("_")]
    return sql.SQL(
        "SELECT {key}, count(*), md5(string_agg(row::text, chr(10) ORDER BY row::text))"
        " FROM {table} AS whole, LATERAL (SELECT {columns}) AS row GROUP BY 1"
    ).format(key=partition_key(table.partitioning), table=name, columns=sql.SQL(", ").join(own))
