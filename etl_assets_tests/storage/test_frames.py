"""Frames in each of their homes."""

from __future__ import annotations

import shapely

from etl_assets.storage.frames import wkb


def test_shapes_as_tables_hold_them() -> None:
    """Two-dimensional and little-endian; the first may be none, of which polars would make objects."""
    found = wkb([None, shapely.Point(1, 2, 3)], "place")
    assert found.name == "place"
    assert found.to_list() == [None, shapely.to_wkb(shapely.Point(1, 2), byte_order=1)]
