"""What tables of yearly values share: changes from year to year, and their picture."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg
import polars as pl

from etl_assets.stages.pictures import lines, picture


def with_changes(rows: pl.DataFrame, value: str, by: Sequence[str]) -> pl.DataFrame:
    """Rows with `change_1_year` and `change_10_years`: a value minus that of 1 or 10 years before; null without one.

    `by` and the column `year` are the rows' key.
    """
    for n, name in ((1, "change_1_year"), (10, "change_10_years")):
        earlier = rows.select(*by, pl.col("year") + n, earlier=value)
        change = (pl.col(value) - pl.col("earlier")).alias(name)
        joined = rows.join(earlier, on=[*by, "year"], how="left", maintain_order="left")
        rows = joined.with_columns(change).drop("earlier")
    return rows


@picture
def yearly_lines(rows: pl.DataFrame, group: str, value: str, title: str) -> dg.MarkdownMetadataValue:
    """A line over the years for each group; several values of a group in one year are shown as their median."""
    wide = rows.drop_nulls(group).pivot(group, index="year", values=value, aggregate_function="median").sort("year")
    return lines(wide, "year", [name for name in wide.columns if name != "year"], title)
