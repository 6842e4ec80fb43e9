"""Frames in each of their homes."""

from __future__ import annotations

import polars as pl
import shapely

from etl_assets.storage.frames import row_hash, wkb


def test_shapes_as_tables_hold_them() -> None:
    """Two-dimensional and little-endian; the first may be none, of which polars would make objects."""
    found = wkb([None, shapely.Point(1, 2, 3)], "place")
    assert found.name == "place"
    assert found.to_list() == [None, shapely.to_wkb(shapely.Point(1, 2), byte_order=1)]


def test_a_row_has_one_hash_wherever_it_stands() -> None:
    """Also in a long frame, of which pieces are hashed side by side, and beside columns that it has no value in."""
    rows = pl.DataFrame({"a": ["x", "y", None] * 30_000, "b": [1, None, 3] * 30_000})
    found = row_hash(rows, ["a", "b"])
    assert found.dtype == pl.UInt64
    assert found.to_list() == row_hash(rows[:3], ["b", "a"]).to_list() * 30_000
    assert found.n_unique() == 3
    wider = rows[:3].with_columns(c=pl.Series([None, None, "z"]))
    assert (row_hash(wider, ["a", "b", "c"]) == found[:3]).to_list() == [True, True, False]
    assert row_hash(rows[:0], ["a"]).to_list() == []
