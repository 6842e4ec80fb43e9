"""What publishing a partition anew changes for its readers: rows added, gone and changed, column by column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite

import polars as pl


@dataclass(frozen=True)
class Changes:
    """The difference between two versions of a partition, whose rows are matched by primary key.

    `columns` counts the changed values of each column; `largest` is the greatest difference in each numeric one, if it
    is finite (between 1e308 and -1e308 it overflows).
    """

    added: int
    gone: int
    changed: int
    columns: dict[str, int] = field(default_factory=dict)
    largest: dict[str, float] = field(default_factory=dict)


def compare(before: pl.DataFrame, after: pl.DataFrame, key: Sequence[str]) -> Changes:
    """Compare two versions of a partition by key; columns that only one of them has are ignored."""
    values = [c for c in after.columns if c in before.columns and c not in key and not c.startswith("_")]
    old = before.select(*key, *(pl.col(c).alias(f"{c} before") for c in values))
    both = after.select(*key, *values).join(old, on=list(key), how="inner", nulls_equal=True)
    differs = both.select(pl.col(c).ne_missing(pl.col(f"{c} before")).alias(c) for c in values)
    counts = {c: int(differs[c].sum()) for c in values}
    numeric = [c for c in values if counts[c] and after.schema[c].is_numeric()]
    largest = both.select(
        (pl.col(c).cast(pl.Float64) - pl.col(f"{c} before").cast(pl.Float64)).abs().max().alias(c) for c in numeric
    )
    return Changes(
        added=after.height - both.height,
        gone=before.height - both.height,
        changed=int(differs.select(pl.any_horizontal(pl.all())).to_series().sum()) if values else 0,
        columns={c: n for c, n in counts.items() if n},
        largest={
            c: v for c, v in (largest.row(0, named=True) if numeric else {}).items() if v is not None and isfinite(v)
        },
    )


def differences(before: pl.DataFrame, after: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """The changed values themselves, as text: `key`, `column`, `before` and `after`, in the order of the key."""
    values = [c for c in after.columns if c in before.columns and c not in key and not c.startswith("_")]
    texts = [pl.col(c).map_batches(_texts, return_dtype=pl.String) for c in values]
    old, new = before.select(*key, *texts), after.select(*key, *texts)
    both = new.join(old, on=list(key), how="inner", nulls_equal=True, suffix=" before").sort(list(key))
    name = pl.concat_str([pl.lit(f"{c} ") + pl.col(c).cast(pl.String) for c in key], separator=", ")
    return pl.concat(
        [
            both.filter(pl.col(c).ne_missing(pl.col(f"{c} before"))).select(
                name.alias("key"), pl.lit(c).alias("column"), before=f"{c} before", after=c
            )
            for c in values
        ]
        or [pl.DataFrame(schema=dict.fromkeys(("key", "column", "before", "after"), pl.String))]
    )


def _texts(values: pl.Series) -> pl.Series:
    """Values as text; bytes (geometry) and lists, which do not cast to text, as hex and as JSON."""
    if values.dtype == pl.Binary:
        return values.bin.encode("hex")
    if isinstance(values.dtype, pl.List):
        lists = values.rename("of").cast(pl.List(pl.String)).to_frame()
        text = pl.struct("of").struct.json_encode().str.strip_prefix('{"of":').str.strip_suffix("}")
        return lists.select(pl.when(pl.col("of").is_not_null()).then(text)).to_series()
    return values.cast(pl.String)
