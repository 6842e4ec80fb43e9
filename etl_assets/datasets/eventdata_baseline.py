"""The rows that `presentation.eventdata` held before this project: they keep their ids.

ETL_EVENTDATA_BASELINE names the file (GeoJSON or CSV, with the table's columns). If it was never set, there are no
rows; what was landed stays until it names another file, or `none`.
"""

import datetime as dt
from pathlib import Path

import numpy as np
import polars as pl
import shapely

from etl_assets.quality.contract import Contract, column, geometry
from etl_assets.quality.readings import as_read, distinct, optional, whole
from etl_assets.sources.delimited import read_csv
from etl_assets.sources.files import OptionalFile
from etl_assets.sources.records import read_geojson
from etl_assets.stages import Dataset, Result, landing, raw, refined
from etl_assets.storage.frames import wkb
from etl_assets.storage.table import Partitioning

DATASET = Dataset(
    name="eventdata_baseline",
    title="Rows of eventdata from before",
    publisher="the first pipeline",
    homepage="https://doi.org/10.7910/DVN/RI9JFU",
    licence="as protest_events",
    citation="Crowd Counting Consortium",
    cadence="once",
    max_shrink=1.0,
)
#: The calendar of presentation.eventdata begins here, as the source does.
FIRST_DAY = dt.date(2017, 1, 1)
COLUMNS = (
    *("id", "event_id", "event_date", "event_state", "event_county", "event_city", "event_type", "event_source"),
    "geometry",
)
#: What a reader saw of a row, besides its day and its county.
SEEN = ["event_state", "event_city", "event_type", "event_source"]


class EventdataBaseline(
    Contract,
    stage="refined",
    table="eventdata_baseline",
    key=["id"],
    partitioning=Partitioning("event_date", "day"),
):
    """Rows that presentation.eventdata held before this project, as they were."""

    id: pl.Int64 = column("Row id", ge=0)
    event_id: pl.Int64 = column("Event id", ge=0)
    event_date: pl.Date = column("Date of the event", ge=FIRST_DAY)
    event_state: pl.String = column("State", nullable=True)
    event_county: pl.String = column("County", nullable=True)
    event_city: pl.String = column("Locality", nullable=True)
    event_type: pl.String = column("Type as given", nullable=True)
    event_source: pl.String = column("Sources, joined by a comma", nullable=True)
    geometry: pl.Binary = geometry("Point", 4326, "Place", nullable=True)


landing_eventdata_baseline = landing(
    DATASET,
    OptionalFile(lambda s: s.eventdata_baseline, without=",".join(COLUMNS).encode() + b"\n", suffix=".txt"),
)


@raw(DATASET, landing_eventdata_baseline, required=["id", "event_id", "event_date"])
def raw_eventdata_baseline(path: Path) -> pl.DataFrame:
    """GeoJSON features or CSV records, told apart by the first character."""
    with path.open("rb") as file:
        is_json = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
    return read_geojson(path) if is_json else read_csv(path)


@refined(DATASET, EventdataBaseline, raw=raw_eventdata_baseline)
def refined_eventdata_baseline(raw: pl.DataFrame) -> Result:
    """Typed; a geometry may be GeoJSON, WKT or hexadecimal WKB. Records that are equal in every column are merged."""
    records, merged = distinct(raw)
    texts = {c: optional(records, c).str.strip_chars() for c in COLUMNS}
    readings = {
        "id": ("id", whole(pl.col("id"))),
        "event_id": ("event_id", whole(pl.col("event_id"))),
        "event_date": ("event_date", pl.col("event_date").str.slice(0, 10).str.to_date("%Y-%m-%d", strict=False)),
        "geometry": ("geometry", pl.col("geometry").map_batches(points, return_dtype=pl.Binary)),
        **{c: (c, pl.when(pl.col(c) != "").then(c)) for c in COLUMNS[3:-1]},
    }
    rows = as_read(records.with_columns(**texts), readings, nothing=[""])  # CSV does not tell "" from null
    return Result(rows, merged)


def points(texts: pl.Series) -> pl.Series:
    """Points in degrees, written as GeoJSON, (E)WKT or hexadecimal (E)WKB, as WKB; null for text that is none of these.

    Other shapes are left to the contract.
    """
    values = texts.str.strip_prefix("SRID=4326;").to_numpy()
    with np.errstate(over="ignore"):  # hexadecimal digits that look like a number of another form
        shapes = shapely.from_geojson(values, on_invalid="ignore")
        for read in (shapely.from_wkt, shapely.from_wkb):
            rest = shapely.is_missing(shapes)
            shapes[rest] = read(values[rest], on_invalid="ignore")
    shapes[shapely.is_empty(shapes)] = None  # an empty one has no coordinates to ask for
    is_elsewhere = ~np.isin(shapely.get_srid(shapes), (-1, 0, 4326))  # -1: there is no shape
    shapes[is_elsewhere | (abs(shapely.get_x(shapes)) > 180) | (abs(shapely.get_y(shapes)) > 90)] = None
    return wkb(shapes, texts.name)


def new_beside(before: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """The rows that are not among those from before.

    A row is the one from before that looks the same; else, of those left, the one that differs only in the county:
    in other boundaries it has another name, and an event outside of them had none.
    """
    for texts in (["event_county", *SEEN], SEEN):
        ours, theirs = _seen(rows, texts), _seen(before, texts)
        rows = ours.join(theirs, on=["seen", "nth"], how="anti", maintain_order="left")
        before = theirs.join(ours, on=["seen", "nth"], how="anti", maintain_order="left")
    return rows


def _seen(rows: pl.DataFrame, texts: list[str]) -> pl.DataFrame:
    """Rows with what a reader saw of each (`seen`), and its position among those that look the same (`nth`).

    Sources are the same however they are joined; a missing one is an empty text here and null in the rows from before,
    which is the same, too.
    """
    sources = pl.col("event_source").str.split(",").list.eval(pl.element().str.strip_chars())
    joined = rows.with_columns(event_source=sources.list.unique(maintain_order=True).list.join(", "))
    seen = joined.select(pl.struct("event_date", pl.col(texts).fill_null(""))).to_series().alias("seen")
    return rows.with_columns(seen).with_columns(nth=pl.int_range(pl.len()).over("seen"))
