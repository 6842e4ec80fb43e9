"""`extract`: all pages of an indicator from a paged API, into a landed file; beside dlt's REST source and a plain loop.

All ask the same local source server, a process of its own, which answers as WHO GHO does: 1,000 rows a page, and a link
to the next one. The project does what its landing stage does: it keeps every page in the lake as it comes, compares
counts and links, asks for the source's version before and after, and joins the pages into one landed file with its
manifest. dlt extracts into a load package on disk. The loop only keeps the rows in memory.
"""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import shutil
import time
import zipfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import requests

from benchmarks.ground import Ground
from benchmarks.measure import Case, Ratio, Report, Run, interleave, timed
from etl_assets.local.apis import gho
from etl_assets.local.routes import Request, Response, Route
from etl_assets.local.source_server import ROUTES, serve
from etl_assets.sources import Workspace
from etl_assets.sources.odata import ODataSource
from etl_assets.storage.lake import Lake
from etl_assets.storage.landing import Landing, Manifest, sha256

INDICATOR, PAGE = "BENCH_000001", 1000
ORDER = "SpatialDim,TimeDim,Dim1,Dim2,Dim3"
#: Seconds that a request to a distant host waits before its answer begins.
LATENCY = 0.05
#: An extract takes some seconds: this many in each round make a steady median.
TIMES = 3
PROJECT, LOOP, DLT = "project", "requests loop", "dlt"


def run(ground: Ground, sizes: Sequence[int], *, quick: bool) -> Report:
    """Measure."""
    (wanted,) = sizes
    count = -(-wanted // PAGE)
    rows = count * PAGE  # an extract is counted in whole pages
    report = Report("extract", f"{rows:,} rows in {count} pages of a paged API")
    data = _recording(ground.folder / f"extract-{rows}", rows)
    ways = {PROJECT: _project, LOOP: _loop, DLT: _dlt}
    if importlib.util.find_spec("dlt") is None:
        del ways[DLT]
        report.notes.append(f"{DLT}: not available, it needs the package dlt")
    cases: dict[str, Case] = {}
    with _server(data, 0.0) as near, _server(data, LATENCY) as far:
        for place, url in (("near", near), ("far", far)):
            for name, way in ways.items():
                cases[f"{name}, {place}"] = partial(_measure, way, ground.folder / "extract", url, rows)
        for first in cases.values():
            first()  # the server reads and sorts its recording once: no case pays for that
        report.runs = interleave(cases, ground.rounds * (1 if quick else TIMES), ground.console)
    for place in ("near", "far"):
        own = f"{PROJECT}, {place}"
        for name in ways:
            if name != PROJECT:
                at_least = 1.0 if name == LOOP else None
                faster = report.over(f"{name}, {place}", own)
                report.ratios.append(
                    Ratio(f"the project is so many times faster than {name}, {place}", faster, at_least)
                )
    for case in report.runs:
        seconds = report.seconds(case)
        report.notes.append(f"{case}: {count / seconds:,.0f} pages/s, {rows / seconds:,.0f} rows/s")
    report.notes.append(f"far: every answer begins {LATENCY * 1000:.0f} ms after its request, as on the open internet.")
    return report


def _measure(way: Any, folder: Path, url: str, rows: int) -> Run:
    """Time one extract, and check that it has every row."""
    counted = 0

    def extract() -> None:
        nonlocal counted
        counted = way(folder, f"{url}/who_gho/api")

    folder.mkdir()
    try:
        measured = timed(extract)
    finally:
        shutil.rmtree(folder)
    assert counted == rows, f"{counted} rows instead of {rows}"
    return measured


def _project(folder: Path, url: str) -> int:
    os.environ["ETL_WHO_GHO_URL"] = url.removesuffix("/api")
    source = ODataSource(
        source="who_gho", live=None, path="api", sets={INDICATOR: ""}, order=ORDER, stamp="Date"
    )  # fmt: skip
    store = Landing(Lake(str(folder / "lake")), "gho")
    fetched = source.fetch(Workspace(folder, store.pages()), None)
    assert fetched is not None
    manifest = Manifest(sha256(fetched.path), fetched.path.stat().st_size, ".zip", fetched.url, "", "", None, None)
    store.land(fetched.path, manifest)
    store.pages().clear()
    with zipfile.ZipFile(fetched.path) as landed:
        return len(landed.namelist()) * PAGE


def _loop(folder: Path, url: str) -> int:
    rows: list[Any] = []
    with requests.Session() as session:
        following: str | None = f"{url}/{INDICATOR}?$orderby={ORDER}&$count=true"
        while following:
            answer = session.get(following, timeout=60)
            answer.raise_for_status()
            page = answer.json()
            rows += page["value"]
            following = page.get("@odata.nextLink")
    return len(rows)


def _dlt(folder: Path, url: str) -> int:
    os.environ |= {"RUNTIME__DLTHUB_TELEMETRY": "false", "RUNTIME__LOG_LEVEL": "CRITICAL"}
    import dlt
    from dlt.sources.rest_api import rest_api_source

    endpoint: Any = {
        "path": INDICATOR,
        "params": {"$orderby": ORDER, "$count": "true"},
        "data_selector": "value",
        "paginator": {"type": "json_link", "next_url_path": "'@odata.nextLink'"},
    }
    source = rest_api_source(
        {"client": {"base_url": url}, "resources": [{"name": "indicator", "endpoint": endpoint}]}, name="bench"
    )
    pipeline = dlt.pipeline("bench", pipelines_dir=str(folder / "dlt"), destination="filesystem", dataset_name="bench")
    info = pipeline.extract(source)
    return sum(
        table.items_count
        for metrics in info.metrics.values()
        for one in metrics
        for name, table in one["table_metrics"].items()
        if name == "indicator"
    )


# --- the server


def _recording(data: Path, rows: int) -> Path:
    """A folder of recordings with one indicator of `rows` rows, in WHO's format."""
    path = data / "who_gho" / "2024-10-01" / f"{INDICATOR}.json"
    if not path.exists():
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"value": [_row(n) for n in range(rows)]}))
    return data


