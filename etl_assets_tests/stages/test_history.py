"""Versions of records: which of them are chained, and how many records are accounted for."""

from __future__ import annotations

import datetime as dt

import polars as pl

from etl_assets.sources.database import DELETED
from etl_assets.stages.history import _chained

FIRST, SECOND = dt.date(2024, 1, 1), dt.date(2024, 1, 2)


def test_records_are_versions_or_counted_as_merged() -> None:
    """Counted by themselves, not as what is left over: a version that is lost on the way is missing in the balance."""
    good = pl.DataFrame({"id": [1, 1, 2, 3], "name": ["a", "a", "b", "c"], "valid_from": [FIRST, SECOND, FIRST, FIRST]})
    gone = pl.DataFrame({"id": [2, 9], "valid_from": [SECOND, FIRST], DELETED: [True, True]})
    versions, merged = _chained(good, gone, "id")
    assert versions.select("id", "name", "valid_from", "valid_to", "is_current").rows() == [
        (1, "a", FIRST, None, True),
        (2, "b", FIRST, SECOND, False),
        (3, "c", FIRST, None, True),
    ]
    assert merged == 3
    assert good.height + gone.height == versions.height + merged
