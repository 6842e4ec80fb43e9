"""Hashes that are stored."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import polars as pl
import pytest
import xxhash

from etl_assets.storage.hashes import content_hashes, row_hash


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


def test_a_rows_hash_is_that_of_its_names_and_values() -> None:
    """Ids in the lake hang on it: a row's text has each value that there is with its name, in the order of names."""
    rows = pl.DataFrame({"b": [1, None, 3, None], "a": ["x", "y", None, None]})
    texts = ["a\x1fx\x1eb\x1f1\x1e", "a\x1fy\x1e", "b\x1f3\x1e", ""]
    assert row_hash(rows, ["a", "b"]).to_list() == [xxhash.xxh3_64_intdigest(text.encode()) for text in texts]


def content_hash(frame: pl.DataFrame) -> str:
    (found,) = content_hashes([frame])
    return found


def test_frames_have_the_same_hashes_together_as_each_by_itself() -> None:
    """Of every type that tables have; the hash is that of lakes which were written before."""
    frame = pl.DataFrame(
        {
            "text": ["a", None, "", "é" * 20],
            "number": [1, None, 3, -4],
            "share": [0.5, None, 1.0, 2.0],
            "is_so": [True, None, False, True],
            "day": [dt.date(2025, 1, 15), None, dt.date(2025, 1, 16), dt.date(1, 1, 1)],
            "at": [dt.datetime(2025, 1, 15, 3, tzinfo=dt.UTC), None, None, dt.datetime(2025, 1, 1, tzinfo=dt.UTC)],
            "parts": [["x", "y"], None, [], ["z", None]],
            "shape": [b"\x01", None, b"", b"\x02\x03"],
            "money": [Decimal("1.25"), None, Decimal("0.01"), Decimal("-3.00")],
            "_run_id": ["r"] * 4,
        }
    )
    pieces = [frame, frame[1:3], frame[:0], frame[3:], frame.drop("_run_id").with_columns(_run_id=pl.lit("other"))]
    assert content_hashes(pieces) == [content_hash(piece) for piece in pieces]
    assert content_hash(pieces[0]) == content_hash(pieces[-1])
    assert content_hash(frame) == "989fc9cf2ca9e8f3e75f2fcdb34c17eb04c544a8de18064e5e0dfad075af3a88"
    assert len(set(content_hashes(pieces))) == 4
    assert content_hashes([]) == []


@pytest.mark.parametrize(("dtype", "rows", "value"), [(pl.Int32, 32, -129), (pl.Int64, 64, -129), (pl.Int16, 16, -129)])
def test_which_values_are_null_does_not_look_like_a_value(dtype: pl.DataType, rows: int, value: int) -> None:
    """A bit each, as the value's own bytes may be."""
    missing, there = (pl.DataFrame({"n": pl.Series([n, *[7] * (rows - 1)], dtype=dtype)}) for n in (None, value))
    assert content_hash(missing) != content_hash(there)


def test_nothing_known_is_not_all_false() -> None:
    unknown, false = (pl.DataFrame({"is_so": pl.Series([value] * 9, dtype=pl.Boolean)}) for value in (None, False))
    assert content_hash(unknown) != content_hash(false)