def _row(n: int) -> dict[str, object]:
    year, place = 2000 + n % 25, n // 25
    value = 40 + n * 7 % 4000 / 100
    return {
        "Id": n, "IndicatorCode": INDICATOR, "SpatialDimType": "COUNTRY", "SpatialDim": f"C{place:05}",
        "ParentLocationCode": "AFR", "TimeDimType": "YEAR", "ParentLocation": "Africa", "Dim1Type": "SEX",
        "TimeDim": year, "Dim1": "SEX_BTSX", "Dim2Type": None, "Dim2": None, "Dim3Type": None, "Dim3": None,
        "DataSourceDimType": None, "DataSourceDim": None, "Value": f"{value:.1f} [{value - 1:.1f}-{value + 1:.1f}]",
        "NumericValue": value + 0.00512, "Low": value - 1, "High": value + 1, "Comments": None,
        "Date": "2024-08-02T09:43:39.193+02:00", "TimeDimensionValue": str(year),
        "TimeDimensionBegin": f"{year}-01-01T00:00:00+01:00", "TimeDimensionEnd": f"{year}-12-31T00:00:00+01:00",
    }  # fmt: skip


@contextmanager
def _server(data: Path, latency: float) -> Generator[str]:
    """The local source server in a process of its own, with every answer delayed by `latency` seconds."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(data, latency, theirs), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        ours.send(None)
        process.join()


def _serve(data: Path, latency: float, pipe: Any) -> None:
    answer = gho(PAGE)

    def late(request: Request) -> Response | None:
        time.sleep(latency)
        return answer(request)

    routes: dict[str, Route] = {**ROUTES, "who_gho": late}
    with serve(data, routes=routes) as url:
        pipe.send(url)
        pipe.recv()
