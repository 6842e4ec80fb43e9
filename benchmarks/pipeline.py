"""`pipeline`: a file of events, from its source to refined rows in PostGIS, beside a plain script of the usual kind.

On our side, the whole path of the project's own assets is measured, each as a Dagster run with its events and checks:

- landing: asking the source over HTTP, and the bytes into the landing store;
- raw: every record as text, in the lake and in the warehouse, day by day;
- refined: typed, keyed, located, audited; in the lake as GeoParquet and in the warehouse with its indexes, day by day.

The script reads the same file from disk and ends with the columns of the refined table in PostGIS, indexed; see
`usual_script` for what it leaves out. Both have the counties ready: the project in its lake, the script in memory.
Every run is a process of its own, so that its peak memory is its own; starting Python and importing packages is not
in the time, but is in the memory.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import psycopg

from benchmarks.ground import FIRST_DAY, PUBLISHED, Ground
from benchmarks.house import environment, prepare
from benchmarks.measure import Case, Ratio, Report, Run, interleave, read_run
from etl_assets.local.source_server import serve

DAYS, QUICK_DAYS = 365, 5

BEFORE = [
    f"{stage}/{name}" for name in ("us_counties", "eventdata_baseline") for stage in ("landing", "raw", "refined")
]
MEASURED = ["landing/protest_events", "raw/protest_events", "refined/protest_events"]


def run(ground: Ground, sizes: Sequence[int], *, quick: bool) -> Report:
    """Measure."""
    days = QUICK_DAYS if quick else DAYS
    report = Report("pipeline", f"file of events → refined → PostGIS, events of {days} days")
    if importlib.util.find_spec("geoalchemy2") is None:
        report.notes.append("the usual script: not available, it needs the package geoalchemy2")
    for rows in sizes:
        _measure(ground, report, rows, days, quick=quick)
    report.notes.append(
        "The project's raw step puts every column of every record into the warehouse too, beside the lake; the script "
        "has no such table. Without the raw step's time the path is the one that reads the lake."
    )
    return report


def _measure(ground: Ground, report: Report, rows: int, days: int, *, quick: bool) -> None:
    """Measure both ways for one number of rows."""
    data = ground.publications(rows, days, quick=quick)
    project, script = f"project, {rows:,} rows", f"usual script, {rows:,} rows"
    with (
        ground.database() as prepared,
        ground.database() as scratch,
        ground.database() as storage,
        serve(data) as sources,
    ):
        lake = ground.folder / "pipeline" / "lake"
        prepare(ground.folder / "dagster", storage, environment(prepared, lake, sources), BEFORE)

        def ours() -> Run:
            with ground.database(template=prepared) as url, _copy_of(lake) as copy:
                measured = _house(ground, environment(url, copy, sources), storage, days)
                _check(url, "refined.protest_events", rows)
            return measured

        def theirs() -> Run:
            events, counties = data / f"protest_events/{PUBLISHED}/ccc.csv", data / "us_counties/2010/counties.geojson"
            measured = process(ground, "benchmarks.usual_script", str(events), str(counties), scratch, PUBLISHED)
            _check(scratch, "public.protest_events", rows)
            return measured

        cases: dict[str, Case] = {project: ours}
        if importlib.util.find_spec("geoalchemy2"):
            cases[script] = theirs
        report.runs |= interleave(cases, ground.rounds, ground.console)
    shutil.rmtree(lake.parent)
    if script in cases:
        faster = report.over(script, project)
        memory = (report.megabytes(project) or 0) / (report.megabytes(script) or 1)
        report.ratios.append(Ratio(f"the project is so many times faster, {rows:,} rows", faster, at_least=5))
        report.ratios.append(Ratio(f"peak memory over the script's, {rows:,} rows", memory, at_most=0.5))


@contextmanager
def _copy_of(lake: Path) -> Generator[Path]:
    """A copy of a lake, for one run."""
    copy = lake.with_name("copy")
    shutil.copytree(lake, copy)
    yield copy
    shutil.rmtree(copy)


def _house(ground: Ground, settings: dict[str, str], storage: str, days: int) -> Run:
    last = FIRST_DAY + timedelta(days=days - 1)
    arguments = (str(FIRST_DAY), str(last), *MEASURED)
    return process(ground, "benchmarks.house", *arguments, env=settings | {"ETL_DAGSTER_STORAGE_URL": storage})


def process(ground: Ground, module: str, *arguments: str, env: Mapping[str, str] | None = None) -> Run:
    """Run a module as a program; it writes its time and memory into the file that it is given first."""
    result = ground.folder / "run.json"
    result.unlink(missing_ok=True)
    command = [sys.executable, "-m", module, str(result), *arguments]
    done = subprocess.run(
        command,
        cwd=Path(__file__).parents[1],
        env={**os.environ, **(env or {})},
        text=True,
        stderr=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{module} failed:\n{done.stderr[-3000:]}")
    return read_run(result)


def _check(url: str, table: str, rows: int) -> None:
    """Check that every event is there, and located."""
    with psycopg.connect(url) as connection:
        found = connection.execute(f"SELECT count(*), count(fips_located) FROM {table}".encode()).fetchone()
    assert found == (rows, rows), f"{table}: {found} instead of {rows}"
