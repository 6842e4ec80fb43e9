"""Drift: whether data looks different from what it used to be. Reported, never blocking."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence

import dagster as dg

from etl_assets.quality.ui_table import ui_table
from etl_assets.storage.table import WHOLE, Facts

#: Published partitions that a row count is compared with.
_HISTORY = 60
_FEWEST = 8
#: Robust standard deviations from the median, and rows, that make a count remarkable.
_DEVIATIONS = 6.0
_ROWS = 50


def columns_of(last: dg.EventLogEntry | None) -> list[str]:
    """The source's columns, as a materialization recorded them; empty if there was none, or it did not record them."""
    metadata = last.asset_materialization.metadata if last and last.asset_materialization else {}
    found = getattr(metadata.get("columns"), "value", None)
    return list(found) if isinstance(found, Sequence) else []


def column_drift(columns: Collection[str], last: dg.EventLogEntry | None) -> list[dict[str, object]]:
    """Columns that are new or gone since the last materialization, as `{column, change}`."""
    if not (before := columns_of(last)):
        return []
    drift: list[dict[str, object]] = [{"column": c, "change": "new"} for c in columns if c not in before]
    drift.extend({"column": c, "change": "gone"} for c in before if c not in columns)
    return drift


def columns_check(drift: Sequence[Mapping[str, object]]) -> dg.AssetCheckResult:
    """The check `columns`, which warns of what `column_drift` has found."""
    return dg.AssetCheckResult(
        passed=not drift,
        check_name="columns",
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join(f"{row['column']} is {row['change']}" for row in drift) or None,
        metadata={"drift": ui_table(list(drift))},
    )


def volume_drift(partition: str, rows: int, known: Mapping[str, Facts]) -> str | None:
    """What is remarkable about a partition's row count, given the partitions before it and its own last count.

    A count is remarkable when it is more than six robust standard deviations (1.4826 x the median absolute deviation)
    and 50 rows from the median of the last 60 partitions before it that have rows; and when it has lost more than half
    of its rows, and 50. A table without partitions may not gain that many either; a day may, since rows come late.
    """
    if before := known.get(partition):
        lost = before.rows - rows if partition != WHOLE else abs(before.rows - rows)
        if lost > max(_ROWS, before.rows // 2):
            return f"{rows} rows, {before.rows} when last published"
    if partition == WHOLE:
        return None
    # A day that a publication has emptied is no usual one.
    earlier = sorted(key for key, facts in known.items() if key != WHOLE and key < partition and facts.rows)
    counts = [known[key].rows for key in earlier[-_HISTORY:]]
    if len(counts) < _FEWEST:
        return None
    median = statistics.median(counts)
    spread = 1.4826 * statistics.median(abs(count - median) for count in counts)
    if abs(rows - median) > max(_DEVIATIONS * spread, _ROWS):
        return f"{rows} rows instead of the usual {median:g} (give or take {spread:.0f})"
    return None
