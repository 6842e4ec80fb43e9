"""Ordinals: a row's position among the rows of one natural key, which it keeps from one publication to the next."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from etl_assets.storage.hashes import row_hash
from etl_assets.storage.table import SOURCE_ROW, SOURCE_SHA256


def with_ordinals(
    rows: pl.DataFrame, published: pl.DataFrame, key: Sequence[str], *telling: Sequence[str]
) -> pl.DataFrame:
    """Rows with `ordinal`, their position among the rows of the same natural key; `telling` columns tell these apart.

    Each further set of `telling` columns counts for the rows that the sets before it find no match for.

    A row that is `published` keeps its ordinal, and with it its id, when another row of its key vanishes or arrives.
    It is recognized by the same record (`row_hash`), else by the same values (a file may be written differently, or
    gain a column), else by the same key. The other rows take the free ordinals, in the order of the file.
    """
    record = [SOURCE_SHA256, SOURCE_ROW]
    rows = rows.with_columns(ordinal=pl.lit(None, pl.Int32))
    for own in (["row_hash"], *telling, []):
        same = own if own == ["row_hash"] else [*key, *own]
        lacking = rows.filter(pl.col("ordinal").is_null())
        left = published.join(rows.drop_nulls("ordinal"), on=[*key, "ordinal"], how="anti", nulls_equal=True)
        if lacking.is_empty() or left.is_empty():
            break
        kept = _numbered(left.sort("ordinal"), same, own).select("same", "nth", kept="ordinal")
        kept = _numbered(lacking, same, own).join(kept, on=["same", "nth"]).select(*record, "kept")
        rows = rows.join(kept, on=record, how="left", maintain_order="left")
        rows = rows.with_columns(ordinal=pl.coalesce("ordinal", "kept")).drop("kept")
    alone = pl.len().over(key) == 1
    rows = rows.with_columns(ordinal=pl.when(alone).then(pl.col("ordinal").fill_null(1)).otherwise("ordinal"))
    nth = pl.int_range(pl.len()).over(key)
    free = (
        rows.join(rows.filter(pl.col("ordinal").is_null()), on=key, how="semi", nulls_equal=True)
        .group_by(key)
        .agg(pl.int_range(1, pl.len() + 1, dtype=pl.Int32).alias("free"), taken="ordinal")
        .select(*key, free=pl.col("free").list.set_difference("taken").list.sort())
        .explode("free")
        .with_columns(nth=nth)
    )
    given = rows.filter(pl.col("ordinal").is_null()).with_columns(nth=nth)
    given = given.join(free, on=[*key, "nth"], nulls_equal=True).select(*record, "free")
    rows = rows.join(given, on=record, how="left", maintain_order="left")
    return rows.with_columns(ordinal=pl.coalesce("ordinal", "free")).drop("free")


def _numbered(rows: pl.DataFrame, columns: Sequence[str], telling: Sequence[str]) -> pl.DataFrame:
    """Rows with `same`, a hash of some columns, and `nth`, their position among the rows of the same hash.

    Rows whose `telling` columns are all empty are left out: they would all be the same.
    """
    text = rows.with_columns(pl.selectors.by_dtype(pl.List(pl.String)).list.join("\n"))
    numbered = rows.with_columns(same=row_hash(text, columns)).with_columns(nth=pl.int_range(pl.len()).over("same"))
    if not telling:
        return numbered
    says = text.select(pl.any_horizontal(pl.col(name).cast(pl.String).fill_null("") != "" for name in telling))
    return numbered.filter(says.to_series())
