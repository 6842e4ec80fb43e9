"""`load`: located rows into an empty PostGIS table with its primary key, date and GiST indexes.

The measure is the server alone: COPY of the same rows from a prepared binary file that it reads itself. Every case
begins with the same empty, indexed table and ends with the same full one, committed.
"""

from __future__ import annotations

import datetime as dt
import importlib.util
import shutil
import subprocess
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import LiteralString

import adbc_driver_postgresql.dbapi as adbc
import geopandas as gpd
import polars as pl
import psycopg
import pyarrow as pa
from psycopg import sql

from benchmarks.ground import LOCATED, Ground, located_rows
from benchmarks.measure import Case, Ratio, Report, Run, interleave, timed
from etl_assets.storage.copy import copy_table
from etl_assets.storage.frames import stored
from etl_assets.storage.table import Facts
from etl_assets.storage.transaction import Replacement
from etl_assets.storage.warehouse import Warehouse

TARGET = sql.Identifier(LOCATED.stage, LOCATED.name)
SERVER, REPLACE, COPY = "server-side COPY", "Warehouse (./dev run)", "copy_table alone"
GEOPANDAS, ADBC, OGR = "geopandas.to_postgis", "ADBC", "ogr2ogr"


def run(ground: Ground, sizes: Sequence[int], *, quick: bool) -> Report:
    """Measure."""
    (rows,) = sizes
    report = Report("load", f"{rows:,} located rows into an empty indexed PostGIS table")
    now = dt.datetime.now(dt.UTC)
    frame = stored(located_rows(rows), LOCATED, source=pl.lit("bench"), run_id="bench", loaded_at=now)
    with ground.database() as url:
        loads = _Loads(url, frame)
        attributes, points = frame.drop("geometry").to_pandas(), gpd.GeoSeries.from_wkb(frame["geometry"], crs=4326)
        geo = gpd.GeoDataFrame(attributes, geometry=points)
        cases: dict[str, Case] = {
            SERVER: partial(loads.measure, loads.server_side),
            REPLACE: partial(loads.measure, loads.warehouse),
            COPY: partial(loads.measure, loads.copy_table),
            ADBC: partial(loads.measure, loads.adbc),
        }
        if importlib.util.find_spec("geoalchemy2"):
            cases[GEOPANDAS] = partial(loads.measure, partial(loads.to_postgis, geo))
        else:
            report.notes.append(f"{GEOPANDAS}: not available, it needs the package geoalchemy2")
        if shutil.which("ogr2ogr"):
            file = ground.folder / "rows.gpkg"
            geo.to_file(file)
            cases[OGR] = partial(loads.measure, partial(loads.ogr2ogr, file))
        else:
            report.notes.append("ogr2ogr: not on the PATH, and the GDAL in pyogrio has no PostgreSQL driver")
        report.runs = interleave(cases, ground.rounds, ground.console)
    for case, wanted in ((REPLACE, 0.9), (COPY, 0.9), (ADBC, None), (GEOPANDAS, None), (OGR, None)):
        if case in report.runs:
            share = report.over(SERVER, case)
            report.ratios.append(Ratio(f"speed of {case} as a share of {SERVER}", share, at_least=wanted))
    report.notes.append(
        "The warehouse takes an empty table's indexes away and builds them when it is full: so it may be faster "
        "than COPY into the indexes. It analyzes the table too, which the others leave to be done."
    )
    return report


class _Loads:
    """Every way to load the rows; each is given an empty table and leaves it full."""

    def __init__(self, url: str, frame: pl.DataFrame) -> None:
        self.url, self.rows = url, frame.height
        self.arrow: pa.Table = frame.to_arrow()
        self.types = {column.name: column.sql for column in LOCATED.stored_columns()}
        self.store = Warehouse(url)
        self.store.prepare()
        facts = Facts("", self.rows, "", "", "bench", dt.datetime.now(dt.UTC).isoformat())
        self.replacement = Replacement(facts, frame)
        self.warehouse()  # makes the table as the project makes it
        self.columns = sql.SQL(", ").join(map(sql.Identifier, self.types))
        with psycopg.connect(url) as connection:
            found = connection.execute("SHOW data_directory").fetchone()
            assert found is not None
            self.file = f"{found[0]}/bench.bin"  # where the server may write and read
            self._copy(connection, "COPY (SELECT {columns} FROM {target}) TO {file} (FORMAT binary)")

    def measure(self, load: Callable[[], object]) -> Run:
        """Time one load into the emptied table, and check that it is full afterwards."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(sql.SQL("TRUNCATE {}").format(TARGET))
            connection.execute("CHECKPOINT")  # no load pays for the dirty pages of the one before
            run = timed(load)
            found = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(TARGET)).fetchone()
        assert found == (self.rows,), found
        return run

    def server_side(self) -> None:
        with psycopg.connect(self.url) as connection:
            self._copy(connection, "COPY {target} ({columns}) FROM {file} (FORMAT binary)")

    def warehouse(self) -> None:
        with self.store.writing([LOCATED]) as transaction:
            transaction.replace(LOCATED, [self.replacement])

    def copy_table(self) -> None:
        with psycopg.connect(self.url) as connection, connection.cursor() as cursor:
            copy_table(cursor, TARGET, self.arrow, self.types)

    def adbc(self) -> None:
        with adbc.connect(self.url) as connection, connection.cursor() as cursor:
            cursor.adbc_ingest(LOCATED.name, self.arrow, mode="append", db_schema_name=LOCATED.stage)
            connection.commit()

    def to_postgis(self, rows: gpd.GeoDataFrame) -> None:
        import sqlalchemy

        engine = sqlalchemy.create_engine(self.url.replace("postgresql://", "postgresql+psycopg://"))
        rows.to_postgis(LOCATED.name, engine, schema=LOCATED.stage, if_exists="append", index=False)  # pyrefly: ignore[bad-argument-type]
        engine.dispose()

    def ogr2ogr(self, file: Path) -> None:
        options = ["-append", "-nln", f"{LOCATED.stage}.{LOCATED.name}", "--config", "PG_USE_COPY", "YES"]
        subprocess.run(["ogr2ogr", "-f", "PostgreSQL", f"PG:{self.url}", file, *options], check=True)

    def _copy(self, connection: psycopg.Connection, statement: LiteralString) -> None:
        parts = {"columns": self.columns, "target": TARGET, "file": sql.Literal(self.file)}
        connection.execute(sql.SQL(statement).format(**parts))
