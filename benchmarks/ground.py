"""What benchmarks are measured on: a PostGIS of their own, made for one `./dev bench`.

Here: the temporary folder, the databases in it, and the synthetic rows and publications.
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import polars as pl
import shapely
from rich.console import Console

from benchmarks.synthetic import COUNTIES, synthetic_counties, synthetic_events
from etl_assets.local.postgres import Cluster
from etl_assets.storage.table import Column, Geometry, Partitioning, Table

#: The first day of events, and the days on which their source publishes them: the second time with corrections.
FIRST_DAY = date(2023, 1, 1)
PUBLISHED, CORRECTED = "2025-03-01", "2025-04-01"
QUICK_COUNTIES = 300


@dataclass(frozen=True)
class Ground:
    """A folder and a PostgreSQL cluster that last as long as the block that made them, and how many rounds to run."""

    folder: Path
    cluster: Cluster
    console: Console
    rounds: int

    @contextmanager
    def database(self, template: str | None = None) -> Generator[str]:
        """Make a database with PostGIS, empty or a copy of another, for the block, and yield its address."""
        name = f"bench_{uuid.uuid4().hex[:12]}"
        yield self.cluster.create_database(name, template and urlsplit(template).path[1:])
        self.cluster.drop_database(name)

    def publications(
        self,
        rows: int,
        days: int,
        corrected_days: int = 0,
        *,
        first_day: date = FIRST_DAY,
        published: str = PUBLISHED,
        quick: bool,
    ) -> Path:
        """A folder of recorded sources, for the local source server: synthetic counties and events.

        With `corrected_days` there is a second publication of the events, on the day `CORRECTED`.
        """
        counties = QUICK_COUNTIES if quick else COUNTIES
        data = self.folder / f"sources-{published}-{rows}-{first_day}-{days}-{corrected_days}"
        if not data.exists():
            (data / "us_counties/2010").mkdir(parents=True)
            synthetic_counties(data / "us_counties/2010/counties.geojson", counties)
            corrections = {CORRECTED: corrected_days} if corrected_days else {}
            for day, corrected in {published: 0, **corrections}.items():
                path = data / "protest_events" / day / "ccc.csv"
                path.parent.mkdir(parents=True)
                synthetic_events(
                    path, rows, days=days, first_day=first_day, counties=counties, corrected_days=corrected
                )
        return data


@contextmanager
def ground(console: Console, rounds: int, *, quick: bool) -> Generator[Ground]:
    """Make the ground, with durable settings unless `quick`, when speed does not count; remove it afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="etl-bench-"))
    cluster = Cluster(folder / "postgres", fast=quick)
    try:
        cluster.start()
        yield Ground(folder, cluster, console, rounds)
    finally:
        if cluster.is_running():
            cluster.stop(immediate=True)
        shutil.rmtree(folder, ignore_errors=True)


#: A table of located rows, as datasets have them.
LOCATED = Table(
    "refined",
    "located",
    (
        Column("event_id", "bigint", nullable=False),
        Column("event_date", "date", nullable=False),
        Column("locality", "text"),
        Column("state", "text"),
        Column("fips", "text"),
        Column("title", "text"),
        Column("size_mean", "double precision"),
        Column("source_count", "integer"),
        Column("geometry", "geometry(Point,4326)", geometry=Geometry("Point", 4326)),
    ),
    primary_key=("event_id",),
    partitioning=Partitioning("event_date", "day"),
)


def located_rows(rows: int, first_id: int = 1, first_day: date = FIRST_DAY, days: int = 365) -> pl.DataFrame:
    """Rows for `LOCATED`, in the order of their days; the same for the same arguments."""
    rng = np.random.default_rng(first_id)
    towns = 5000
    town = (towns * rng.random(rows) ** 2.5).astype(np.int64)
    places = np.random.default_rng(0).random((towns, 2)) * (57, 22) + (-124, 26)
    points = pl.Series(shapely.to_wkb(shapely.points(places)), dtype=pl.Binary)
    number = pl.int_range(first_id, first_id + rows, dtype=pl.Int64, eager=True)
    return pl.DataFrame(
        {
            "event_id": number,
            "event_date": pl.Series(np.arange(rows) * days // rows) * timedelta(days=1),
            "locality": pl.Series(town).cast(pl.String),
            "state": pl.Series(["OH", "TX", "WA", "NY"]).gather(town % 4),
            "fips": pl.Series(town % 3000 + 1001).cast(pl.String).str.zfill(5),
            "title": "March for the wetlands, number " + number.cast(pl.String),
            "size_mean": rng.integers(0, 1000, rows).astype(np.float64),
            "source_count": rng.integers(0, 30, rows).astype(np.int32),
            "geometry": points.gather(town),
        }
    ).with_columns(event_date=pl.lit(first_day) + pl.col("event_date"), locality="Town " + pl.col("locality"))
