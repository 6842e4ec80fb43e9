"""Drift: whether data looks unlike what it used to look like. Reported, never blocking."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence

import dagster as dg

from etl_assets.storage.lake import Facts
from etl_assets.storage.table import WHOLE

#: Published partitions that a row count is compared with.
_HISTORY = 60
_FEWEST = 8
#: Robust standard deviations from the median, and rows, that make a count remarkable.
_DEVIATIONS = 6.0
_ROWS = 50


def column_drift(columns: Collection[str], last: dg.EventLogEntry | None) -> list[dict[str, object]]:
    """Columns that are new or gone since the last materialization, as `{column, change}`."""
    metadata = last.asset_materialization.metadata if last and last.asset_materialization else {}
    before = getattr(metadata.get("columns"), "value", None)
    if not isinstance(before, Sequence):
        return []
    drift: list[dict[str, object]] = [{"column": c, "change": "new"} for c in columns if c not in before]
    drift.extend({"column": c, "change": "gone"} for c in before if c not in columns)
    return drift


def volume_drift(partition: str, rows: int, known: Mapping[str, Facts]) -> str | None:
    """What is remarkable about a partition's row count beside the table's other partitions, or its own last count.

    A count is remarkable when it is more than six robust standard deviations (1.4826 x the median absolute deviation)
    and 50 rows from the median of the 60 partitions before it; without partitions, when it changed by more than half.
    """
    before = known.get(partition)
    if partition == WHOLE:
        if before and abs(rows - before.rows) > max(_ROWS, before.rows // 2):
            return f"{rows} rows, {before.rows} when last published"
        return None
    earlier = sorted(key for key in known if key != WHOLE and key < partition)[-_HISTORY:]
    counts = [known[key].rows for key in earlier]
    if len(counts) < _FEWEST:
        return None
    median = statistics.median(counts)
    spread = 1.4826 * statistics.median(abs(count - median) for count in counts)
    if abs(rows - median) > max(_DEVIATIONS * spread, _ROWS):
        return f"{rows} rows, where {median:g} (give or take {spread:.0f}) are usual"
    return None
