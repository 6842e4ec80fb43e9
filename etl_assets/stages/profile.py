"""What the UI shows of a frame: its first rows, and for every column its nulls, minimum and maximum."""

from __future__ import annotations

import dagster as dg
import polars as pl

from etl_assets.quality.ui_table import ui_table

_ROWS = 5
_TEXT = 60


def preview(frame: pl.DataFrame) -> dg.TableMetadataValue:
    """The first rows as a table; geometry is left out."""
    shown = frame.head(_ROWS).select(pl.exclude(pl.Binary)).with_columns(pl.selectors.temporal().cast(pl.String))
    return ui_table([{k: _short(v) for k, v in row.items()} for row in shown.to_dicts()])


def profile(frame: pl.DataFrame) -> dg.TableMetadataValue:
    """Type, nulls, minimum and maximum of every column as a table."""
    ordered = [c for c, dtype in frame.schema.items() if not isinstance(dtype, pl.List) and dtype != pl.Binary]
    nulls = frame.null_count().row(0, named=True) if frame.width else {}
    # Times as text: Python cannot represent all the years that a column may hold.
    text = pl.selectors.temporal().cast(pl.String)
    low = frame.select(pl.col(ordered).min()).with_columns(text).row(0, named=True) if ordered and frame.height else {}
    high = frame.select(pl.col(ordered).max()).with_columns(text).row(0, named=True) if ordered and frame.height else {}
    return ui_table(
        [
            {
                "column": c,
                "type": str(dtype),
                "nulls": nulls[c],
                "min": _short(low.get(c)),
                "max": _short(high.get(c)),
            }
            for c, dtype in frame.schema.items()
        ]
    )


def _short(value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    text = str(value)
    return text if len(text) <= _TEXT else text[: _TEXT - 1] + "…"
