"""What a frame looks like in each of its homes: polars in the steps, PostgreSQL, and geopandas at the seams.

Here: types and shapes, and the columns that every published row carries. Not here: hashes of what a frame holds.

geopandas is imported where it is used: with pandas it takes half a second, and `./dev sql` does without.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import polars as pl
import shapely

from etl_assets.storage.table import SOURCE_SHA256, Table

if TYPE_CHECKING:
    import geopandas as gpd


class TypeUnknownError(TypeError):
    """A type has no counterpart on the other side; the message names it."""


def to_geopandas(table: Table, frame: pl.DataFrame) -> gpd.GeoDataFrame:
    """A frame with WKB geometry as a GeoDataFrame with the table's CRS; other columns stay Arrow-backed."""
    import geopandas as gpd

    column = table.geometry
    if column is None or column.geometry is None:
        raise TypeUnknownError(f"{table.full_name} has no geometry column")
    attributes = frame.drop(column.name).to_pandas(use_pyarrow_extension_array=True)
    shapes = gpd.array.from_wkb(frame[column.name].to_numpy(), crs=column.geometry.srid)
    attributes.insert(frame.columns.index(column.name), column.name, shapes)  # pyrefly: ignore[bad-argument-type]
    return gpd.GeoDataFrame(attributes, geometry=column.name)


def from_geopandas(geo: gpd.GeoDataFrame) -> pl.DataFrame:
    """A GeoDataFrame as a frame whose geometry column is WKB (2-D, little-endian)."""
    name = geo.geometry.name
    shapes = wkb(geo.geometry.values, str(name))
    attributes = pl.from_pandas(geo.drop(columns=name)) if len(geo.columns) > 1 else pl.DataFrame()
    return attributes.with_columns(shapes).select(list(geo.columns))


def wkb(shapes: Any, name: str = "") -> pl.Series:
    """Shapes as WKB (2-D, little-endian), as tables hold them; null for None."""
    # As a list: from an array whose first value is None, polars makes a series of objects.
    return pl.Series(name, shapely.to_wkb(shapes, output_dimension=2, byte_order=1).tolist(), dtype=pl.Binary)


def empty(table: Table, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """A frame without rows in the table's stored shape."""
    schema = {c.name: polars_type(c.sql) for c in table.stored_columns()}
    return pl.DataFrame(schema=schema if columns is None else {c: schema[c] for c in columns if c in schema})


def polars_type(sql: str) -> pl.DataType:
    """The polars type of a PostgreSQL type that storage knows; raises TypeUnknownError for another."""
    if sql.endswith("[]"):
        return pl.List(polars_type(sql[:-2]))
    if sql.startswith("geometry"):
        return pl.Binary()
    if sql.startswith("numeric("):
        precision, scale = sql[8:-1].split(",")
        return pl.Decimal(int(precision), int(scale))
    types: dict[str, pl.DataType] = {
        "text": pl.String(),
        "jsonb": pl.String(),
        "bytea": pl.Binary(),
        "boolean": pl.Boolean(),
        "smallint": pl.Int16(),
        "integer": pl.Int32(),
        "bigint": pl.Int64(),
        "real": pl.Float32(),
        "double precision": pl.Float64(),
        "date": pl.Date(),
        "time without time zone": pl.Time(),
        "timestamp without time zone": pl.Datetime("us"),
        "timestamp with time zone": pl.Datetime("us", "UTC"),
    }
    if sql not in types:
        raise TypeUnknownError(f"No frame type is known for the PostgreSQL type {sql!r}")
    return types[sql]


def sql_type(dtype: pl.DataType) -> str:
    """The PostgreSQL type (as `format_type` spells it) of a polars type; raises TypeUnknownError for another."""
    if isinstance(dtype, pl.List):
        return sql_type(dtype.inner) + "[]"  # pyrefly: ignore[bad-argument-type]
    if isinstance(dtype, pl.Decimal):
        return f"numeric({dtype.precision},{dtype.scale})"
    if isinstance(dtype, pl.Datetime):
        return "timestamp with time zone" if dtype.time_zone else "timestamp without time zone"
    types = {
        pl.String: "text", pl.Binary: "bytea", pl.Boolean: "boolean", pl.Int8: "smallint", pl.Int16: "smallint",
        pl.Int32: "integer", pl.Int64: "bigint", pl.Float32: "real", pl.Float64: "double precision",
        pl.Date: "date", pl.Time: "time without time zone",
    }  # fmt: skip
    for known, sql in types.items():
        if dtype == known:
            return sql
    raise TypeUnknownError(f"No PostgreSQL type is known for the frame type {dtype}")


def stored(
    frame: pl.DataFrame, table: Table, *, source: pl.Series | pl.Expr, run_id: str, loaded_at: dt.datetime
) -> pl.DataFrame:
    """A frame with its provenance columns, in the table's order; those that it already has are kept.

    `source` is what each row was made from.
    """
    values = {SOURCE_SHA256: source, "_run_id": pl.lit(run_id), "_loaded_at": pl.lit(loaded_at)}
    missing = {name: value for name, value in values.items() if name not in frame.columns}
    return frame.with_columns(**missing).select([c.name for c in table.stored_columns()])
