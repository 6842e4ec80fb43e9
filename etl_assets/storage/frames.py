"""What a frame looks like in each of its homes: polars in the steps, PostgreSQL, and geopandas at the seams.

geopandas is imported where it is used: with pandas it takes half a second, and `./dev sql` does without.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa
import shapely
import xxhash

from etl_assets.storage.table import SOURCE_SHA256, Table

if TYPE_CHECKING:
    import geopandas as gpd

#: Rows whose text is in memory at once, on each core.
_SLICE = 20_000


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


def content_hash(frame: pl.DataFrame) -> str:
    """SHA-256 of a frame's values and column names, without the provenance columns (`_…`).

    Equal frames have equal hashes, however they came about; the order of rows counts, so sort them first.
    """
    return content_hashes([frame])[0]


def content_hashes(frames: Sequence[pl.DataFrame]) -> list[str]:
    """The content hash of each frame, all with the same columns; together, small ones take a fifth of the time."""
    digests = [hashlib.sha256() for _ in frames]
    cuts = np.cumsum([0, *(frame.height for frame in frames)])
    for name in sorted(c for c in frames[0].columns if not c.startswith("_")) if frames else ():
        whole = pl.concat([frame.get_column(name) for frame in frames], rechunk=True)
        # `oldest`: strings as one text with offsets; polars' own string views depend on how they came about.
        values = whole.to_arrow(compat_level=pl.CompatLevel.oldest())
        for digest, frame, pieces in zip(digests, frames, _values(values, cuts), strict=True):
            digest.update(f"{name} {values.type} {frame.height}".encode())
            for piece in pieces:
                digest.update(piece)
    return [digest.hexdigest() for digest in digests]


def _values(array: pa.Array, cuts: np.ndarray) -> list[list[memoryview]]:
    """An array's values as bytes, for each part of it from one of the `cuts` to the next.

    Arrow's own buffers hold more than the values: masks where nothing is null, and whatever lies beneath nulls.
    """
    found: list[list[memoryview]] = [[] for _ in cuts[1:]]
    if array.null_count:
        valid = array.is_valid().to_numpy(zero_copy_only=False)
        after_nulls = _running(valid)[cuts]
        for part, first, after, kept in zip(found, cuts, cuts[1:], np.diff(after_nulls), strict=False):
            if kept < after - first:
                # Their number too: a mask may look like values, and only nulls like only false.
                part.append(memoryview(f"{after - first - kept} null ".encode()))
                part.append(np.packbits(valid[first:after]).data)
        array, cuts = array.drop_null(), after_nulls
    if not len(array):
        return found
    kind, bounds = array.type, list(pairwise(cuts.tolist()))
    if pa.types.is_large_list(kind):
        lengths = np.ascontiguousarray(array.value_lengths().to_numpy(zero_copy_only=False))
        nested = _values(array.flatten(), _running(lengths)[cuts])
        pieces = ([lengths[a:b].data, *more] for (a, b), more in zip(bounds, nested, strict=True))
    elif pa.types.is_boolean(kind):
        bits = array.to_numpy(zero_copy_only=False)
        pieces = ([np.packbits(bits[a:b]).data] for a, b in bounds)
    elif pa.types.is_large_string(kind) or pa.types.is_large_binary(kind):
        _, offsets, data = array.buffers()
        ends = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
        lengths, text = np.diff(ends), memoryview(data or b"")
        pieces = ([lengths[a:b].data, text[ends[a] : ends[b]]] for a, b in bounds)
    else:
        width = kind.bit_width // 8
        numbers = memoryview(array.buffers()[1])[array.offset * width :]
        pieces = ([numbers[a * width : b * width]] for a, b in bounds)
    for part, (first, after), piece in zip(found, bounds, pieces, strict=True):
        if after > first:
            part.extend(piece)
    return found


def _running(counts: np.ndarray) -> np.ndarray:
    """The sum of the counts before each position, and at the end the sum of all."""
    return np.concatenate([[0], np.cumsum(counts)])


def text_hash(texts: pl.Series) -> pl.Series:
    """A 64-bit XXH3 hash of every text (UInt64); null hashes as the empty text.

    Unlike polars' own hash it is the same in every version, so that it may be stored.
    """
    values = texts.fill_null("").cast(pl.Binary).to_list()
    return pl.Series(texts.name, np.fromiter(map(xxhash.xxh3_64_intdigest, values), np.uint64, len(values)))


def row_hash(frame: pl.DataFrame, columns: Sequence[str]) -> pl.Series:
    """A 64-bit XXH3 hash of some columns of every row (UInt64): equal for rows that are equal in them."""
    # In slices: the text of all rows at once can double the memory. In threads: polars builds text on one core.
    with ThreadPoolExecutor(pl.thread_pool_size(), thread_name_prefix="hash") as pool:
        hashes = pool.map(lambda part: text_hash(part.select(row_text(columns)).to_series()), frame.iter_slices(_SLICE))
        return pl.concat([pl.Series(dtype=pl.UInt64), *hashes])


def row_text(columns: Sequence[str]) -> pl.Expr:
    """The text of a row: its non-null columns, each with its name, so that a new, empty column changes nothing."""
    values = [pl.lit(f"{name}\x1f") + pl.col(name).cast(pl.String) for name in sorted(columns)]
    return pl.concat_str([*values, pl.lit("")], separator="\x1e", ignore_nulls=True)  # "" ends the last one
