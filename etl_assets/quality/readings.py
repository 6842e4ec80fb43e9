"""Reading a source's text: expressions that give null where a value cannot be read as what it should be."""

from __future__ import annotations

import polars as pl


def exact(text: pl.Expr, kind: pl.Decimal) -> pl.Expr:
    """A decimal that loses nothing: what has more digits than the type, or is no plain number, is not read."""
    plain = rf"^-?\d{{1,{kind.precision - kind.scale}}}(\.\d{{1,{kind.scale}}})?$"
    return pl.when(text.str.contains(plain)).then(text).cast(kind, strict=False)


def moment(text: pl.Expr) -> pl.Expr:
    """A moment of any offset, with fractions of a second or without; one without an offset is UTC."""
    whole = pl.when(text.str.contains(r"(Z|[+-]\d\d:\d\d)$")).then(text).otherwise(text + "Z")
    return whole.str.to_datetime("%+", time_unit="us", time_zone="UTC", strict=False)


def optional(rows: pl.DataFrame, name: str) -> pl.Expr:
    """A column that the source does not always have: null where it has not."""
    return pl.col(name) if name in rows.columns else pl.lit(None, pl.String)
